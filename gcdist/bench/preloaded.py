"""Imported by the process that the benchmark's ranks are forked from: what every rank would load is loaded once."""

from __future__ import annotations

import gcdist.bench.processes  # noqa: F401
from gcdist.bench.schemes import SCHEMES
from gcdist.exchange.kernel_cache import warm_kernels
from gcdist.quantize import get_quantizer

for name in {scheme.quantizer["name"] for scheme in SCHEMES.values()}:
    warm_kernels(get_quantizer(name))
