"""Plans within a load cap, which is relaxed before data is lost, and warnings about a plan."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np

from gcdist.coding.optimal import row_costs
from gcdist.coding.workers import miss_at
from gcdist.planning.planner import make_plan
from gcdist.planning.report import row_masses, row_noise
from gcdist.types import F64, GradientCode, Plan, Problem, Weighting

LateAt: TypeAlias = Callable[[float], F64]  # p of the workers (N,) at a load in partitions

NAMED = 12  # partitions that a line names one by one; it gives the number of the others
_AS_GOOD = 1.1  # a capped plan with at most 1.1 times the noise of the free one is good enough
_WIDER = 1.5  # the next cap is 1.5 times the one that was too tight


@dataclass(frozen=True, slots=True, eq=False)
class LoadedPlan:
    """A plan, the cap on a worker's partitions that bound it (inf: none did), and lines by what they are about."""

    plan: Plan
    cap: float
    notices: dict[str, str] = field(default_factory=dict)


def load_cap(problem: Problem, load_most: float) -> float:
    """Most partitions of a worker: ``load_most`` times an even share of those who are there, one more than it at least.

    One more, because a chain shares partitions between workers.
    """
    return cap_for(problem.k, int(np.sum(miss_at(problem, 1.0) < 1)), load_most)


def cap_for(k: int, live: int, load_most: float) -> float:
    """`load_cap` of k partitions for so many workers; inf without a bound.

    >>> cap_for(16, 8, 1.25), cap_for(64, 8, 1.25)
    (3.0, 10.0)
    """
    if not np.isfinite(load_most):
        return math.inf
    even = k / max(1, live)
    return float(max(np.ceil(even) + 1, np.ceil(load_most * even)))


def plan_within_load(
    code: GradientCode,
    problem: Problem,
    plan_id: int,
    load_most: float,
    noise_most: float = np.inf,
    late_at: LateAt | None = None,
) -> LoadedPlan:
    """The free optimum if it keeps to ``load_most``, else the best plan under the tightest cap that loses no data.

    A cap loses data if stragglers' noise under it is above ``noise_most`` and above what it is without a cap. Where no
    plan keeps to a cap (tiny budgets of bits), the free one is taken. Both are said in a line, and so is a plan whose
    noise is above ``noise_most`` all the same.

    ``late_at``: p of the workers (N,) with so many partitions each, where ``problem.late`` is that of ``load_most``
    whatever the load; None: it is right as it is. A wider cap must then pay with the p of the loads that it gives.

    Raises:
        ValueError: there is no plan even without a cap.
    """
    free = make_plan(code, problem, plan_id)
    first = cap = load_cap(problem, load_most)
    largest = float(np.diff(free.A_RK.indptr).max(initial=0))
    if largest <= cap:
        return LoadedPlan(free, np.inf, _noise_notice(code, free, problem, noise_most))
    allowed = max(noise_most, _AS_GOOD * straggler_noise(free, problem))  # no plan has less than the free one by this p
    tried: list[tuple[float, float, Plan]] = []  # noise, cap and plan
    why = ""
    while cap < largest and not (tried and tried[-1][0] <= allowed):
        try:
            found = make_plan(code, replace(problem, load_cap_N=np.minimum(problem.load_cap_N, cap)), plan_id)
        except ValueError as error:
            why = why or str(error)
        else:
            found = _at_own_loads(found, first, late_at)
            noise = straggler_noise(found, problem)
            tried.append((noise, cap, found))
            if noise > allowed:
                why = (
                    why
                    or f"within {first:.0f} the planned noise would be {noise:.3g} (straggler.noise_most {noise_most:g})"
                )
        cap = max(cap + 1, np.ceil(_WIDER * cap))
    if not (tried and tried[-1][0] <= allowed):
        free = _at_own_loads(free, first, late_at)
        tried.append((straggler_noise(free, problem), np.inf, free))
    least = min(noise for noise, _, _ in tried)
    _, cap, plan = next(each for each in tried if each[0] <= max(noise_most, _AS_GOOD * least))
    notices = _noise_notice(code, plan, problem, noise_most)
    if cap > first:
        most = int(np.diff(plan.A_RK.indptr).max(initial=0))
        notices[f"load cap {cap}"] = (
            f"a worker may compute {most} partitions, above the cap of {first:.0f} (code.load_most {load_most:g}): {why}"
        )
    return LoadedPlan(plan, cap, notices)


def _at_own_loads(plan: Plan, cap: float, late_at: LateAt | None) -> Plan:
    """The plan with the p of its own loads where they are above the cap."""
    if late_at is None:
        return plan
    load_R, p_R = np.diff(plan.A_RK.indptr), plan.p_R.copy()
    for load in np.unique(load_R[load_R > cap]).tolist():
        rows = load_R == load
        p_R[rows] = np.maximum(p_R[rows], late_at(float(load))[plan.worker_R[rows]])
    return replace(plan, p_R=p_R)


def straggler_noise(plan: Plan, problem: Problem) -> float:
    """What stragglers add to the error over |g|^2 where partitions agree: ``sum_i p_i (1 + omega_i)/(1 - p_i) (Y_i/k)^2``.

    It is the noise of section 1 less that of the same messages if all arrived. A row with data and p = 1: inf.
    """
    used = plan.weighted_R()
    p_R, omega_R, share_R = plan.p_R[used], row_noise(plan, problem)[used], row_masses(plan, problem)[used] / problem.k
    return float(np.sum(row_costs(p_R) * (1 + omega_R) * share_R**2))


def counted_chance(plan: Plan) -> F64:
    """P(some row with the partition is counted) (K,), for independent arrivals by the plan's p."""
    stored = plan.A_RK.tocoo()
    here = plan.weighted_R()[stored.row] & (stored.data != 0)
    missed_K = np.ones(plan.A_RK.shape[1])
    np.multiply.at(missed_K, stored.col[here], plan.p_R[stored.row[here]])
    return np.asarray(1 - missed_K, np.float64)


def named(partitions: list[int]) -> str:
    """The partitions' numbers for a line of text.

    >>> named([3]), named([1, 2])
    ('partition 3', 'partitions 1, 2')
    """
    if len(partitions) > NAMED:
        return f"{len(partitions)} partitions ({', '.join(map(str, partitions[:3]))}, ...)"
    return f"partition{'s' if len(partitions) > 1 else ''} {', '.join(map(str, partitions))}"


def _inverse(code: GradientCode) -> bool:
    """Whether the code's noise is that of inverse weights on whole gradients."""
    return code.weighting in (Weighting.INVERSE, Weighting.PREDICTOR) and not code.shifted


def _structured(code: GradientCode) -> bool:
    return code.weighting in (Weighting.INVERSE, Weighting.PREDICTOR, Weighting.SELF_NORMALISED)


def _noise_notice(code: GradientCode, plan: Plan, problem: Problem, noise_most: float) -> dict[str, str]:
    """One line if stragglers' noise is above ``noise_most``, with the partitions that are counted in few steps."""
    noise, chance_K = straggler_noise(plan, problem), counted_chance(plan)
    rare = np.flatnonzero((chance_K < 0.5) & plan.covered_K)
    # other decodings have noise of their own, but what hardly comes is hardly learned from under each of them
    if noise <= noise_most or not (_inverse(code) or (rare.size and _structured(code))):
        return {}
    which = ""
    if rare.size:
        which = f": {named(rare.tolist())} of {problem.k} are counted in {chance_K[rare].mean():.0%} of the steps"
    return {"noise": f"planned noise of stragglers {noise:.3g} is above straggler.noise_most {noise_most:g}{which}"}
