"""The schedule of injected faults: at its step, at its rate, at whom it says or at anybody."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gcdist.straggler import FaultSchedule, Planned

HERE = (1, 2, 3, 4)


def test_a_step_is_struck_once_and_the_absent_are_left_out() -> None:
    schedule = FaultSchedule([Planned("a", 2, step=3), Planned("b", 4, step=3), Planned("m", 0, step=5)], seed=0)
    assert schedule.due(2, 1.0, HERE) == []
    assert schedule.due(3, 1.0, (1, 2)) == [("a", 2)]
    assert schedule.due(4, 1.0, HERE) == []
    assert schedule.due(5, 1.0, ()) == [("m", 0)]


def test_without_step_and_rate_nothing_happens() -> None:
    schedule = FaultSchedule([Planned("only by hand")], seed=0)
    assert all(schedule.due(step, 1e9, HERE) == [] for step in range(3))


def test_a_resumed_run_spares_its_master() -> None:
    schedule = FaultSchedule([Planned("m", 0, step=5), Planned("a", 1, step=5), Planned("s", 0, every=0.1)], seed=0)
    schedule.spare_master()
    assert [fault for fault, _ in schedule.due(5, 0.0, HERE)] == ["a"]
    assert ("s", 0) in schedule.due(6, 10.0, HERE)


def test_random_times_are_a_poisson_process_and_victims_are_drawn_evenly() -> None:
    schedule = FaultSchedule([Planned("x", every=2.0)], seed=7)
    counts = np.array([len(schedule.due(step, 10.0 * (step + 1), HERE)) for step in range(400)])
    # 400 windows with mean 5 and variance 5: |z| < 4.5 for the mean and for the variance (its own sd is 5 sqrt(2.2/400)),
    # a right schedule fails with probability 1e-5 each; the seed is fixed
    assert abs(counts.mean() - 5) < 4.5 * np.sqrt(5 / 400)
    assert abs(counts.var() - 5) < 4.5 * 5 * np.sqrt(2.2 / 400)
    again = FaultSchedule([Planned("x", every=2.0)], seed=7)
    victims = np.array([rank for _, rank in again.due(0, 4000.0, HERE)])
    shares = np.bincount(victims, minlength=5)[1:] / len(victims)
    assert np.abs(shares - 0.25).max() < 4.5 * np.sqrt(0.25 * 0.75 / len(victims))  # 4 checks, 7e-6 each


@settings(derandomize=True, deadline=None, max_examples=100)
@given(
    st.lists(st.floats(0.0, 5.0), min_size=1, max_size=20),
    st.integers(0, 2**63 - 1),
)
def test_a_schedule_follows_from_seed_and_time_not_from_how_often_it_is_asked(gaps: list[float], seed: int) -> None:
    planned = [Planned("x", every=1.5), Planned("y", 3, every=0.7)]
    often, once = FaultSchedule(planned, seed), FaultSchedule(planned, seed)
    times = np.cumsum(gaps).tolist()
    found = [fault for step, at in enumerate(times) for fault in often.due(step, at, HERE)]
    assert sorted(found) == sorted(once.due(0, times[-1], HERE))
