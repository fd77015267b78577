"""Chains under load caps: rows lie in some order on one line of partitions, with at most a cap of them each.

Minimise ``sum_i c_i Y_i^2`` over the order and the cuts between rows. For a few orders, a dynamic programme over a grid
of cuts finds the partitions of each row; within these, a taut string through gates gives the best cuts exactly.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.sparse import coo_array, csr_array

from gcdist.coding.flow import capped_row_sums, positive_costs
from gcdist.coding.supports import chain
from gcdist.types import F64, I64

FINEST = 12  # cuts a partition
_WINDOW = 64  # partitions searched to either side of a cut; first cuts are those of caps on row sums alone
_WORK = 1e7  # most sums of one dynamic programme ...
_CALLS = 2e4  # ... and most array operations
_CLOSE, _LARGE_CLOSE = 1e-3, 2e-2  # relative noise above the lower bound that ends the search; for many rows
_LARGE = 200  # rows: above, `_LARGE_CLOSE` ends the search


def chain_under_caps(cost_N: F64, cap_N: F64, mass_K: F64) -> csr_array:
    """The best alpha (N, K) found within load caps (N,): columns sum to 1, rows that cost infinity are empty.

    Whole loads are among the candidates. At most 2% above the best of all supports for equal partitions in 1,000 random
    problems (n <= 4, by brute force); partitions of different sizes are not exchanged. ValueError if the caps of the usable
    rows do not reach all partitions.
    """
    k = len(mass_K)
    count_N = np.where(np.isfinite(cost_N), np.floor(np.minimum(cap_N, k)), 0).astype(np.int64)
    if count_N.sum() < k:
        raise ValueError(f"load caps allow {count_N.sum()} of the {k} partitions")
    rows = np.flatnonzero(count_N)
    cost_R, count_R = positive_costs(cost_N)[rows], count_N[rows]
    column_K = np.argsort(-mass_K, kind="stable")  # the most reliable rows begin, with the largest partitions
    sorted_K = mass_K[column_K]
    most_R = np.concatenate([[0.0], np.cumsum(sorted_K)])[count_R]
    relaxed_R = capped_row_sums(cost_R, float(mass_K.sum()), most_R)
    bound, best, found = float(cost_R @ relaxed_R**2), np.inf, None
    for order_R in _orders(cost_R, count_R, relaxed_R):
        Y_R = np.diff(best_cuts(cost_R[order_R], count_R[order_R], sorted_K, relaxed_R[order_R]))
        noise = float(cost_R[order_R] @ Y_R**2)
        if noise < best:
            best, found = noise, (order_R, Y_R)
        if best <= bound * (1 + (_CLOSE if len(rows) <= _LARGE else _LARGE_CLOSE)):
            break
    assert found is not None
    at = chain(found[1], sorted_K).tocoo()
    place = rows[found[0][at.row]], column_K[at.col]
    alpha = csr_array(coo_array((at.data, place), shape=(len(cost_N), k)))
    alpha.sort_indices()
    return alpha


def _orders(cost_R: F64, count_R: I64, relaxed_R: F64) -> Iterator[I64]:
    """Orders (R,) of rows to try: reliable rows first, full rows first, and full rows beside those with room."""
    yield np.argsort(cost_R, kind="stable")
    slack = np.argsort(count_R - relaxed_R, kind="stable")
    yield slack
    mixed = np.empty_like(slack)
    mixed[0::2], mixed[1::2] = slack[: -(-len(slack) // 2)], slack[::-1][: len(slack) // 2]
    yield mixed


def best_cuts(cost_R: F64, count_R: I64, mass_K: F64, relaxed_R: F64) -> F64:
    """The best cuts (R + 1,) from 0 to ``sum mass_K`` found for rows in this order.

    Args:
        cost_R: positive, finite.
        count_R: load cap of each row in partitions, 1 or more; together at least the number of partitions.
        mass_K: of the partitions, in order.
        relaxed_R: row sums with the same total; the search for cuts begins near them.
    """
    k, rows, most = len(mass_K), len(cost_R), int(count_R.max())
    edge_K = np.concatenate([[0.0], np.cumsum(mass_K)])
    middle_R = np.interp(np.concatenate([[0.0], np.cumsum(relaxed_R)]), edge_K, np.arange(k + 1))
    window, cut_R, fine = min(k, _WINDOW), None, 1
    while cut_R is None:
        fine = int(min(FINEST, np.sqrt(_WORK / (2.0 * rows * most * window)), _CALLS / (rows * most)))
        fine = max(1, fine)
        cut_R = _on_grid(cost_R, count_R, edge_K, fine, middle_R, window)
        window = min(k, 4 * window)  # the last window holds all partitions: whole loads are a solution there
    used = np.flatnonzero(np.diff(cut_R))  # an idle row between two others must not get a share when cuts move
    Y_R = np.zeros(rows)
    Y_R[used] = np.diff(_relaxed(cut_R[np.append(0, used + 1)], cost_R[used], count_R[used], edge_K, fine))
    return np.asarray(np.concatenate([[0.0], np.cumsum(Y_R)]), np.float64)


def _on_grid(cost_R: F64, count_R: I64, edge_K: F64, fine: int, middle_R: F64, window: int) -> I64 | None:
    """The best cuts (R + 1,) within the window, as grid points 0 .. k fine (``fine`` a partition); None if none fit."""
    k = len(edge_K) - 1
    points = k * fine + 1
    at_P = np.interp(np.arange(points) / fine, np.arange(k + 1), edge_K)
    first_P, last_P = np.arange(points) // fine, -(-np.arange(points) // fine)
    low_R = np.maximum(0, (np.floor(middle_R).astype(np.int64) - window) * fine)
    high_R = np.minimum(points, (np.ceil(middle_R).astype(np.int64) + window) * fine + 1)
    low_R[0], high_R[0], low_R[-1], high_R[-1] = 0, 1, points - 1, points
    best_P, lengths = np.zeros(1), []
    for r, cost in enumerate(cost_R):
        before_P, start, (low, high) = best_P, int(low_R[r]), (int(low_R[r + 1]), int(high_R[r + 1]))
        end, count = start + len(before_P), int(count_R[r])
        best_P, length_P = np.full(high - low, np.inf), np.zeros(high - low, np.int32)
        for length in range(min(count, k) * fine + 1):
            a, b = max(low, start + length), min(high, end + length)
            if a >= b:
                continue
            to, since = slice(a, b), slice(a - length, b - length)
            tried = before_P[a - length - start : b - length - start] + cost * (at_P[to] - at_P[since]) ** 2
            better = tried < best_P[a - low : b - low]
            if length:
                better &= last_P[to] - first_P[since] <= count
            np.copyto(best_P[a - low : b - low], tried, where=better)
            length_P[a - low : b - low][better] = length
        lengths.append(length_P)
    if not np.isfinite(best_P[-1]):
        return None
    cut_R = np.zeros(len(cost_R) + 1, np.int64)
    cut_R[-1] = points - 1
    for r in range(len(cost_R) - 1, -1, -1):
        cut_R[r] = cut_R[r + 1] - lengths[r][cut_R[r + 1] - low_R[r + 1]]
    return cut_R


def _relaxed(cut_R: I64, cost_R: F64, count_R: I64, edge_K: F64, fine: int) -> F64:
    """Real cuts: a cut in a partition moves within it; a cut on an edge moves to a side where a row has room."""
    low_R, high_R = cut_R // fine, -(-cut_R // fine)  # gates, as edges
    x_R = np.concatenate([[0.0], np.cumsum(1 / cost_R)])
    while True:
        at_R = taut(x_R, edge_K[low_R], edge_K[high_R])
        slope_R = cost_R * np.diff(at_R)
        load_R = high_R[1:] - low_R[:-1]
        moved = False
        for r in np.flatnonzero(low_R[1:-1] == high_R[1:-1]):
            if slope_R[r] < slope_R[r + 1] * (1 - 1e-9) and load_R[r] < count_R[r]:
                high_R[r + 1] += 1
                load_R[r] += 1
                moved = True
            elif slope_R[r + 1] < slope_R[r] * (1 - 1e-9) and load_R[r + 1] < count_R[r + 1]:
                low_R[r + 1] -= 1
                load_R[r + 1] += 1
                moved = True
        if not moved:
            return at_R


def taut(x_R: F64, low_R: F64, high_R: F64) -> F64:
    """The shortest path over increasing ``x_R`` through the gates ``[low, high]``, whose ends are points: heights (R,).

    It minimises ``sum (difference of heights)^2/(difference of x)``.

    >>> taut(np.array([0.0, 1.0, 2.0]), np.array([0.0, 2.0, 3.0]), np.array([0.0, 3.0, 3.0])).tolist()
    [0.0, 2.0, 3.0]
    """
    end, at = len(x_R) - 1, 0
    height_R = low_R.copy()
    while at < end:
        low, high, low_at, high_at, bend = -np.inf, np.inf, at, at, end
        for r in range(at + 1, end + 1):
            down, up = ((gate_R[r] - height_R[at]) / (x_R[r] - x_R[at]) for gate_R in (low_R, high_R))
            if down > high:
                bend, height_R[high_at] = high_at, high_R[high_at]
                break
            if up < low:
                bend, height_R[low_at] = low_at, low_R[low_at]
                break
            if down >= low:
                low, low_at = down, r
            if up <= high:
                high, high_at = up, r
        between = np.arange(at + 1, bend)
        rise = (height_R[bend] - height_R[at]) / (x_R[bend] - x_R[at])
        height_R[between] = height_R[at] + (x_R[between] - x_R[at]) * rise
        at = bend
    return height_R
