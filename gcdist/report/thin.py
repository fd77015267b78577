"""Long series made short for a page: bins of equal numbers of steps, few digits."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from gcdist.types import F64, Mask

POINTS = 600  # of a line: about the resolution of a wide screen
CELLS = 300  # of a heat map's row
AWAY, TIMED = "-", "."


def bins(length: int, most: int) -> list[slice]:
    """``length`` cut into at most ``most`` parts of equal size (the last may be smaller).

    >>> bins(5, 3)
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    size = max(1, math.ceil(length / most))
    return [slice(at, min(at + size, length)) for at in range(0, length, size)]


def short(value: float, digits: int = 4) -> float | int | None:
    """A number with few digits; None if it is not finite.

    >>> short(0.123456), short(float("nan")), short(1200.0)
    (0.1235, None, 1200)
    """
    if not math.isfinite(value):
        return None
    rounded = float(f"{value:.{digits}g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e15 else rounded


def shortened(values: F64, digits: int = 4) -> list[float | int | None]:
    """All of them."""
    return [short(float(value), digits) for value in values]


def means(values_T: F64, cut: list[slice]) -> F64:
    """The mean of the known values in each bin; NaN without one."""
    return _each(values_T, cut, np.nanmean)


def lows(values_T: F64, cut: list[slice]) -> F64:
    """The least in each bin."""
    return _each(values_T, cut, np.nanmin)


def highs(values_T: F64, cut: list[slice]) -> F64:
    """The largest in each bin."""
    return _each(values_T, cut, np.nanmax)


def _each(values_T: F64, cut: list[slice], of: Callable[[F64], Any]) -> F64:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # bins without known values
        return np.array([of(values_T[each]) for each in cut], np.float64)


def heat_row(counted_T: Mask, away_T: Mask, asked_T: Mask, cut: list[slice]) -> str:
    """A worker's row of the heat map, a character a bin: 0 to 9, the share that counted of the steps that asked it.

    ``-`` if it was away all the time, ``.`` if it was present and no plan asked it for a gradient.

    >>> counted, away = np.array([True, True, False, False, False]), np.array([False, False, False, True, False])
    >>> heat_row(counted, away, np.array([True, True, True, True, False]), bins(5, 5))
    '990-.'
    """
    row = []
    for each in cut:
        there = ~away_T[each]
        wanted = there & asked_T[each]
        if wanted.any():
            row.append(str(round(9 * float(counted_T[each][wanted].mean()))))
        else:
            row.append(TIMED if there.any() else AWAY)
    return "".join(row)
