from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_array

from gcdist.straggler import WAIT_P, ArrivalRule, make_delays, make_stop_rule
from gcdist.types import F64, Mask, Plan, Seen

N = 4
ALL: Mask = np.ones(N, bool)
LOAD: F64 = np.ones(1)


def plan(workers: int = N) -> Plan:
    eye = csr_array(np.eye(workers))
    bits = np.full((workers, 1), 4, np.uint8)
    return Plan(1, eye, np.arange(workers), bits, np.zeros(workers), np.ones(workers, bool))


def run(rule: ArrivalRule, times_TN: F64, first: int = 0, cold: bool = False) -> None:
    """Rounds as the master lives them: outcomes beyond the step's deadline are censored there."""
    workers = times_TN.shape[1]
    everybody = np.ones(workers, bool)
    for step, row in enumerate(times_TN, start=first):
        deadline = rule.terms(plan(workers), everybody, everybody).deadline
        for i, seconds in enumerate(row.tolist()):
            rule.observe(Seen(i, i, step, 1.0, min(seconds, deadline), seconds > deadline, True, cold))


def test_the_warm_up_waits_and_cold_rounds_do_not_end_it() -> None:
    rule = make_stop_rule(N, deadline=0.5, max_wait=30.0, warmup_steps=2)
    times = np.full((2, N), 0.7)
    run(rule, times, cold=True)
    assert [rule.warming] == [True]
    terms = rule.terms(plan(), ALL, ALL)
    assert terms.deadline == 30.0
    assert terms.p_R.tolist() == [WAIT_P] * N
    run(rule, times, first=2)
    assert [rule.warming] == [False]
    terms = rule.terms(plan(), ALL, ALL)
    assert terms.deadline == rule.deadline == 0.5
    assert np.all(terms.p_R > 0.4)


def test_an_absent_worker_is_sure_to_miss() -> None:
    for rule in (make_stop_rule(N, "wait"), make_stop_rule(N, 0.5, warmup_steps=0), make_stop_rule(N, "auto")):
        p_R = rule.terms(plan(), np.array([True, False, True, True]), ALL).p_R
        assert p_R[1] == 1.0
        assert np.all(p_R[[0, 2, 3]] < 0.2)


def test_waiting_never_assumes_what_it_saw_fail() -> None:
    rule = make_stop_rule(N, "wait", max_wait=1.0)
    run(rule, np.tile([0.1, 0.1, 0.1, 3.0], (10, 1)))
    p_R = rule.terms(plan(), ALL, ALL).p_R
    assert p_R[:3].tolist() == [WAIT_P] * 3
    assert p_R[3] > 0.75
    assert rule.late(3, LOAD, rule.deadline)[0] == p_R[3]


def test_p_from_the_model_is_that_of_the_rows_load() -> None:
    delays = make_delays("shifted-exponential", N, shift=0.1, mean=0.2, scale_with_load=True)
    rule = make_stop_rule(N, 0.5, p="model", delays=delays)
    assert [rule.warming] == [False]
    assert rule.late(0, np.array([1.0, 2.0, 9.0]), 0.5) == pytest.approx([np.exp(-2.0), np.exp(-0.75), 1.0])
    assert rule.terms(plan(), ALL, ALL).p_R == pytest.approx(np.exp(-2.0))


def test_given_p_is_taken_as_it_is() -> None:
    rule = make_stop_rule(N, 0.5, p=[0.0, 0.1, 0.2, 1.0])
    run(rule, np.full((5, N), 9.0))
    assert rule.terms(plan(), ALL, ~ALL).p_R.tolist() == [0.0, 0.1, 0.2, 1.0]
    assert rule.late(1, np.ones(3), 0.5).tolist() == [0.1] * 3


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="p: found a list of 2 for 4 workers"):
        make_stop_rule(N, 0.5, p=[0.1, 0.2])
    with pytest.raises(ValueError, match="without a delay model"):
        make_stop_rule(N, 0.5, p="model")
    with pytest.raises(ValueError, match="at most max_wait"):
        make_stop_rule(N, 61.0)
    with pytest.raises(ValueError, match="one deadline"):
        make_stop_rule(N, "auto", p=[0.1] * N)
