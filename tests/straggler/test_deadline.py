from __future__ import annotations

import math
from typing import Literal

import numpy as np
import pytest
from scipy.sparse import csr_array

from gcdist.coding import least_noise
from gcdist.straggler import WAIT_P, ArrivalRule, AutoDeadline, make_delays
from gcdist.types import F64, Mask, Plan, Seen
from tests.straggler.settings import rule_of

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
    rule = rule_of(N, deadline=0.5, max_wait=30.0, warmup_steps=2)
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
    for rule in (rule_of(N, "wait"), rule_of(N, 0.5, warmup_steps=0), rule_of(N, "auto")):
        p_R = rule.terms(plan(), np.array([True, False, True, True]), ALL).p_R
        assert p_R[1] == 1.0
        assert np.all(p_R[[0, 2, 3]] < 0.2)


def test_waiting_never_assumes_what_it_saw_fail() -> None:
    rule = rule_of(N, "wait", max_wait=1.0)
    run(rule, np.tile([0.1, 0.1, 0.1, 3.0], (10, 1)))
    p_R = rule.terms(plan(), ALL, ALL).p_R
    assert p_R[:3].tolist() == [WAIT_P] * 3
    assert p_R[3] > 0.75
    assert rule.p_long_run(3, LOAD, rule.deadline)[0] == p_R[3]


def test_p_from_the_model_is_that_of_the_rows_load() -> None:
    delays = make_delays("shifted-exponential", N, shift=0.1, mean=0.2, scale_with_load=True)
    rule = rule_of(N, 0.5, p="model", delays=delays)
    assert [rule.warming] == [False]
    assert rule.p_long_run(0, np.array([1.0, 2.0, 9.0]), 0.5) == pytest.approx([np.exp(-2.0), np.exp(-0.75), 1.0])
    assert rule.terms(plan(), ALL, ALL).p_R == pytest.approx(np.exp(-2.0))


def test_given_p_is_taken_as_it_is() -> None:
    rule = rule_of(N, 0.5, p=[0.0, 0.1, 0.2, 1.0])
    run(rule, np.full((5, N), 9.0))
    assert rule.terms(plan(), ALL, ~ALL).p_R.tolist() == [0.0, 0.1, 0.2, 1.0]
    assert rule.p_long_run(1, np.ones(3), 0.5).tolist() == [0.1] * 3


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="p: found a list of 2 for 4 workers"):
        rule_of(N, 0.5, p=[0.1, 0.2])
    with pytest.raises(ValueError, match="without a delay model"):
        rule_of(N, 0.5, p="model")


def exact_cost(tau_G: F64, shift: float, mean_N: F64) -> F64:
    """``E[min(tau, all in)] (1 + 1/F(tau))`` of shifted exponentials, by quadrature."""

    def survival(t_G: F64) -> F64:
        tail: F64 = np.exp(-np.maximum(t_G - shift, 0.0) / mean_N[:, None])
        return tail

    fine = np.linspace(0, tau_G[-1], 200_001)
    still_out = 1 - np.prod(1 - survival(fine), axis=0)
    seconds = np.concatenate([[0.0], np.cumsum((still_out[1:] + still_out[:-1]) / 2) * fine[1]])
    p_NG = survival(tau_G)
    F_G = np.sum((1 - p_NG) / np.maximum(p_NG, 1e-12), axis=0)
    cost: F64 = np.interp(tau_G, fine, seconds) * (1 + 1 / np.maximum(F_G, 1e-12))
    return cost


def delayed(mean_N: F64, steps: int, shift: float = 0.2, seed: int = 1) -> F64:
    rng = np.random.default_rng(seed)
    return shift + rng.exponential(1.0, (steps, len(mean_N))) * mean_N


