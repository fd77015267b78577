"""Gradient codes and data allocation: pure mathematics on numpy and scipy."""

from gcdist.coding.bits import BitAllocation, allocate_bits
from gcdist.coding.optimal import row_costs, row_sums, total_gain
from gcdist.coding.registry import WAITING, code_names, get_code

__all__ = [
    "WAITING",
    "BitAllocation",
    "allocate_bits",
    "code_names",
    "get_code",
    "row_costs",
    "row_sums",
    "total_gain",
]
