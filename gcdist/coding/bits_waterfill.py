"""Bit allocation as the papers do it: activate the k most reliable workers and water-fill (paper 2; math section 3,
b).
"""

from __future__ import annotations

import numpy as np

from gcdist.types import F64, I64

_HALVINGS = 60


def water_fill(gain_NW: F64, width_W: I64, budget: int, reliability_N: F64) -> I64:
    """Bits (N,) at the best k, where the k most reliable workers share the budget by water-filling; not exact.

    For each k the multiplier is bisected; the inner maximum of ``f_i(b) - lambda b`` is taken over the table because it
    is not unimodal. Leftover bits go to the best gain, one worker at a time; then bits move between workers while the
    sum rises. An equal split over the k workers is a candidate, too. Arguments as `dynamic_programme`;
    ``reliability_N`` orders the workers (1 - p). O(n^2 W): for small n.
    """
    order = np.argsort(-reliability_N, kind="stable")
    order = order[gain_NW[order].max(axis=1) > 0]
    best_N, best = np.zeros(len(gain_NW), np.int64), 0.0
    first = int(width_W[1]) if len(width_W) > 1 else budget + 1
    for k in range(1, min(len(order), budget // first) + 1):
        rows = order[:k]
        table = gain_NW[rows]
        for at in (_by_multiplier(table, width_W, budget), _equally(table, width_W, budget)):
            if at is None:
                continue
            at = _raise_greedily(table, width_W, at, budget)
            at = _move_bits(table, width_W, at)
            gain = float(table[np.arange(k), at].sum())
            if gain > best:
                best, best_N = gain, np.zeros(len(gain_NW), np.int64)
                best_N[rows] = width_W[at]
    return best_N


def _by_multiplier(table: F64, width_W: I64, budget: int) -> I64 | None:
    """Columns that maximise ``f - lambda b`` with every worker active, at the smallest lambda that keeps the budget."""

    def at(multiplier: float) -> I64:
        return np.asarray(1 + np.argmax(table[:, 1:] - multiplier * width_W[1:], axis=1), np.int64)

    low, high = 0.0, float(np.max(table)) + 1.0
    if width_W[at(high)].sum() > budget:
        return None
    if width_W[at(low)].sum() <= budget:
        return at(low)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if width_W[at(middle)].sum() > budget else (low, middle)
    return at(high)


def _equally(table: F64, width_W: I64, budget: int) -> I64 | None:
    """The widest common width that fits and that every worker may use."""
    for w in range(len(width_W) - 1, 0, -1):
        if width_W[w] * len(table) <= budget and np.all(table[:, w] > -np.inf):
            return np.full(len(table), w)
    return None


def _raise_greedily(table: F64, width_W: I64, at: I64, budget: int) -> I64:
    """Spend leftover bits on the next width with the best gain per bit, one worker at a time."""
    at, rows = at.copy(), np.arange(len(table))
    left = budget - int(width_W[at].sum())
    last = len(width_W) - 1
    while left > 0:
        up = np.minimum(at + 1, last)
        cost = width_W[up] - width_W[at]
        rise = np.where((cost > 0) & (cost <= left), table[rows, up] - table[rows, at], -np.inf)
        ratio = rise / np.maximum(cost, 1)
        i = int(np.argmax(ratio))
        if not ratio[i] > 0:
            break
        at[i] += 1
        left -= int(cost[i])
    return at


def _move_bits(table: F64, width_W: I64, at: I64) -> I64:
    """Move one width step from the worker that loses least to the one that gains most while the sum rises."""
    at, rows, last = at.copy(), np.arange(len(table)), len(width_W) - 1
    for _ in range(4 * len(table) * len(width_W)):
        up, down = np.minimum(at + 1, last), at - 1
        rise = np.where(up > at, table[rows, up] - table[rows, at], -np.inf)
        fall = np.where(at > 1, table[rows, at] - table[rows, down], np.inf)
        # steps of equal size only, so that the budget holds for every set of widths
        takes, gives = int(np.argmax(rise)), int(np.argmin(fall))
        same = width_W[up[takes]] - width_W[at[takes]] <= width_W[at[gives]] - width_W[down[gives]]
        if takes == gives or not same or not rise[takes] > fall[gives] * (1 + 1e-12):
            break
        at[takes] += 1
        at[gives] -= 1
    return at