@pytest.mark.parametrize(
    "mean_N",
    [np.full(8, 0.2), np.array([0.03, 0.04, 0.05, 0.06, 0.08, 0.2, 0.3, 0.8]), np.array([0.05] * 7 + [10.0])],
    ids=["equal", "unequal", "one very slow"],
)
def test_the_learned_deadline_is_nearly_the_best(mean_N: F64) -> None:
    rule = rule_of(8, "auto", max_wait=60.0, warmup_steps=100, noise_most=1e9)
    run(rule, delayed(mean_N, 100))
    assert rule.deadline == 60.0
    assert rule.retune()
    tau_G = np.linspace(0.2, 60, 5000)
    cost_G = exact_cost(tau_G, 0.2, mean_N)
    # costs are flat around their least: 800 arrivals are enough for a tenth
    assert np.interp(rule.deadline, tau_G, cost_G) < 1.1 * cost_G.min()
    assert cost_G[-1] > 1.2 * cost_G.min()


def test_waiting_for_all_is_among_the_choices() -> None:
    rule = rule_of(8, "auto")
    run(rule, np.full((50, 8), 0.3))
    assert not rule.retune()
    assert rule.waits
    terms = rule.terms(plan(8), np.ones(8, bool), np.ones(8, bool))
    assert terms.deadline == rule.deadline == 60.0
    assert np.all(terms.p_R == WAIT_P)


def test_workers_that_are_gone_do_not_count() -> None:
    mean_N = np.array([0.05, 0.05, 0.05, 10.0])
    with_all, without = (rule_of(N, "auto", warmup_steps=50) for _ in range(2))
    for rule in (with_all, without):
        run(rule, delayed(mean_N, 50))
    assert with_all.retune()
    without.retune(live_N=np.array([True, True, True, False]))
    assert isinstance(with_all, AutoDeadline)
    assert isinstance(without, AutoDeadline)
    tau = np.linspace(0.21, 60.0, 5000)
    three = np.array([True, True, True, False])
    assert with_all.cost(tau, ALL, np.zeros(N))[-1] > 5.0
    assert without.cost(tau, three, np.zeros(N))[-1] < 0.6  # with the slow one gone, waiting costs next to nothing
    assert not without.retune(live_N=np.zeros(N, bool))


def test_noise_of_the_quantizer_makes_arrivals_matter_more() -> None:
    rule = rule_of(8, "auto", warmup_steps=100, noise_most=1e9)
    assert isinstance(rule, AutoDeadline)
    run(rule, delayed(np.full(8, 0.2), 100))
    tau = np.array([0.3, 0.5, 60.0])
    live = np.ones(8, bool)
    plain, noisy = (rule.cost(tau, live, np.full(8, omega)) for omega in (0.0, 2.0))
    assert np.all(noisy > plain)
    assert noisy[0] / noisy[1] > plain[0] / plain[1] * 0.9


@pytest.mark.parametrize("most", [0.02, 0.1, 0.5])
def test_a_learned_deadline_adds_no_more_noise_than_allowed(most: float) -> None:
    mean_N = np.full(8, 0.2)
    rule = rule_of(8, "auto", warmup_steps=200, noise_most=most)
    run(rule, delayed(mean_N, 200))
    assert rule.retune()
    p_N = np.exp(-(rule.deadline - 0.2) / mean_N)
    # p is known to about 0.05 from 200 rounds of 8 workers: the bound is kept to that
    assert 1 / np.sum((1 - p_N) / p_N) < 1.5 * most


def test_between_two_choices_the_deadline_stays_but_for_exploring() -> None:
    mean_N = np.full(8, 0.2)
    rule = rule_of(8, "auto")
    run(rule, delayed(mean_N, 5))
    assert rule.retune()
    chosen = rule.deadline
    seen_deadlines = []
    for step in range(5, 105):
        everybody = np.ones(8, bool)
        seen_deadlines.append(rule.terms(plan(8), everybody, everybody).deadline)
        run(rule, delayed(mean_N, 1, seed=step), first=step)
    assert seen_deadlines.count(chosen) == 96
    assert seen_deadlines.count(2 * chosen) == 4


