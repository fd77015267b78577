"""Loads of rows that are cut at the deadline: a slow worker computes less (math section 10)."""

from __future__ import annotations

import numpy as np

from gcdist.coding.optimal import row_costs
from gcdist.types import F64, I64, Problem

FIRST_LOOK = 8  # even loads that are looked at first: all loads up to k for each of n workers would be n k numbers


def cut_costs(
    p_N: F64,
    omega_N: F64,
    excess_NL: F64,
    spread: float,
    k: int,
    row_NL: F64 | float = 1.0,
    rows_spread: float | None = None,
) -> F64:
    """Noise over ``|g|^2`` that each worker adds at each load, (N, L+1); column l is the load l, column 0 is 0.

    ``(p+omega)/(1-p) |y|^2/|g|^2 + (1+omega)/(1-p) E[l^2/m - l] S^2/|g|^2``: the two sums of section 10 for partitions
    of equal mass. Partitions with the mean g/k and the variance S^2 that differ by chance have
    ``|y|^2 = (l/k)^2 (|g|^2 - k S^2) + l S^2``. Here ``l S^2`` is taken as ``l^2 n S^2/k``, the same at even loads (our
    choice: a term in proportion to l would give all partitions to the workers with the least estimated p, whose
    estimates are low by luck).

    Leading axes (several deadlines at once) may stand before all of these.

    Args:
        p_N: chance that a worker sends nothing, (N,).
        omega_N: quantization noise of its message, (N,).
        excess_NL: ``E[l^2/m - l | m >= 1]`` at the loads 1 to L, (N, L).
        spread: ``S^2/|g|^2``, how much partitions differ.
        k: number of partitions.
        row_NL: what a shift leaves of ``|y|^2``, (N, L).
        rows_spread: ``spread`` by what rows differ by, for the first sum; None: partitions differ by chance, so it is the
            same.
    """
    apart = spread if rows_spread is None else rows_spread
    load_L = np.arange(1, excess_NL.shape[-1] + 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        absent_N = row_costs(p_N, omega_N)
        arrived_N = (1 + omega_N) / (1 - p_N)
        row_L = (max(0.0, 1 - k * apart) + p_N.shape[-1] * k * apart) * (load_L / k) ** 2
        cost_NL = absent_N[..., None] * row_L * row_NL + spread * arrived_N[..., None] * excess_NL
    usable_N = (p_N < 1) & np.isfinite(omega_N)
    cost_NL = np.where(usable_N[..., None], cost_NL, np.inf)
    return np.concatenate([np.zeros((*p_N.shape, 1)), cost_NL], axis=-1)


def cheapest_loads(cost_NL: F64, k: int, cap_N: F64) -> I64:
    """Whole loads (N,) that sum to ``k`` at the least sum of costs, each within its cap.

    Exact where every row of ``cost_NL`` (N, L+1) is convex; measured rows may not be, so the running maximum of their
    increments replaces them. The k cheapest increments are chosen, ties in favour of the smaller load: O(N L).

    Raises:
        ValueError: the caps, or loads of finite cost, do not add up to ``k``.
    """
    step_NL = increments(cost_NL, cap_N)
    flat = step_NL.ravel()
    if int(np.isfinite(flat).sum()) < k:
        raise ValueError(f"{k} partitions do not fit the workers: at most {int(np.isfinite(flat).sum())} do")
    level = np.broadcast_to(np.arange(step_NL.shape[1]), step_NL.shape).ravel()
    chosen = np.lexsort((level, flat))[:k]
    return np.bincount(chosen // step_NL.shape[1], minlength=len(cost_NL)).astype(np.int64)


def increments(cost_NL: F64, cap_N: F64) -> F64:
    """What each further partition costs (N, L), as a running maximum; inf beyond the caps and what a worker can take."""
    with np.errstate(invalid="ignore"):  # inf - inf: beyond what a worker can take
        step_NL = np.diff(cost_NL, axis=1)
    step_NL = np.maximum.accumulate(np.where(np.isnan(step_NL), np.inf, step_NL), axis=1)
    load_L = np.arange(1, step_NL.shape[1] + 1)
    found: F64 = np.where(load_L[None, :] <= np.minimum(cap_N, step_NL.shape[1])[:, None], step_NL, np.inf)
    return found


def cut_plan_loads(problem: Problem, p_N: F64, omega_N: F64) -> I64:
    """The loads (N,) of a plan whose rows are cut; ``problem.excess`` must be there. ValueError: nobody can arrive.

    Only as many loads are looked at as are needed: `cheapest_loads` never takes a load beyond one that it left out.
    """
    assert problem.excess is not None
    cap_N = np.where(p_N < 1, np.minimum(problem.load_cap_N, problem.k), 0)
    most = max(1, int(cap_N.max(initial=0)))
    columns = min(most, FIRST_LOOK * -(-problem.k // max(1, int((cap_N > 0).sum()))))
    while True:
        load_L = np.arange(1, columns + 1, dtype=np.float64)
        excess_NL = np.stack([problem.excess(i, load_L) for i in range(problem.n)])
        cost_NL = cut_costs(p_N, omega_N, excess_NL, problem.spread, problem.k, rows_spread=problem.rows_spread)
        try:
            load_N = cheapest_loads(cost_NL, problem.k, cap_N)
        except ValueError:
            if columns == most:
                raise
        else:
            if columns == most or load_N.max(initial=0) < columns:  # else a larger load may be cheaper
                return load_N
        columns = min(most, 4 * columns)
