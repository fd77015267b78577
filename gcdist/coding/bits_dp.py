"""Exact bit allocation by dynamic programming over the budget (math section 3, a)."""

from __future__ import annotations

import numpy as np

from gcdist.types import F64, I64


def dynamic_programme(gain_NW: F64, width_W: I64, budget: int) -> I64:
    """The bits (N,) that maximise ``sum_i f_i(b_i)`` under ``sum_i b_i <= budget``; ties to fewer bits.

    ``gain_NW[i, w]`` is f_i at ``width_W[w]`` bits, with width 0 first and gain 0 there; -inf marks the widths
    forbidden to worker i. Time O(N W budget) in O(N W) vector operations, memory N budget bytes.

    >>> gain = np.array([[0.0, 1.0, 5.0], [0.0, 3.0, 4.0]])
    >>> dynamic_programme(gain, np.array([0, 1, 2]), 3).tolist()
    [2, 1]
    """
    n, widths = gain_NW.shape
    best = np.zeros(budget + 1)  # best[c]: the highest sum over the workers so far with at most c bits
    choice_NC = np.zeros((n, budget + 1), np.uint8)
    for i in range(n):
        before, best = best, best.copy()
        for w in range(1, widths):
            b, f = int(width_W[w]), gain_NW[i, w]
            if b > budget or f <= 0:
                continue
            found = before[: budget + 1 - b] + f
            better = found > best[b:]
            np.copyto(best[b:], found, where=better)
            choice_NC[i, b:][better] = w
    bits_N, left = np.zeros(n, np.int64), budget
    for i in range(n - 1, -1, -1):
        bits_N[i] = width_W[choice_NC[i, left]]
        left -= int(bits_N[i])
    return bits_N