@pytest.mark.parametrize("slower", [2.0, 4.0, 20.0])
def test_a_learned_deadline_can_grow_again(slower: float) -> None:
    rule = rule_of(8, "auto", window=100)
    for block in range(30):
        scale = 1.0 if block < 15 else slower
        run(rule, scale * delayed(np.full(8, 0.2), 20, seed=block), first=20 * block)
        rule.retune()
        if block == 14:
            before = rule.deadline
    assert 0.7 * slower < rule.deadline / before < 1.6 * slower + 0.5


def slowed(slower: float, seed: int, after: int = 60) -> tuple[ArrivalRule, F64, int]:
    """Four workers with mild delays; from step ``after`` on everything takes ``slower`` times as long."""
    rule = rule_of(N, "auto")
    times = delayed(np.array([0.02, 0.03, 0.04, 0.06]), after + 60, seed=seed)
    times[after:] *= slower
    for first in range(0, after, 20):
        run(rule, times[first : first + 20], first=first)
        if first < after - 20:
            rule.retune()
    return rule, times, after


def test_a_uniform_slowdown_is_noticed_within_three_steps() -> None:
    """All but 2 of 40 runs, and all within six steps; if a fifth were later, that would be seen with 1 - 0.8% = 99.2%."""
    steps = []
    for seed in range(40):
        rule, times, after = slowed(2.0, seed)
        for step in range(after, after + 6):
            run(rule, times[step : step + 1], first=step)
            rule.review()
            if rule.warming:
                break
        steps.append(step - after + 1)
        assert [rule.warming] == [True]
        # and the next deadline is the new law's
        run(rule, times[step + 1 : step + 10], first=step + 1)
        rule.retune()
        assert not rule.warming
        assert rule.deadline > 0.4
    assert np.sum(np.array(steps) > 3) <= 2


def test_the_same_laws_are_rarely_forgotten() -> None:
    """3,000 steps, each with a chance of at most 2.03e-4 if p is right: more than 3 have a chance of 0.4%."""
    forgotten = 0
    for seed in range(5):
        rule, _, after = slowed(1.0, 100 + seed)
        steps = delayed(np.array([0.02, 0.03, 0.04, 0.06]), 600, seed=200 + seed)
        for step in range(600):
            run(rule, steps[step : step + 1], first=after + step)
            warming = rule.warming
            rule.review()
            forgotten += rule.warming and not warming
            if step % 20 == 0:
                rule.retune()
    assert forgotten <= 3


def test_after_a_change_a_worker_that_hangs_is_not_waited_for_as_long_as_may_be() -> None:
    rule, _, after = slowed(2.0, 0)
    deadline = rule.deadline
    for step in range(after, after + 6):
        run(rule, np.array([[0.9, 0.9, 0.9, np.inf]]), first=step)
        rule.review()
        if rule.warming:
            break
    assert [rule.warming] == [True]
    assert rule.terms(plan(), ALL, ALL).deadline <= 32 * deadline < rule.max_wait


def test_a_deadline_lets_one_arrival_be_expected() -> None:
    # exponential delays without a shift: the shorter the better by the formula alone
    rule = rule_of(8, "auto", warmup_steps=200)
    run(rule, delayed(np.full(8, 1.0), 200, shift=0.0))
    assert rule.retune()
    assert np.sum(1 - rule.terms(plan(8), np.ones(8, bool), np.ones(8, bool)).p_R) > 0.9


@pytest.mark.parametrize("deadline", ["auto", 0.4])
def test_planned_and_observed_arrival_rates_agree(deadline: float | Literal["auto"]) -> None:
    """Each worker within 4 sigma: error probability 8 x 6e-5 for normal sums. A promise from the past's mean has the
    variance of a fixed one (int (1 + ln u)^2 du = 1), so the sigma is that of the promises.
    """
    mean_N = np.array([0.03, 0.04, 0.05, 0.06, 0.08, 0.2, 0.3, 0.8])
    rule = rule_of(8, deadline)
    times = delayed(mean_N, 605, seed=7)
    everybody = np.ones(8, bool)
    planned, observed, variance = np.zeros((3, 8))
    for step, row in enumerate(times):
        if step % 20 == 5:
            rule.retune()
        terms = rule.terms(plan(8), everybody, everybody)
        if not (rule.warming or rule.waits):
            planned += 1 - terms.p_R
            variance += terms.p_R * (1 - terms.p_R)
            observed += row <= terms.deadline
        for i, seconds in enumerate(row.tolist()):
            late = seconds > terms.deadline
            rule.observe(Seen(i, i, step, 1.0, min(seconds, terms.deadline), late, True, False))
    assert np.all(np.abs(observed - planned) < 4 * np.sqrt(variance))
    # and 10% would be told
    assert abs(observed.sum() - 0.9 * planned.sum()) > 4 * math.sqrt(variance.sum())


