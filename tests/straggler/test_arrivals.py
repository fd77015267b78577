from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcdist.straggler import Arrivals
from gcdist.types import Mask, Seen

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
    found = Arrivals(1, window, prior_weight=prior_weight)
    for step in range(arrivals + misses):
        late = step >= arrivals
        found.observe(seen(step, deadline if late else deadline / 2, censored=late))
    return found


def reference(outcomes: list[tuple[float, bool]], deadline: float, at_zero: float = 0.0, never: float = 0.0) -> float:
    """Kaplan-Meier by its definition, with pseudo-outcomes that arrive at time zero and that never do."""
    m = len(outcomes)
    survival = (m + never) / (m + at_zero + never)
    for time in sorted({t for t, censored in outcomes if not censored and t <= deadline}):
        deaths = sum(1 for t, censored in outcomes if not censored and t == time)
        at_risk = sum(1 for t, _ in outcomes if t >= time) + never
        survival *= 1 - deaths / at_risk
    return survival


def test_without_outcomes_it_is_the_prior() -> None:
    found = Arrivals(3, prior_p=0.25)
    assert found.miss(1.0, np.array([True, False, True])).tolist() == [0.25] * 3
    assert found.late(0, 1.0) == 0.25
    assert found.survival(np.array([0.5, 1.0])).tolist() == [[0.25, 0.25]] * 3


@pytest.mark.parametrize(("m", "q"), [(5, 0.3), (20, 0.2), (20, 0.9), (60, 0.05)])
def test_weights_from_counts_are_nearly_unbiased(m: int, q: float) -> None:
    # exact: over all counts A of arrivals, without a prior; q is the true chance to arrive (math.md section 5)
    mean = plug_in = 0.0
    for arrived in range(m + 1):
        chance = math.comb(m, arrived) * q**arrived * (1 - q) ** (m - arrived)
        weight = 1 / (1 - counted(arrived, m - arrived, window=m).miss(1.0, READY)[0])
        if arrived < m:
            assert weight == pytest.approx((m + 1) / (arrived + 1))
        mean += chance * weight * q
        plug_in += chance * m / max(arrived, 0.5) * q
    # the half miss that stands for none adds q^m/(2m + 1), the missing of all takes (1-q)^(m+1)
    assert mean == pytest.approx(1 - (1 - q) ** (m + 1) + q ** (m + 1) / (2 * m + 1), rel=1e-9)
    assert abs(mean - 1) < abs(plug_in - 1) or q**m > 0.01


def test_the_prior_fades() -> None:
    # 2 arrivals of 4, w = 4/6; 50 of 100, w = 4/102
    assert counted(2, 2, window=200, prior_weight=2.0).miss(1.0, READY)[0] == pytest.approx((2 + 0.2 / 3) / (5 + 2 / 3))
    p = counted(50, 50, window=200, prior_weight=2.0).miss(1.0, READY)[0]
    assert p == pytest.approx((50 + 0.4 / 102) / (101 + 4 / 102))


def test_p_is_never_0_or_1() -> None:
    assert counted(10, 0, window=10).miss(1.0, READY)[0] == pytest.approx(0.5 / 11)
    assert counted(0, 10, window=10).miss(1.0, READY)[0] == pytest.approx(10 / 11)
    assert counted(10, 0, window=10).miss(0.1, READY)[0] == pytest.approx(10 / 11)


outcome = st.tuples(st.integers(1, 8).map(lambda quarter: quarter / 4), st.booleans())


@settings(derandomize=True, deadline=None, max_examples=300)
@given(outcomes=st.lists(outcome, min_size=1, max_size=30), quarter=st.integers(1, 9), prior_p=st.floats(0.01, 0.99))
def test_it_is_kaplan_meier(outcomes: list[tuple[float, bool]], quarter: int, prior_p: float) -> None:
    found = Arrivals(2, window=40, prior_p=prior_p, prior_weight=2.0)
    for step, (seconds, censored) in enumerate(outcomes):
        found.observe(seen(step, seconds, censored, worker=1))
    deadline = quarter / 4
    m, w = len(outcomes), 4.0 / (2.0 + len(outcomes))
    expected = reference(outcomes, deadline, at_zero=1 + w * (1 - prior_p), never=w * prior_p)
    expected = min(max(expected, 0.5 / (m + 1)), m / (m + 1))
    assert found.miss(deadline, np.ones(2, bool)) == pytest.approx([prior_p, expected])
    assert found.late(1, deadline) == pytest.approx(expected)
    plain = found.survival(np.array([0.1, deadline, 3.0]))[1, 1]
    assert plain == pytest.approx(reference(outcomes, deadline), abs=1e-12)


