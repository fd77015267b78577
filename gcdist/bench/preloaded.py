"""Imports of all ranks, made once in the process from which the benchmark forks its ranks."""

from __future__ import annotations

import gcdist.bench.processes  # noqa: F401
from gcdist.bench.schemes import SCHEMES
from gcdist.exchange.kernel_cache import warm_kernels
from gcdist.quantize import get_quantizer

for name in {scheme.quantizer["name"] for scheme in SCHEMES.values()}:
    warm_kernels(get_quantizer(name))
