"""Gradient codes and data allocation: pure mathematics on numpy and scipy."""

from gcdist.coding.base import BaseCode
from gcdist.coding.bits import BitAllocation, allocate_bits
from gcdist.coding.errors import (
    spectral_ratio,
    worst_error,
)
from gcdist.coding.flow import least_noise
from gcdist.coding.optimal import row_costs, row_sums, total_gain
from gcdist.coding.registry import code_names, code_options, get_code, register_code

__all__ = [
    "BaseCode",
    "BitAllocation",
    "allocate_bits",
    "code_names",
    "code_options",
    "get_code",
    "least_noise",
    "register_code",
    "row_costs",
    "row_sums",
    "spectral_ratio",
    "total_gain",
    "worst_error",
]
