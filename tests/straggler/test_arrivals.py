from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given as given_
from hypothesis import settings
from hypothesis import strategies as st

from gcdist.straggler import Arrivals
from gcdist.types import F64, Mask, Seen
from tests.straggler.settings import arrivals_of

READY: Mask = np.ones(1, bool)


def seen(
    step: int,
    seconds: float,
    censored: bool = False,
    ready: bool = True,
    cold: bool = False,
    worker: int = 0,
    row: int = 0,
) -> Seen:
    return Seen(row, worker, step, 1.0, seconds, censored, ready, cold)


def counted(arrivals: int, misses: int, window: int, deadline: float = 1.0, prior_weight: float = 1e-9) -> Arrivals:
    found = arrivals_of(1, window, prior_weight=prior_weight)
    for step in range(arrivals + misses):
        late = step >= arrivals
        found.observe(seen(step, deadline if late else deadline / 2, censored=late))
    return found


def given(found: Arrivals, deadline: float, ready: Mask = READY, load: float = 1.0) -> F64:
    return found.p_given_ready(deadline, np.full(found.workers, load), ready)


def reference(outcomes: list[tuple[float, bool]], deadline: float) -> float:
    """Kaplan-Meier by its definition."""
    survival = 1.0
    for time in sorted({t for t, censored in outcomes if not censored and t <= deadline}):
        deaths = sum(1 for t, censored in outcomes if not censored and t == time)
        survival *= 1 - deaths / sum(1 for t, _ in outcomes if t >= time)
    return survival


def test_without_outcomes_it_is_the_prior() -> None:
    found = arrivals_of(3, prior_p=0.25)
    assert given(found, 1.0, np.array([True, False, True])).tolist() == [0.25] * 3
    assert found.p_long_run_N(1.0).tolist() == [0.25] * 3
    assert found.survival(np.array([0.5, 1.0])).tolist() == [[0.25, 0.25]] * 3


@pytest.mark.parametrize(("m", "q"), [(5, 0.3), (20, 0.2), (20, 0.9), (60, 0.05)])
def test_weights_from_counts_are_cautious(m: int, q: float) -> None:
    # exact: over all counts A of arrivals; q is the true chance to arrive (math section 5). Against (m+1)/(A+1) a weight
    # is higher by half an arrival, for the luck of those that plans prefer
    mean = 0.0
    for arrived in range(m + 1):
        chance = math.comb(m, arrived) * q**arrived * (1 - q) ** (m - arrived)
        weight = 1 / (1 - given(counted(arrived, m - arrived, window=m), 1.0)[0])
        luck = 0.5 * arrived / (arrived + 1) * (m - arrived) / (m - arrived + 1)
        if 0 < arrived < m:
            assert weight == pytest.approx((m + 1) / (arrived + 1 - luck))
        assert weight <= m + 1 + 1e-9  # never above what has been seen
        mean += chance * weight * q
    exact = 1 - (1 - q) ** (m + 1)
    assert exact - 1e-9 < mean < exact + 1.0 / (m * q)


def test_little_known_of_a_worker_is_filled_up_by_the_others() -> None:
    found = arrivals_of(5)
    for step in range(30):
        for worker in range(1, 5):
            late = step % 2 == 0
            found.observe(seen(step, 1.0 if late else 0.5, censored=late, worker=worker))
    p_N = given(found, 1.0, np.ones(5, bool))
    assert p_N[0] == pytest.approx(0.5, abs=0.01)  # not the prior_p of 0.1
    assert found.p_long_run_N(1.0)[0] == pytest.approx(0.5, abs=0.01)


def test_p_is_never_0_or_1() -> None:
    assert given(counted(10, 0, window=10), 1.0)[0] == pytest.approx(0.25 / 11)
    assert given(counted(0, 10, window=10), 1.0)[0] == pytest.approx(10 / 11)
    assert given(counted(10, 0, window=10), 0.1)[0] == pytest.approx(10 / 11)


outcome = st.tuples(st.integers(1, 8).map(lambda quarter: quarter / 4), st.booleans())


@settings(derandomize=True, deadline=None, max_examples=300)
@given_(outcomes=st.lists(outcome, min_size=1, max_size=30), quarter=st.integers(1, 9))
def test_it_is_kaplan_meier(outcomes: list[tuple[float, bool]], quarter: int) -> None:
    found = arrivals_of(2, window=40)
    for step, (seconds, censored) in enumerate(outcomes):
        found.observe(seen(step, seconds, censored, worker=1))
    deadline = quarter / 4
    plain = found.survival(np.array([0.1, deadline, 3.0]))[1, 1]
    assert plain == pytest.approx(reference(outcomes, deadline), abs=1e-12)


