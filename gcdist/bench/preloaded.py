"""Imported by the process that the benchmark's ranks are forked from: what every rank would load is loaded once."""

from __future__ import annotations

import gcdist.bench.processes  # noqa: F401
from gcdist.bench.schemes import SCHEMES
from gcdist.quantize import get_quantizer
from gcdist.runtime.warm import warm_kernels

for name in {scheme.quantizer["name"] for scheme in SCHEMES.values()}:
    warm_kernels(get_quantizer(name))
