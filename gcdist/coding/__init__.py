"""Gradient codes and data allocation: pure mathematics on numpy and scipy."""

from gcdist.coding.optimal import row_costs, row_sums, total_gain
from gcdist.coding.registry import code_names, get_code

__all__ = ["code_names", "get_code", "row_costs", "row_sums", "total_gain"]
