"""Order statistics of a few values."""

from __future__ import annotations

import numpy as np

from gcdist.types import F64


def quantile(value_T: F64, share: float) -> float:
    """``np.quantile`` of a few values, several times as fast.

    >>> quantile(np.array([3.0, 1.0, 2.0]), 0.75)
    2.5
    """
    sorted_T = np.array(value_T)
    sorted_T.sort()
    at = share * (len(sorted_T) - 1)
    low = int(at)
    high = min(low + 1, len(sorted_T) - 1)
    first, second = sorted_T.item(low), sorted_T.item(high)
    return float(first + (at - low) * (second - first))
