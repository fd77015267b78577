"""make_plan refuses broken plans; describe is JSON; the promised noise is the simulated noise."""

from __future__ import annotations

import json

import numpy as np
import pytest
from numpy.typing import ArrayLike
from scipy.sparse import csr_array

from gcdist.coding import get_code
from gcdist.planning import check_plan, describe, make_plan, planned_noise
from gcdist.types import F64, Plan, Problem, StepTerms


def problem(p: ArrayLike, k: int, noise: ArrayLike = (np.inf, 1.0, 0.2, 0.05, 0.01)) -> Problem:
    p_N = np.asarray(p, np.float64)

    def late(worker: int, loads: F64) -> F64:
        return np.full(len(loads), p_N[worker])

    n = len(p_N)
    return Problem(np.full(k, 1 / k), late, np.asarray(noise), 4.0 * n, np.full(n, 4), np.full(n, np.inf))


def plan_of(A: ArrayLike, p: ArrayLike) -> Plan:
    A_RK = csr_array(np.asarray(A, np.float64))
    n, k = A_RK.shape
    return Plan(0, A_RK, np.arange(n), np.full((n, 1), 4, np.uint8), np.asarray(p, np.float64), np.ones(k, np.bool_))


def test_broken_plans_are_refused() -> None:
    task = problem([0.1, 0.2], 2)
    with pytest.raises(ValueError, match="column 1 sums to"):
        check_plan(plan_of([[1.0, 0.0], [0.0, 0.9]], [0.1, 0.2]), task, unbiased=True)
    signed = plan_of([[2, 1], [-1, 0]], [0.1, 0.2])
    with pytest.raises(ValueError, match=r"least coefficient -1\) let differing partitions add"):
        check_plan(signed, task, unbiased=True)
    check_plan(signed, task, unbiased=True, allow_negative=True)


@pytest.mark.parametrize(
    ("p", "what"), [([0.1, -0.1], "worker 2"), ([1.5, 0.1], "worker 1"), ([np.nan, 0.1], "worker 1")]
)
def test_p_outside_0_1_is_named(p: list[float], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        make_plan(get_code("osgc"), problem(p, 2), 0)


def test_describe_is_json_and_agrees_with_the_formula() -> None:
    p, omega = np.array([0.1, 0.3, 1.0]), 0.01
    task = problem(p, 5)
    plan = make_plan(get_code("osgc"), task, 3)
    report = describe(plan, task)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    Y = np.asarray(plan.A_RK.sum(axis=1))[:2]
    cost = (p[:2] + omega) / (1 - p[:2])
    assert report["noise_ratio"] == pytest.approx(cost @ (Y / 5) ** 2, rel=1e-12)
    assert report["workers"][2] == {
        "worker": 3,
        "p": 1,
        "bits": 0,
        "noise": None,
        "row_sum": 0,
        "load": 0,
        "share": 0,
        "done": 0,
    }
    assert report["redundancy"] == report["nonzeros"] / 5


def test_promised_noise_is_the_simulated_noise() -> None:
    p = np.array([0.1, 0.5, 0.3, 0.7])
    task, code = problem(p, 6), get_code("osgc")
    plan = make_plan(code, task, 0)
    rng = np.random.default_rng(3)
    g_KD = rng.normal(1, 1, (6, 20))
    v_RD = plan.A_RK @ g_KD
    omega = np.full(4, 0.01)
    promised = planned_noise(plan, p, omega, (v_RD**2).sum(1))
    draws = 40_000
    arrived_TR = rng.random((draws, 4)) >= p
    weight_R = np.array([code.open(plan, StepTerms(1.0, p)).arrive(r).weight for r in range(4)], np.float64)
    error_TR = arrived_TR * weight_R - 1
    straggler_T = ((error_TR @ v_RD) ** 2).sum(1)
    quantizer_T = (arrived_TR * weight_R**2) @ (omega * (v_RD**2).sum(1))
    seen_T = straggler_T + quantizer_T
    # 5 standard errors: below 1e-6 for one test with a fixed seed
    assert abs(seen_T.mean() - promised) < 5 * seen_T.std() / np.sqrt(draws)