@settings(derandomize=True, deadline=None, max_examples=100)
@given(outcomes=st.lists(outcome, min_size=1, max_size=60))
def test_survival_falls_and_forgets(outcomes: list[tuple[float, bool]]) -> None:
    found, last = Arrivals(1, window=20), Arrivals(1, window=20)
    for step, (seconds, censored) in enumerate(outcomes):
        found.observe(seen(step, seconds, censored))
        if step >= len(outcomes) - 20:
            last.observe(seen(step, seconds, censored))
    times = np.arange(0, 3, 0.1)
    plain = found.survival(times)
    p = np.array([found.late(0, t) for t in times])
    assert np.all(np.diff(plain) <= 1e-12)
    assert np.all(np.diff(p) <= 1e-12)
    assert np.all((p > 0) & (p < 1))
    assert plain.tolist() == last.survival(times).tolist()
    assert p.tolist() == [last.late(0, t) for t in times]


def test_plain_survival_reaches_0_or_stays_level() -> None:
    assert counted(4, 0, window=10).survival(np.array([0.4, 0.5, 2.0])).tolist() == [[1.0, 0.0, 0.0]]
    assert counted(3, 1, window=10).survival(np.array([0.4, 0.5, 2.0]))[0] == pytest.approx([1.0, 0.25, 0.25])


def test_cold_rounds_are_left_out() -> None:
    found = Arrivals(1)
    found.observe(seen(0, 9.0, censored=True, cold=True))
    assert found.count_N().tolist() == [0.0]


def test_a_late_message_replaces_its_censored_outcome() -> None:
    found, direct = Arrivals(1, window=4), Arrivals(1, window=4)
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


def test_a_worker_that_is_not_ready_is_judged_by_such_rounds() -> None:
    found = Arrivals(1, window=1000)
    for step in range(40):
        found.observe(seen(step, 0.5))
    ready = found.miss(1.0, READY)[0]
    assert ready < 0.03
    assert found.miss(1.0, ~READY)[0] == ready  # nothing known: as if ready
    for step in range(40, 60):
        found.observe(seen(step, 1.0, censored=True, ready=False))
    assert found.miss(1.0, READY)[0] == pytest.approx(ready, abs=1e-3)
    assert found.miss(1.0, ~READY)[0] > 0.8
    assert found.miss(1.0, ~READY, prior_N=np.array([0.9]))[0] > found.miss(1.0, ~READY)[0]
    # for planning: both kinds as often as they were
    assert found.late(0, 1.0) == pytest.approx(20 / 60, abs=0.03)


def test_a_closing_just_short_of_the_deadline_is_a_miss() -> None:
    found = Arrivals(1, window=10, prior_weight=1e-9)
    for step in range(10):
        found.observe(seen(step, 0.3 * (1 - 1e-12), censored=True))
    assert found.miss(0.3, READY)[0] == pytest.approx(10 / 11)
    assert found.missed_N(0.3).tolist() == [True]
    assert found.missed_N(0.31).tolist() == [False]


def test_many_workers_at_once() -> None:
    rng = np.random.default_rng(0)
    found = Arrivals(1000, window=100)
    mean_N = rng.uniform(0.1, 1.0, 1000)
    for step in range(100):
        # every fourth deadline is longer: censoring below the deadline asked for
        deadline = 1.0 if step % 4 == 0 else 0.5
        for i, seconds in enumerate(rng.exponential(mean_N).tolist()):
            found.observe(seen(step, min(seconds, deadline), seconds > deadline, worker=i))
    p_N = found.miss(1.0, np.ones(1000, bool))
    law_N = np.exp(-1.0 / mean_N)
    # the mean error over 1000 workers: standard error about 0.05/sqrt(1000) = 0.0016, bias up to 1/101 of (1-p) and the
    # half misses; 0.01 and 6 standard errors together (error probability 2e-9)
    assert abs(np.mean(p_N - law_N)) < 0.01 + 6 * 0.0016


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"prior_p": 0.0}, "prior_p: found 0.0"),
        ({"prior_weight": 0.0}, "prior_weight"),
        ({"window": 0}, "window: found 0"),
    ],
)
def test_mistakes_are_named(values: dict[str, float], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        Arrivals(1, **values)  # type: ignore[arg-type]
