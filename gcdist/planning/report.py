"""The figures of a plan: for the run's folder, `gcdist plan` and the tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict

import numpy as np
from scipy.sparse import csr_array, diags_array

from gcdist.coding.errors import spectral_ratio, worst_error
from gcdist.coding.optimal import row_costs
from gcdist.types import F64, Plan, Problem

_SPECTRAL = 2000  # lambda_max is computed for up to this number of rows and partitions


class WorkerReport(TypedDict):
    """One row of a plan."""

    worker: int  # 1..n
    p: float
    bits: int
    noise: float | None  # omega at these bits; None = infinite (no bits)
    row_sum: float  # Y_i in partitions of mean size
    load: int  # partitions computed
    share: float  # of all samples, by coefficient: row_sum / k
    done: float  # expected share of its partitions that is done at the cut (harmonic mean); 1 where rows are whole


class PlanReport(TypedDict):
    """A plan in figures, JSON-able: infinities are None."""

    plan_id: int
    n: int
    k: int
    F: float | None  # |g|^2 over the error of aligned partitions; None = infinite
    noise_ratio: float | None  # 1/F; None: nothing is estimated
    redundancy: float  # stored entries over k
    nonzeros: int
    bits_used: int
    largest_load: int
    smallest_coefficient: float | None
    spectral_ratio: float | None  # lambda_max(M) F/k: above 1, signs amplify differences; None: too large to compute
    worst_ratio: float | None  # bound of the error over C^2 k^2 for |g_j| <= C C_j
    uncovered: list[int]
    notices: dict[str, str]  # lines that somebody should know, by what they are about
    workers: list[WorkerReport]


def row_noise(plan: Plan, problem: Problem) -> F64:
    """omega (R,) of each row at its bits (mean over segments); inf for rows without bits."""
    return np.asarray(problem.noise[plan.bits_RS].mean(axis=1), np.float64)


def row_masses(plan: Plan, problem: Problem) -> F64:
    """``Y_i = sum_j alpha_ij C_j`` (R,) with ``C_j = k size_j``: row sums in partitions of mean size."""
    mass_K = problem.size_K * (problem.k / problem.size_K.sum())
    return np.asarray(plan.A_RK @ mass_K, np.float64)


def planned_noise(plan: Plan, p_R: F64, noise_R: F64, v_norm2_R: F64) -> float:
    """``E|ghat - g|^2 = sum_i c_i |v_i|^2`` over the weighted rows, for independent arrivals (math section 1).

    ``v_norm2_R`` is ``|y_i|^2`` (for shifted codes ``|y_i - h_i|^2``); a weighted row with p = 1 is lost: inf.
    """
    used = plan.weighted_R() & (v_norm2_R > 0)
    return float(np.sum(row_costs(p_R[used], noise_R[used]) * v_norm2_R[used]))


def noise_ratio(plan: Plan, problem: Problem) -> float:
    """Error over |g|^2 when all partitions agree, under inverse weights: ``sum_i c_i (Y_i/k)^2``."""
    Y_R = row_masses(plan, problem)
    return planned_noise(plan, plan.p_R, row_noise(plan, problem), (Y_R / problem.k) ** 2)


def describe(plan: Plan, problem: Problem, notices: Mapping[str, str] | None = None) -> PlanReport:
    """All figures of a plan, ready for JSON; ``notices`` are added as they are."""
    load_R = np.diff(plan.A_RK.indptr)
    weighted = csr_array(diags_array(plan.weighted_R().astype(np.float64)) @ plan.A_RK)
    weighted.eliminate_zeros()
    mass_K = problem.size_K * (problem.k / problem.size_K.sum())
    cost_R = row_costs(plan.p_R, row_noise(plan, problem))
    exact = plan.rows <= _SPECTRAL or problem.k <= _SPECTRAL
    noise_R, Y_R, ratio = row_noise(plan, problem), row_masses(plan, problem), noise_ratio(plan, problem)
    excess_R = row_excess(plan, problem)
    workers = [
        WorkerReport(
            worker=int(plan.worker_R[r]) + 1,
            p=float(plan.p_R[r]),
            bits=int(plan.bits_RS[r].max(initial=0)),
            noise=finite(noise_R[r]),
            row_sum=float(Y_R[r]),
            load=int(load_R[r]),
            share=float(Y_R[r] / problem.k),
            done=float(load_R[r] / (load_R[r] + excess_R[r])) if load_R[r] else 0.0,
        )
        for r in range(plan.rows)
    ]
    return PlanReport(
        plan_id=plan.plan_id,
        n=problem.n,
        k=problem.k,
        F=finite(1 / ratio) if ratio > 0 else None,
        noise_ratio=finite(ratio),
        redundancy=plan.A_RK.nnz / problem.k,
        nonzeros=int(plan.A_RK.nnz),
        bits_used=int(plan.bits_RS.max(axis=1, initial=0).astype(np.int64).sum()),
        largest_load=int(load_R.max(initial=0)),
        smallest_coefficient=finite(weighted.data.min()) if weighted.nnz else None,
        spectral_ratio=finite(spectral_ratio(weighted, cost_R)) if exact else None,
        worst_ratio=finite(worst_error(weighted, cost_R, mass_K) / problem.k**2),
        uncovered=np.flatnonzero(~plan.covered_K).tolist(),
        notices=dict(notices or {}),
        workers=workers,
    )


def row_excess(plan: Plan, problem: Problem) -> F64:
    """``E[l^2/m - l | m >= 1]`` (R,) of rows that are cut (math section 10); 0 where they are whole."""
    load_R, excess_R = np.diff(plan.A_RK.indptr).astype(np.float64), np.zeros(plan.rows)
    if problem.excess is not None:
        for row in np.flatnonzero(load_R > 1):
            excess_R[row] = problem.excess(int(plan.worker_R[row]), load_R[row : row + 1])[0]
    return excess_R


def finite(x: float) -> float | None:
    """The number as a float, or None where JSON has none (infinite or undefined)."""
    return float(x) if np.isfinite(x) else None
