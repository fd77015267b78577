"""Checks of a code's design: conditions of every plan before a step is opened with it."""

from __future__ import annotations

import numpy as np

from gcdist.coding.errors import spectral_ratio
from gcdist.coding.optimal import row_costs
from gcdist.planning.report import row_noise
from gcdist.types import F64, GradientCode, Plan, Problem

COLUMN_TOLERANCE = 1e-9


def make_plan(code: GradientCode, problem: Problem, plan_id: int) -> Plan:
    """The plan of ``code`` for ``problem``, validated; ValueError if it breaks an invariant.

    Covered columns sum to 1 for unbiased codes; signs that amplify (``lambda_max(M) F/k > 1``) only from
    codes that say ``allow_negative``.
    """
    check_problem(problem)
    plan = code.design(problem, plan_id)
    check_plan(plan, problem, unbiased=code.unbiased, allow_negative=code.allow_negative)
    return plan


def check_problem(problem: Problem) -> None:
    """Shapes and ranges of a Problem; ValueError names the field and the value."""
    n, k = problem.n, problem.k
    if n < 1 or k < 1:
        raise ValueError(f"a plan needs at least 1 worker and 1 partition, not {n} and {k}")
    if not (np.all(np.isfinite(problem.size_K)) and np.all(problem.size_K > 0)):
        raise ValueError("size_K must be positive and finite: an empty partition has no gradient")
    if len(problem.load_cap_N) != n:
        raise ValueError(f"load_cap_N has {len(problem.load_cap_N)} entries for {n} workers")
    if problem.holds_NK is not None and problem.holds_NK.shape != (n, k):
        raise ValueError(f"holds_NK has shape {problem.holds_NK.shape}, not {(n, k)}")
    if (
        len(problem.noise) < 1
        or not np.isinf(problem.noise[0])
        or np.any(problem.noise < 0)
        or np.any(np.isnan(problem.noise))
    ):
        raise ValueError("noise must be a table of omega >= 0 by bits that begins with inf at 0 bits")
    if not problem.bits_total >= 0:
        raise ValueError(f"bits_total is {problem.bits_total}: it must be 0 or more")


def check_plan(plan: Plan, problem: Problem, *, unbiased: bool, allow_negative: bool = False) -> None:
    """Columns, signs, caps and holders of a plan; ValueError names the first that is broken."""
    A_RK = plan.A_RK
    if A_RK.shape != (plan.rows, problem.k) or len(plan.p_R) != plan.rows or len(plan.bits_RS) != plan.rows:
        raise ValueError(f"plan {plan.plan_id}: arrays disagree about {plan.rows} rows and {problem.k} partitions")
    if not np.all(np.isfinite(A_RK.data)):
        raise ValueError(f"plan {plan.plan_id}: coefficients are not finite")
    if not allow_negative and np.any(A_RK.data < 0):
        ratio = spectral_ratio(A_RK, row_costs(plan.p_R, row_noise(plan, problem)))
        if ratio > 1 + 1e-9:
            raise ValueError(
                f"plan {plan.plan_id}: its signs (least coefficient {A_RK.data.min():.3g}) let differing partitions add "
                f"{ratio:.3g} times the noise that non-negative ones can; allow_negative accepts that"
            )
    if unbiased:
        sums_K = column_sums(plan)
        wrong = np.flatnonzero(plan.covered_K & (np.abs(sums_K - 1) > COLUMN_TOLERANCE))
        if wrong.size:
            raise ValueError(f"plan {plan.plan_id}: column {wrong[0]} sums to {sums_K[wrong[0]]!r}, not to 1")
    load_R = np.diff(A_RK.indptr)
    over = np.flatnonzero(load_R > problem.load_cap_N[plan.worker_R])
    if over.size:
        worker = plan.worker_R[over[0]]
        raise ValueError(
            f"plan {plan.plan_id}: worker {worker + 1} has {load_R[over[0]]} partitions, its load cap is "
            f"{problem.load_cap_N[worker]:g}"
        )
    if problem.holds_NK is not None:
        stored = A_RK.tocoo()
        held = problem.holds_NK.toarray() != 0
        wrong = np.flatnonzero(~held[plan.worker_R[stored.row], stored.col])
        if wrong.size:
            worker, partition = plan.worker_R[stored.row[wrong[0]]] + 1, stored.col[wrong[0]]
            raise ValueError(
                f"plan {plan.plan_id}: worker {worker} is given partition {partition}, which it cannot read"
            )


def column_sums(plan: Plan) -> F64:
    """Sum of each column of ``A_RK`` over the rows that carry bits, (K,): 1 for unbiased codes."""
    weighted = plan.weighted_R().astype(np.float64)
    return np.asarray(plan.A_RK.T @ weighted, np.float64)
