"""Load-aware planning: p depends on how many partitions a worker computes (math section 4, Load).

Every worker computes ``l_i`` whole partitions, ``sum l_i = k``, and misses the deadline with probability ``p_i(l_i)``.
Minimise ``sum_i l_i^2 (p_i(l_i) + omega(b_i))/(1 - p_i(l_i))``. All loads are solved at once, because solving p and
code in turn oscillates.
"""

from __future__ import annotations

import numpy as np

from gcdist.coding.bits_dp import dynamic_programme
from gcdist.coding.bits_envelope import envelope
from gcdist.coding.optimal import row_costs
from gcdist.types import F64, I64, Problem

EXACT_LIMIT = 1e9  # n * k * largest load up to which loads are solved by dynamic programming
_TIE = 1e-12  # of one unit of cost at load 1: equal designs share the work
_HALVINGS = 50


def late_table(problem: Problem) -> F64:
    """``p_i(l)`` (N, L+1) for whole loads l = 0..L, with p(0) = 0 and 1 above the worker's load cap.

    L is k, or 64 times the mean load where the exact table would be beyond `EXACT_LIMIT`.
    """
    n, k = problem.n, problem.k
    top = k if n * k * k <= EXACT_LIMIT else min(k, 64 * -(-k // n))
    load_L = np.arange(1, top + 1, dtype=np.float64)
    p_NL = np.zeros((n, top + 1))
    for i in range(n):
        p_L = np.asarray(problem.late(i, load_L), np.float64)
        if not np.all((p_L >= 0) & (p_L <= 1)):
            raise ValueError(f"p of worker {i + 1} leaves [0, 1]: {p_L[~((p_L >= 0) & (p_L <= 1))][0]}")
        p_NL[i, 1:] = np.where(load_L <= problem.load_cap_N[i], p_L, 1.0)
    return p_NL


def depends_on_load(problem: Problem) -> bool:
    """Whether some worker's p changes between loads 1 and k (the papers: never)."""
    probe = np.unique(np.geomspace(1, max(1, problem.k), 16).round())
    return any(float(np.ptp(problem.late(i, probe))) > 0 for i in range(problem.n))


def best_loads(cost_NL: F64, total: int) -> I64:
    """Whole loads (N,) with ``sum l = total`` that minimise ``sum_i h_i(l_i)`` for any table h (N, L+1); exact.

    Separable dynamic programme, O(N total L) in O(N L) vector operations. ValueError if every choice costs infinity.

    >>> best_loads(np.array([[0.0, 1.0, 4.0, 9.0], [0.0, 2.0, 8.0, 18.0]]), 3).tolist()
    [2, 1]
    """
    n, loads = cost_NL.shape
    best = np.full(total + 1, np.inf)
    best[0] = 0.0
    choice_NT = np.zeros((n, total + 1), np.int32)
    for i in range(n):
        before, best = best, best + cost_NL[i, 0]
        for load in range(1, min(loads - 1, total) + 1):
            if not np.isfinite(cost_NL[i, load]):
                continue
            found = before[: total + 1 - load] + cost_NL[i, load]
            better = found < best[load:]
            np.copyto(best[load:], found, where=better)
            choice_NT[i, load:][better] = load
    if not np.isfinite(best[total]):
        raise ValueError(f"no loads that sum to {total} leave every used worker a chance to arrive")
    load_N, left = np.zeros(n, np.int64), total
    for i in range(n - 1, -1, -1):
        load_N[i] = choice_NT[i, left]
        left -= int(load_N[i])
    return load_N


def loads_by_derivative(cost_NL: F64, total: int) -> I64:
    """As `best_loads`, by bisection on the common derivative: ``l_i(lambda) = argmin h_i(l) - lambda l``; O(N L).

    Exact for convex rows (all tried rows of shifted-exponential delays were convex). The partitions left after the last
    step go to the cheapest single additions.
    """
    load_L = np.arange(cost_NL.shape[1])

    def at(slope: float) -> I64:
        return np.asarray(np.argmin(cost_NL - slope * load_L, axis=1), np.int64)

    low, high = 0.0, 1.0
    while at(high).sum() < total:
        high *= 4
        if high > 1e300:
            raise ValueError(f"no loads that sum to {total} leave every used worker a chance to arrive")
    for _ in range(2 * _HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if at(middle).sum() < total else (low, middle)
    load_N, rows = at(low), np.arange(len(cost_NL))
    while load_N.sum() < total:
        up = np.minimum(load_N + 1, cost_NL.shape[1] - 1)
        rise = np.where(up > load_N, cost_NL[rows, up] - cost_NL[rows, load_N], np.inf)
        load_N[int(np.argmin(rise))] += 1
    return load_N


def load_costs(p_NL: F64, omega_N: F64 | float) -> F64:
    """``h_i(l) = l^2 (p_i(l) + omega_i)/(1 - p_i(l))`` (N, L+1); 0 at load 0, inf where it cannot arrive."""
    load_L = np.arange(p_NL.shape[1], dtype=np.float64)
    cost_NL = row_costs(p_NL, np.broadcast_to(np.asarray(omega_N, np.float64), len(p_NL))[:, None])
    with np.errstate(invalid="ignore"):
        h_NL = load_L**2 * (cost_NL + _TIE)
    h_NL[:, 0] = 0.0
    return np.asarray(h_NL, np.float64)


def solved_loads(cost_NL: F64, total: int, limit: float = EXACT_LIMIT) -> I64:
    """Loads (N,) by `best_loads` where that takes at most ``limit`` sums, else by `loads_by_derivative`."""
    exact = len(cost_NL) * total * cost_NL.shape[1] <= limit
    return (best_loads if exact else loads_by_derivative)(cost_NL, total)


def plan_loads(problem: Problem) -> I64:
    """Loads (N,) for a code that ignores quantization (`osgc`)."""
    return solved_loads(load_costs(late_table(problem), 0.0), problem.k)


def bits_for_rows(weight_N: F64, problem: Problem) -> I64:
    """Bits (N,) that minimise ``sum_i weight_i omega(b_i)`` over the rows of positive weight, each at least the least
    width.

    ``weight_i`` is ``|v_i|^2/(1-p_i)``: for row sums that are fixed. ValueError if the budget is below one width a row.
    """
    active = np.flatnonzero(weight_N > 0)
    width_W = np.flatnonzero(np.isfinite(problem.noise))
    cap_N = np.asarray(problem.bits_cap_N, np.int64)[active]
    base = int(width_W[0])
    if np.any(cap_N < base) or active.size * base > problem.bits_total:
        raise ValueError(
            f"bits_total {problem.bits_total:g} or a bits cap pays for less than {base} bits on {active.size} rows"
        )
    fall_NW = weight_N[active][:, None] * (problem.noise[base] - problem.noise[width_W])[None, :]
    fall_NW[width_W[None, :] > cap_N[:, None]] = -np.inf
    budget = int(min(problem.bits_total, float(np.minimum(cap_N, width_W[-1]).sum()))) - active.size * base
    exact = active.size * (budget + 1) * len(width_W) <= EXACT_LIMIT
    extra = (
        dynamic_programme(fall_NW, width_W - base, budget) if exact else envelope(fall_NW, width_W - base, budget)[0]
    )
    bits_N = np.zeros(problem.n, np.int64)
    bits_N[active] = base + extra
    return bits_N
