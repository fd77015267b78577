"""A run without gradients: stop rule, planner and weights 1/(1-p) against a law of delays, in virtual time.

What a step estimates along the gradient is ``sum_i Y_i I_i/(1-p_i)`` for shares Y that sum to 1. Given the past, its mean is
``sum_i Y_i q_i/(1-p_i)`` with the true chances q of the simulated law, and each worker's part is ``q_i/(1-p_i)``: both are 1
if p is right. Means over q have far less variance than means over arrivals. Recorded times have no law: arrivals are taken.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

from gcdist.bench.scenarios import make_scenario
from gcdist.coding import least_noise
from gcdist.coding.flow import capped_row_sums
from gcdist.coding.supports import chain
from gcdist.planning import cap_for
from gcdist.straggler import ArrivalRule, make_delays
from gcdist.straggler.delays import GilbertElliott, Trace
from gcdist.types import F64, DelayModel, Mask, Plan, Seen
from tests.straggler.settings import rule_of

WORKERS, PARTITIONS = 8, 64
AFTER = 10  # steps after the warm-up: estimates are judged from here on
LOAD_MOST = 1.25  # of the code section
P_FLOOR = 0.05  # of a measured p in plans
REPLAN_EVERY = 20


@dataclass(frozen=True, slots=True)
class Story:
    """What happened, step by step: ``T`` steps, ``N`` workers. ``part`` is NaN where no promise was made to a row."""

    after: F64  # (T,) steps since the warm-up ended; negative before
    deadline: F64  # (T,)
    explores: Mask  # (T,) a step with a longer deadline than the chosen one
    share_TN: F64  # Y, sums to 1
    part_TN: F64  # q/(1-p), or I/(1-p) where the times have no law
    p_TN: F64
    ready_TN: Mask
    in_TN: Mask


def chance(delays: DelayModel, worker: int, step: int, load: float, deadline: float, seed: int) -> float | None:
    """P(the message is in by the deadline | everything before this step); None: the delays have no law."""
    one = np.array([load])
    if isinstance(delays, Trace):
        return None
    if isinstance(delays, GilbertElliott) and delays.slow_share > 0:
        leave = 1 / delays.slow_spell
        enter = leave * delays.slow_share / (1 - delays.slow_share)
        slow = 1 - leave if delays.slow(worker, step - 1, seed) else enter
        late = slow * delays.fast.survival(worker, one, deadline / delays.slowdown)
        late += (1 - slow) * delays.fast.survival(worker, one, deadline)
        return 1 - float(late[0])
    return 1 - float(delays.survival(worker, one, deadline)[0])


def _plan(rule: ArrivalRule, live_N: Mask, k: int, plan_id: int, omega: float) -> Plan:
    """Paper 1's shares as a chain, with the load cap of a run and 4 bits for everybody; cheap beside `plan_within_load`."""
    n, one = len(live_N), np.ones(1)
    p_N = np.array([max(rule.p_long_run(i, one, rule.deadline)[0], P_FLOOR) for i in range(n)])
    with np.errstate(divide="ignore"):
        cost_N = np.where(live_N, (p_N + omega) / (1 - p_N), np.inf)
    # a chain gives up to two more partitions than a share, of which one and a half are rare
    most = cap_for(k, int(live_N.sum()), LOAD_MOST) - 1
    Y_N = capped_row_sums(cost_N, float(k), np.full(n, most))
    A_NK = chain(Y_N, np.ones(k))
    bits_NS = np.where(np.diff(A_NK.indptr)[:, None] > 0, 4, 0).astype(np.uint8)
    return Plan(plan_id, A_NK, np.arange(n), bits_NS, p_N, np.ones(k, bool))


