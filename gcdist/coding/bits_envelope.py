"""Bit allocation by upper concave envelopes, with a certified gap (math section 3, c): about linear in workers."""

from __future__ import annotations

import numpy as np

from gcdist.coding.bits_dp import dynamic_programme
from gcdist.types import F64, I64


def envelope(gain_NW: F64, width_W: I64, budget: int) -> tuple[I64, float]:
    """Bits (N,) and an upper bound of every feasible ``sum_i f_i(b_i)``; arguments as `dynamic_programme`.

    Bits go to the segments of all envelopes by falling slope. The first segment that does not fit gives the bound: no
    allocation gains more than its slope times the bits left. These bits (fewer than one segment) go to the best set of
    jumps from each worker's current width, so that no worker takes a later segment without the earlier ones.
    """
    vertex_NV = _envelopes(gain_NW, width_W)
    row, start, stop = _segments(vertex_NV)
    length = width_W[stop] - width_W[start]
    slope = (gain_NW[row, stop] - gain_NW[row, start]) / length
    order = np.argsort(-slope, kind="stable")  # a worker's segments stay in order: its slopes fall strictly
    spent = np.cumsum(length[order])
    fit = int(np.searchsorted(spent, budget, side="right"))
    taken = order[:fit]
    at_N = np.zeros(len(gain_NW), np.int64)
    np.maximum.at(at_N, row[taken], stop[taken])
    gain = float(gain_NW[np.arange(len(gain_NW)), at_N].sum())
    if fit == len(order):
        return width_W[at_N], gain
    left = budget - (int(spent[fit - 1]) if fit else 0)
    upper = gain + float(slope[order[fit]]) * left
    return width_W[_spend(gain_NW, width_W, at_N, left)], upper


def _envelopes(gain_NW: F64, width_W: I64) -> I64:
    """Vertices (N, V) of each row's upper concave envelope as columns of the table; -1 after the last rising one."""
    n, widths = gain_NW.shape
    at_N, gain_N = np.zeros(n, np.int64), gain_NW[:, 0].copy()
    vertices = [at_N]
    while True:
        best_N, next_N = np.zeros(n), np.full(n, -1)
        for w in range(1, widths):
            with np.errstate(divide="ignore", invalid="ignore"):
                slope_N = (gain_NW[:, w] - gain_N) / (width_W[w] - width_W[at_N])
            better = (w > at_N) & (at_N >= 0) & (slope_N >= best_N) & (slope_N > 0)
            best_N = np.where(better, slope_N, best_N)
            next_N[better] = w
        if not (next_N > 0).any():
            return np.stack(vertices, axis=1)
        vertices.append(next_N)
        at_N = next_N
        gain_N = gain_NW[np.arange(n), np.maximum(next_N, 0)]


def _segments(vertex_NV: I64) -> tuple[I64, I64, I64]:
    """(worker, first column, last column) of every envelope segment, each worker's in order."""
    row, v = np.nonzero(vertex_NV[:, 1:] > 0)
    return row, vertex_NV[row, v], vertex_NV[row, v + 1]


def _spend(gain_NW: F64, width_W: I64, at_N: I64, left: int) -> I64:
    """Columns (N,) after the best use of ``left`` bits by raising workers from ``at_N``; exact.

    An optimal set has at most ``left // m`` jumps of m bits, so the ``left // m`` best of each length are enough.
    """
    base_N, width_N = gain_NW[np.arange(len(at_N)), at_N], width_W[at_N]
    candidates: set[int] = set()
    for m in range(1, left + 1):
        target_N = np.searchsorted(width_W, width_N + m)
        possible = np.flatnonzero(
            (target_N < len(width_W)) & (width_W[np.minimum(target_N, len(width_W) - 1)] == width_N + m)
        )
        rise = gain_NW[possible, target_N[possible]] - base_N[possible]
        keep = min(left // m, possible.size)
        if keep:
            candidates.update(possible[np.argpartition(-rise, keep - 1)[:keep]].tolist())
    rows = np.array(sorted(candidates), np.int64)
    if not rows.size:
        return at_N
    jump_W = np.arange(left + 1)
    target = np.searchsorted(width_W, width_N[rows][:, None] + jump_W)
    inside = np.minimum(target, len(width_W) - 1)
    exact = (target < len(width_W)) & (width_W[inside] == width_N[rows][:, None] + jump_W)
    rise = np.where(exact, gain_NW[rows[:, None], inside] - base_N[rows][:, None], -np.inf)
    jumps = dynamic_programme(rise, jump_W, left)
    at_N = at_N.copy()
    at_N[rows] = np.searchsorted(width_W, width_N[rows] + jumps)
    return at_N
