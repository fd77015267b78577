"""Gradient codes and data allocation: pure mathematics on numpy and scipy."""

from gcdist.coding.bits import BitAllocation, allocate_bits
from gcdist.coding.errors import (
    best_coefficients,
    dependent_error,
    exact_error,
    exact_error_of_samples,
    spectral_ratio,
    spread_error,
    worst_error,
)
from gcdist.coding.flow import least_noise
from gcdist.coding.optimal import row_costs, row_sums, total_gain
from gcdist.coding.registry import WAITING, code_names, get_code

__all__ = [
    "WAITING",
    "BitAllocation",
    "allocate_bits",
    "best_coefficients",
    "code_names",
    "dependent_error",
    "exact_error",
    "exact_error_of_samples",
    "get_code",
    "least_noise",
    "row_costs",
    "row_sums",
    "spectral_ratio",
    "spread_error",
    "total_gain",
    "worst_error",
]
