"""The stop rule whose deadline is chosen elsewhere."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
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


def test_what_contradicts_the_promises_is_remembered() -> None:
    """What came before is not: with nothing at all, the next promise would be as wrong, and be contradicted again."""
    rule = ChosenDeadline(arrivals_of(N), 60.0)
    rule.adopt(1.0)
    for number in range(40):
        step(rule, number, [True] * N)
    for number in range(40, 44):
        step(rule, number, [True, False, False, False])
    rule.review()
    assert rule.contradicted
    kept = rule.arrivals.count_N()
    assert 1 <= kept.min() <= kept.max() <= 4
    assert rule.terms(PLAN, ALL, ALL).p_R[1:].min() > 0.4


def test_where_outcomes_are_few_the_laws_count_beside_them() -> None:
    rule = ChosenDeadline(arrivals_of(N), 60.0)
    rule.adopt(1.0)
    law_N = np.array([0.9, 0.9, 0.2, 1.0])

    def promised() -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        terms = replace(rule.terms(PLAN, ALL, ALL), cut_N=np.ones(N))
        return rule.with_laws(terms, PLAN.worker_R, lambda worker, cut: float(law_N[worker])).p_R

    assert promised() == pytest.approx([0.9, 0.9, 0.2, 0.97])  # nothing was seen
    for number in range(60):
        step(rule, number, [number % 10 > 0, number % 10 > 0, number % 10 == 0, False])
        if number == 9:
            early = promised()
    assert np.all((early > [0.4, 0.4, 0.4, 0.9]) & (early < [0.6, 0.6, 0.7, 1.0]))
    assert promised() == pytest.approx(rule.terms(PLAN, ALL, ALL).p_R)  # much was


def test_the_laws_count_given_who_is_ready() -> None:
    """Of four workers who are in time every other step, as those who missed one never are in the next."""
    rule = ChosenDeadline(arrivals_of(N), 60.0)
    rule.adopt(1.0)
    in_N = np.array([True, False, True, False])
    for number in range(24):
        ready_N = ~in_N
        rule.terms(PLAN, ALL, ready_N)
        for i, ready in enumerate(ready_N.tolist()):
            rule.observe(Seen(i, i, number, 1.0, 0.5 if ready else 1.0, not ready, ready, False))
        in_N = ready_N
    terms = replace(rule.terms(PLAN, ALL, ~in_N), cut_N=np.ones(N))
    p_R = rule.with_laws(terms, PLAN.worker_R, lambda worker, cut: 0.5).p_R
    assert np.all(p_R[in_N] > 0.95)  # with the law as it is: 0.85 and 0.15
    assert np.all(p_R[~in_N] < 0.05)