def run(
    rule: ArrivalRule,
    delays: DelayModel,
    workers: int,
    partitions: int,
    steps: int,
    seed: int,
    dead: dict[int, int] | None = None,
    busy: Callable[[int], float] | None = None,
    omega: float = 0.02,
) -> Story:
    """``dead``: worker -> step that it dies at; ``busy(step)``: seconds that a busy worker needs to begin anew."""
    every = np.ones(workers, bool)
    live_N, ready_N = every.copy(), every.copy()
    plan: Plan | None = None
    age, warm, ended = 0, True, None
    rows = []
    for step in range(steps):
        for worker, at in (dead or {}).items():
            if step == at:
                live_N = live_N.copy()
                live_N[worker] = False
                plan = None
        rule.review()
        warming = rule.warming
        if plan is None or age >= REPLAN_EVERY or warming != warm or rule.surprised:
            if not warming:
                rule.retune(
                    live_N, np.full(workers, omega), most_load=cap_for(partitions, int(live_N.sum()), LOAD_MOST)
                )
            plan, age, warm = _plan(rule, live_N, partitions, step, omega), 0, warming
        age += 1
        if not warming and ended is None:
            ended = step
        waits = rule.warming or rule.waits
        terms = rule.terms(plan, live_N, ready_N)
        load_N = np.diff(plan.A_RK.indptr).astype(float)
        weighted_N = plan.weighted_R() & live_N
        share_N = np.where(weighted_N, np.asarray(plan.A_RK.sum(axis=1)).ravel() / partitions, 0.0)
        seconds_N = np.full(workers, np.inf)
        for i in np.flatnonzero(live_N):
            seconds_N[i] = delays.seconds(int(i), step, max(load_N[i], 1.0), seed)
            if busy is not None and not ready_N[i]:
                seconds_N[i] += busy(step)
        in_N = seconds_N <= terms.deadline
        close = terms.deadline if np.any(weighted_N & ~in_N) else float(seconds_N[weighted_N].max())
        part_N = np.full(workers, np.nan)
        for i in np.flatnonzero(weighted_N):
            q = None if busy else chance(delays, int(i), step, load_N[i], terms.deadline, seed)
            part_N[i] = (float(in_N[i]) if q is None else q) / (1 - terms.p_R[i])
        after = -1.0 if ended is None else float(step - ended)
        explores = not waits and terms.deadline > 1.5 * rule.deadline
        rows.append((after, terms.deadline, explores, share_N, part_N, terms.p_R, ready_N, in_N))
        for i in np.flatnonzero(live_N):
            late = bool(seconds_N[i] > close)
            rule.observe(
                Seen(
                    int(i), int(i), step, load_N[i], float(min(seconds_N[i], close)), late, bool(ready_N[i]), step == 0
                )
            )
        ready_N = live_N & (seconds_N <= close)
    return Story(*(np.array(column) for column in zip(*rows, strict=True)))


@dataclass(frozen=True, slots=True)
class Bias:
    """Means over the runs, less 1, and their standard errors."""

    along: float
    along_error: float
    part_N: F64
    part_error_N: F64
    exploring_N: F64


def delays_of(name: str) -> tuple[DelayModel, dict[int, int]]:
    """The delays of a scenario of the benchmark, and who dies in it."""
    scenario = make_scenario(name, WORKERS, PARTITIONS // WORKERS, 1.0)
    inject = dict(scenario.inject)
    dead = {int(fault["worker"]) - 1: int(fault["step"]) for fault in scenario.faults}
    return make_delays(str(inject.pop("model")), WORKERS, **inject), dead


@cache
def stories(name: str, runs: int, steps: int) -> tuple[Story, ...]:
    """Runs with the settings of a run and their automatic deadline in a scenario's delays.

    Seeds are not those that constants of `gcdist.straggler` were chosen on (``977 n + 1``).
    """
    delays, dead = delays_of(name)
    return tuple(
        run(
            rule_of(WORKERS, noise=lambda cost_N: least_noise(cost_N, LOAD_MOST)),
            delays,
            WORKERS,
            PARTITIONS,
            steps,
            7919 * n + 104729,
            dead,
        )
        for n in range(runs)
    )


def bias(name: str, runs: int, steps: int, begin: float = AFTER, end: float = np.inf) -> Bias:
    """What a scenario's delays make of the estimate, in steps from ``begin`` to before ``end`` after the warm-up."""
    along, parts, exploring = [], [], []
    for story in stories(name, runs, steps):
        judged = (story.after >= begin) & (story.after < end)
        if not judged.any():
            continue
        part_TN = np.where(story.share_TN > 0, story.part_TN, np.nan)
        along.append(np.nansum(story.share_TN * part_TN, axis=1)[judged].mean())
        parts.append(_means(part_TN[judged]))
        exploring.append(_means(part_TN[judged & story.explores]))
    part_RN = np.array(parts)
    return Bias(
        float(np.mean(along)) - 1,
        float(np.std(along)) / len(along) ** 0.5,
        _means(part_RN) - 1,
        np.sqrt(_means((part_RN - _means(part_RN)) ** 2) / len(parts)),
        _means(np.array(exploring)) - 1,
    )


def _means(values_XN: F64) -> F64:
    """Means over the first axis of what is a number; NaN where nothing is."""
    there = np.isfinite(values_XN)
    with np.errstate(invalid="ignore"):
        return np.asarray(
            np.where(there, values_XN, 0.0).sum(axis=0) / np.where(there.any(axis=0), there.sum(axis=0), np.nan)
        )


if __name__ == "__main__":
    for name in sys.argv[1:] or ["exponential", "pareto", "dead", "spells"]:
        for begin, end in ((10, np.inf), (10, 30), (30, 60)):
            found = bias(name, 40, 76, begin, end)
            parts = " ".join(f"{x:+.1%} ({e:.1%})" for x, e in zip(found.part_N, found.part_error_N, strict=True))
            along = f"along the gradient {found.along:+.1%} ({found.along_error:.1%})"
            print(
                f"{name}, steps {begin} to {end}: {along}, workers {parts}, exploring", *np.round(found.exploring_N, 2)
            )
