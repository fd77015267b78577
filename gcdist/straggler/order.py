"""Order statistics of a few values."""

from __future__ import annotations

import numpy as np

from gcdist.types import F64


def quantile(value_T: F64, share: float) -> float:
    """``np.quantile`` of a few values, several times as fast.

    >>> quantile(np.array([3.0, 1.0, 2.0]), 0.75)
    2.5
    """
    sorted_T = np.sort(value_T)
    at = share * (len(sorted_T) - 1)
    low = int(at)
    high = min(low + 1, len(sorted_T) - 1)
    return float(sorted_T[low] + (at - low) * (sorted_T[high] - sorted_T[low]))
