"""Parts of a design from a Problem: the usable workers, the bits of an equal split, an owner of each partition."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

from gcdist.coding.owners import assigned
from gcdist.coding.supports import dealt
from gcdist.types import F64, I64, Mask, Plan, Problem


def miss_at(problem: Problem, load_N: F64 | float) -> F64:
    """``p_i = late(i, load_i)``, (N,), each checked to lie in [0, 1]; 1 = absent or hopeless at that load."""
    load_N = np.broadcast_to(np.asarray(load_N, np.float64), (problem.n,))
    p_N = np.array([float(problem.late(i, load_N[i : i + 1])[0]) for i in range(problem.n)])
    bad = np.flatnonzero(~((p_N >= 0) & (p_N <= 1)))
    if bad.size:
        raise ValueError(f"p of worker {bad[0] + 1} at load {load_N[bad[0]]:g} is {p_N[bad[0]]}: it must lie in [0, 1]")
    return p_N


def nominal_miss(problem: Problem) -> F64:
    """p (N,) at the load of an equal split over the workers that are present."""
    present = miss_at(problem, 1.0) < 1
    if not present.any():
        raise ValueError(f"none of the {problem.n} workers is usable: p is 1 for all of them")
    load = max(1.0, problem.k / int(present.sum()))
    p_N = miss_at(problem, load)
    if not (p_N < 1).any():
        raise ValueError(f"none of the {problem.n} workers is usable at a load of {load:g}: p is 1 for all of them")
    return p_N


def width_at_most(noise: F64, bits: float) -> int:
    """The widest packed width of finite noise that ``bits`` pay for; 0 if there is none.

    >>> width_at_most(np.array([np.inf, 2.0, 0.5, np.inf]), 3.7)
    2
    """
    fit = np.flatnonzero(np.isfinite(noise[: max(0, int(min(bits, len(noise) - 1))) + 1]))
    return int(fit[-1]) if fit.size else 0


def equal_bits(problem: Problem, active_N: Mask) -> I64:
    """The same split of ``bits_total`` for every active row, capped by worker, at widths that the quantizer takes.

    ValueError if an active row would get none.
    """
    active = np.flatnonzero(active_N)
    each = problem.bits_total / max(1, active.size)
    bits_N = np.zeros(problem.n, np.int64)
    for i in active:
        bits_N[i] = width_at_most(problem.noise, min(each, float(problem.bits_cap_N[i])))
        if bits_N[i] == 0:
            raise ValueError(
                f"worker {i + 1} gets no bits: bits_total {problem.bits_total:g} over {active.size} rows and cap "
                f"{problem.bits_cap_N[i]} pay for no width with finite noise"
            )
    return bits_N


def deal(problem: Problem, p_N: F64) -> tuple[csr_array, Mask]:
    """Every partition whole on one usable worker, loads balanced within caps; (A_RK, covered_K).

    Contiguous blocks where everybody can read everything (the k most reliable workers if k is smaller), else any
    assignment to holders with the smallest largest load. ValueError if the load caps do not suffice.
    """
    n, k = problem.n, problem.k
    usable = (p_N < 1) & (problem.load_cap_N >= 1)
    if not usable.any():
        raise ValueError(f"none of the {n} workers is usable: p is 1 or the load cap is below 1 for all of them")
    if problem.holds_NK is None:
        return dealt(_balanced(problem, usable, p_N), problem.size_K), np.ones(k, np.bool_)
    holds_NK = problem.holds_NK.toarray() != 0
    able_NK = holds_NK & usable[:, None]
    covered_K: Mask = able_NK.any(axis=0)
    col = np.flatnonzero(covered_K)
    if not col.size:
        raise ValueError("no usable worker can read any partition")
    owner = assigned(csr_array(able_NK[:, col]), np.where(usable, np.minimum(np.floor(problem.load_cap_N), k), 0))
    return csr_array((np.ones(col.size), (owner, col)), shape=(n, k)), covered_K


def _balanced(problem: Problem, usable: Mask, p_N: F64) -> I64:
    """Whole loads (N,) that sum to k, as equal as the caps allow; the remainder goes to the most reliable first."""
    cap_N = np.where(usable, np.minimum(np.floor(problem.load_cap_N), problem.k), 0).astype(np.int64)
    if cap_N.sum() < problem.k:
        raise ValueError(f"load caps allow {cap_N.sum()} of the {problem.k} partitions")
    lo, hi = 0, problem.k  # bisect the highest level whose loads sum to k at most
    while lo < hi:
        mid = (lo + hi + 1) // 2
        lo, hi = (mid, hi) if np.minimum(cap_N, mid).sum() <= problem.k else (lo, mid - 1)
    load_N = np.minimum(cap_N, lo)
    more = np.flatnonzero(cap_N > load_N)
    more = more[np.argsort(p_N[more], kind="stable")][: problem.k - int(load_N.sum())]
    load_N[more] += 1
    return np.asarray(load_N, np.int64)


def loads(A_RK: csr_array) -> I64:
    """Partitions stored in each row, (R,)."""
    return np.asarray(np.diff(A_RK.indptr), np.int64)


def finish(
    problem: Problem, plan_id: int, A_RK: csr_array, bits_N: I64, p_N: F64, covered_K: Mask | None = None
) -> Plan:
    """The Plan of one row a worker and one segment; a row without partitions has no bits."""
    if covered_K is None:
        covered_K = np.ones(problem.k, np.bool_)
    A_RK = csr_array(A_RK, dtype=np.float64)
    bits_RS = np.where(loads(A_RK) > 0, bits_N, 0)[:, None].astype(np.uint8)
    mass_K = None if np.all(problem.size_K == problem.size_K[0]) else problem.size_K / problem.size_K.mean()
    return Plan(plan_id, A_RK, np.arange(problem.n), bits_RS, p_N, covered_K, mass_K=mass_K)