@settings(derandomize=True, deadline=None, max_examples=100)
@given_(outcomes=st.lists(outcome, min_size=1, max_size=60))
def test_survival_falls_and_forgets(outcomes: list[tuple[float, bool]]) -> None:
    found, last = arrivals_of(1, window=20), arrivals_of(1, window=20)
    for step, (seconds, censored) in enumerate(outcomes):
        found.observe(seen(step, seconds, censored))
        if step >= len(outcomes) - 20:
            last.observe(seen(step, seconds, censored))
    times = np.arange(0, 3, 0.1)
    plain = found.survival(times)
    p = np.array([found.p_long_run_N(t)[0] for t in times])
    assert np.all(np.diff(plain) <= 1e-12)
    assert p[-1] <= p[0] + 1e-12
    assert np.all((p > 0) & (p < 1))
    assert plain.tolist() == last.survival(times).tolist()
    assert p.tolist() == [last.p_long_run_N(t)[0] for t in times]


def test_plain_survival_reaches_0_or_stays_level() -> None:
    assert counted(4, 0, window=10).survival(np.array([0.4, 0.5, 2.0])).tolist() == [[1.0, 0.0, 0.0]]
    assert counted(3, 1, window=10).survival(np.array([0.4, 0.5, 2.0]))[0] == pytest.approx([1.0, 0.25, 0.25])


def test_cold_rounds_are_left_out() -> None:
    found = arrivals_of(1)
    found.observe(seen(0, 9.0, censored=True, cold=True))
    assert found.count_N().tolist() == [0.0]


def test_a_late_message_replaces_its_censored_outcome() -> None:
    found, direct = arrivals_of(1, window=4), arrivals_of(1, window=4)
    for step in range(4):
        found.observe(seen(step, 1.0, censored=True))
        direct.observe(seen(step, 2.0 + step))
    for step in range(4):
        found.observe(seen(step, 2.0 + step))
    assert found.count_N().tolist() == [4.0]
    times = np.arange(0.5, 7)
    assert found.survival(times).tolist() == direct.survival(times).tolist()
    # one that is forgotten already comes in as new; another row of the same step is another outcome
    found.observe(seen(4, 1.0))
    found.observe(seen(4, 1.0, row=1))
    found.observe(seen(0, 9.0))
    assert found.arrived().tolist() == [1.0, 1.0, 5.0, 9.0]


def lived(found: Arrivals, arrive: Callable[[int, bool], bool], steps: int, workers: int = 8) -> None:
    """Rounds with deadline 1: ``arrive(worker, ready)`` says who is in by it; who was not is busy in the next round."""
    ready = np.ones(workers, bool)
    for step in range(steps):
        found.p_given_ready(1.0, np.ones(workers), ready)
        now = [arrive(i, bool(ready[i])) for i in range(workers)]
        for i, is_in in enumerate(now):
            found.observe(seen(step, 0.5 if is_in else 1.0, not is_in, bool(ready[i]), worker=i))
        ready = np.array(now)


def test_a_first_miss_of_a_reliable_worker_changes_little() -> None:
    """One miss in 50 steps: busy, the worker is still thought to arrive nearly always, as nothing else was ever seen."""
    found = arrivals_of(8)
    lived(found, lambda worker, ready: True, 49)
    lived(found, lambda worker, ready: worker != 3 or not ready, 1)
    busy = np.arange(8) != 3
    assert 1 - given(found, 1.0, busy)[3] > 0.9


def chance(busy_q: float, ready_q: float, rng: np.random.Generator) -> Callable[[int, bool], bool]:
    return lambda worker, ready: bool(rng.random() < (ready_q if ready else busy_q))


def test_slow_spells_are_told_from_chance() -> None:
    """Spells of 10 steps, a tenth of the time: a busy worker arrives with 0.1, a ready one with 0.989. Independent misses of
    the same share: both with 0.9. Means of 20 runs of 100 steps; a standard error of them is below 0.02.
    """
    rng = np.random.default_rng(5)
    for busy_q, ready_q in ((0.1, 1 - 0.1 / 9), (0.9, 0.9)):
        q_busy, q_ready = [], []
        for _ in range(20):
            found = arrivals_of(8)
            lived(found, chance(busy_q, ready_q, rng), 100)
            q_busy.append(1 - given(found, 1.0, np.zeros(8, bool)).mean())
            q_ready.append(1 - given(found, 1.0, np.ones(8, bool)).mean())
        # a run of 100 steps sees 9 spells on average, some see 3: caution keeps the mean above a tenth
        assert busy_q - 0.02 < np.mean(q_busy) < busy_q + 0.12
        assert np.mean(q_ready) == pytest.approx(ready_q, abs=0.03)


