"""The stop rule whose deadline is chosen elsewhere."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

from gcdist.straggler import ChosenDeadline
from gcdist.types import Plan, Seen
from tests.straggler.settings import arrivals_of

N = 4
PLAN = Plan(
    0,
    csr_array(np.eye(N)),
    np.arange(N),
    np.full((N, 1), 4, np.uint8),
    np.zeros(N),
    np.ones(N, bool),
    partial=True,
)
ALL = np.ones(N, bool)


def step(rule: ChosenDeadline, number: int, in_N: list[bool]) -> None:
    """One step with these arrivals."""
    terms = rule.terms(PLAN, ALL, ALL)
    for i, arrived in enumerate(in_N):
        rule.observe(Seen(i, i, number, 1.0, 0.5 if arrived else terms.deadline, not arrived, True, False))


def test_it_waits_until_a_deadline_is_adopted() -> None:
    rule = ChosenDeadline(arrivals_of(N), 60.0)
    assert rule.deadline == 60.0
    assert rule.terms(PLAN, ALL, ALL).deadline == 60.0
    rule.adopt(1.0)
    assert (rule.waits, rule.warming) == (False, False)
    assert rule.terms(PLAN, ALL, ALL).deadline == 1.0
    again = ChosenDeadline(arrivals_of(N), 60.0)
    again.load_state_dict(rule.state_dict())
    assert again.deadline == 1.0


def test_outcomes_that_contradict_the_promises_ask_for_a_choice_and_nobody_is_waited_for() -> None:
    rule = ChosenDeadline(arrivals_of(N), 60.0)
    rule.adopt(1.0)
    for number in range(40):
        step(rule, number, [True] * N)
    contradicted = [rule.contradicted]
    for number in range(40, 44):
        step(rule, number, [True, False, False, False])
    rule.review()
    contradicted.append(rule.contradicted)
    assert rule.terms(PLAN, ALL, ALL).deadline == 1.0
    rule.adopt(2.0)
    assert [*contradicted, rule.contradicted] == [False, True, False]


def test_who_has_changed_loses_its_outcomes_alone() -> None:
    rule = ChosenDeadline(arrivals_of(N), 60.0)
    rule.adopt(1.0)
    for number in range(40):
        step(rule, number, [True] * N)
    rule.forget({2})
    assert rule.arrivals.count_N().tolist() == [40, 40, 0, 40]
    step(rule, 40, [True] * N)
    assert rule.arrivals.count_N().tolist() == [41, 41, 1, 41]