def test_where_partitions_differ_a_learned_deadline_is_longer() -> None:
    chosen = []
    for disagreement in (1.0, 4.0):
        rule = rule_of(8, "auto", warmup_steps=200, noise_most=0.1)
        run(rule, delayed(np.full(8, 0.2), 200))
        rule.retune(disagreement=disagreement)
        chosen.append(rule.deadline)
    assert chosen[1] > 1.2 * chosen[0]


def test_a_learned_deadline_leaves_room_for_what_a_plan_may_give() -> None:
    """Until outcomes say otherwise computing takes time in proportion: 1.25 times as long for 1.25 times the load."""
    chosen = []
    for most_load in (1.0, 1.25):
        rule = rule_of(8, "auto", warmup_steps=200)
        run(rule, delayed(np.full(8, 0.2), 200))
        assert rule.retune(most_load=most_load)
        chosen.append(rule.deadline)
    assert chosen[0] * 1.1 < chosen[1] < chosen[0] * 1.4


def test_a_spell_after_the_choice_to_wait_is_a_surprise_once() -> None:
    """Nobody was late, so waiting is chosen; then one worker takes 8 times as long: the choice is made anew at once."""
    rule = rule_of(N, "auto", max_wait=60.0, warmup_steps=5)
    rng = np.random.default_rng(3)
    run(rule, 0.1 + 0.001 * rng.random((12, N)))
    rule.retune()
    assert rule.waits
    run(rule, 0.1 + 0.05 * rng.random((4, N)), first=12)
    assert [rule.surprised] == [False]
    run(rule, np.array([[0.1, 0.1, 0.1, 0.9]]), first=16)
    assert [rule.surprised] == [True]
    again = rule_of(N, "auto", max_wait=60.0, warmup_steps=5)
    again.load_state_dict(rule.state_dict())
    assert again.surprised
    assert rule.retune()
    assert rule.deadline < 0.5
    assert [rule.surprised] == [False]


def test_a_slow_worker_is_waited_for_once_in_a_run_that_waited_by_choice() -> None:
    rule = rule_of(N, "auto", max_wait=60.0, warmup_steps=5)
    rng = np.random.default_rng(4)
    run(rule, 0.1 + 0.001 * rng.random((6, N)))
    rule.retune()
    spent = 0.0
    for step in range(6, 20):
        if rule.surprised:
            rule.retune()
        slow = np.append(0.1 + 0.001 * rng.random(N - 1), 0.8)
        spent += min(rule.terms(plan(), ALL, ALL).deadline, 0.8)
        run(rule, slow[None], first=step)
    assert spent < 0.8 + 13 * 0.2 + 0.8


def test_few_fast_workers_cannot_stand_for_all() -> None:
    """Three of eight workers always take a fifth of the others' time; with a bound on shares the others are waited for."""
    times = np.tile([0.1, 0.02, 0.02, 0.02, 0.1, 0.1, 0.1, 0.1], (60, 1)) * (
        1 + 0.1 * np.random.default_rng(6).random((60, 8))
    )
    free = rule_of(8, "auto", warmup_steps=60)
    bound = rule_of(8, "auto", warmup_steps=60, noise=lambda cost_N: least_noise(cost_N, 1.25))
    for rule in (free, bound):
        run(rule, times)
        rule.retune(disagreement=4.0)
    assert free.deadline < 0.05
    assert bound.deadline > 0.1