def test_outages_are_told_from_misses_that_leave_nobody_busy() -> None:
    """Half of the rows are cut with nothing, and their workers are free at once; now and then a cable is out for 6 steps."""
    rng = np.random.default_rng(8)
    found, out = arrivals_of(8), np.zeros(8, int)
    for step in range(150):
        ready = out == 0
        found.p_given_ready(1.0, np.ones(8), ready)
        for i in range(8):
            is_in = bool(ready[i] and rng.random() < 0.5)
            found.observe(seen(step, 0.5 if is_in else 1.0, not is_in, bool(ready[i]), worker=i))
        out = np.where(ready, 6 * (rng.random(8) < 0.01), out - 1)
    busy_N, ready_N = 1 - given(found, 1.0, np.zeros(8, bool)), 1 - given(found, 1.0, np.ones(8, bool))
    assert busy_N.max() < 0.1
    assert ready_N.mean() == pytest.approx(0.5, abs=0.04)


@pytest.mark.parametrize("exponent", [0.0, 1.0])
def test_how_seconds_grow_with_the_load_is_learned(exponent: float) -> None:
    rng = np.random.default_rng(6)
    found, every = arrivals_of(8), np.ones(8, bool)
    for step in range(40):
        load = 8.0 if step < 10 else 10.0
        found.p_given_ready(1.5, np.full(8, load), every)
        for i, unit in enumerate((1 + rng.exponential(0.4, 8)).tolist()):
            seconds = unit * (load / 8.0) ** exponent
            late = seconds > 1.5
            found.observe(Seen(i, i, step, load, min(seconds, 1.5), late, True, False))
    law = math.exp(-((1.5 / (12 / 8) ** exponent) - 1) / 0.4)
    # 320 outcomes at other loads; the mean of 8 workers has a standard error of about 0.03
    assert given(found, 1.5, every, load=12.0).mean() == pytest.approx(law, abs=0.12)


def test_beyond_the_deadline_of_most_steps_the_others_help() -> None:
    """Exponential times, deadline 0.5 but in every 25th step, where it is 1: p of 1 is exp(-2) for everybody."""
    rng = np.random.default_rng(7)
    p = []
    for _ in range(20):
        found = arrivals_of(8)
        for step in range(100):
            deadline = 1.0 if step % 25 == 24 or step < 5 else 0.5
            for i, seconds in enumerate(rng.exponential(0.5, 8).tolist()):
                found.observe(seen(step, min(seconds, deadline), seconds > deadline, worker=i))
        p.append(given(found, 1.0, np.ones(8, bool)).mean())
    # weights 30 to 67% too large would be p of 0.33 to 0.48
    assert np.mean(p) == pytest.approx(math.exp(-2), abs=0.05)


def test_a_closing_just_short_of_the_deadline_is_a_miss() -> None:
    found = arrivals_of(1, window=10, prior_weight=1e-9)
    for step in range(10):
        found.observe(seen(step, 0.3 * (1 - 1e-12), censored=True))
    assert given(found, 0.3)[0] == pytest.approx(10 / 11)
    assert found.missed_N(0.3).tolist() == [True]
    assert found.missed_N(0.31).tolist() == [False]


def test_many_workers_at_once() -> None:
    rng = np.random.default_rng(0)
    found = arrivals_of(1000, window=100)
    mean_N = rng.uniform(0.1, 1.0, 1000)
    for step in range(100):
        # every fourth deadline is longer: censoring below the deadline asked for
        deadline = 1.0 if step % 4 == 0 else 0.5
        for i, seconds in enumerate(rng.exponential(mean_N).tolist()):
            found.observe(seen(step, min(seconds, deadline), seconds > deadline, worker=i))
    p_N = given(found, 1.0, np.ones(1000, bool))
    law_N = np.exp(-1.0 / mean_N)
    # the mean error over 1000 workers: standard error about 0.05/sqrt(1000) = 0.0016, bias up to 1/101 of (1-p) and the
    # half misses; 0.01 and 6 standard errors together (error probability 2e-9)
    assert abs(np.mean(p_N - law_N)) < 0.01 + 6 * 0.0016
