"""Everybody becomes slower: it is noticed within three steps, and chance alone is not taken for it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from gcdist.straggler.slowdown import Slowdown
from gcdist.straggler.work_laws import WorkLaws
from gcdist.types import F64, Seen, WorkTimes

Draw = Callable[[np.random.Generator, int], F64]
LAWS: dict[str, Draw] = {
    "even": lambda rng, n: 0.1 + 0.005 * rng.random(n),
    "exponential": lambda rng, n: 0.05 + 0.05 * rng.exponential(size=n),
    "pareto": lambda rng, n: 0.05 * (1 + rng.pareto(1.5, size=n)),
}


def feed(laws: WorkLaws, step: int, seconds_N: F64, parts: int = 4) -> None:
    for worker, seconds in enumerate(seconds_N):
        took = float(seconds)
        work = WorkTimes(tuple(took * r / parts for r in range(1, parts + 1)), took)
        laws.observe(Seen(worker, worker, step, parts, took, censored=False, ready=True, cold=False, work=work))


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("workers", [4, 8])
def test_chance_is_not_taken_for_a_slowdown(law: str, workers: int) -> None:
    """2 seeds of 2,000 steps. By `Surprise` and `MOST` a step has a false alarm with a chance below 1e-4; more than 3 in
    4,000 steps then have a chance below 0.1%."""
    alarms = 0
    for seed in range(2):
        rng, laws = np.random.default_rng((seed, workers)), WorkLaws(workers)
        for step in range(2000):
            feed(laws, step, LAWS[law](rng, workers))
            alarms += laws.follow()
    assert alarms <= 3


def steps_until_followed(laws: WorkLaws, draw: Draw, seed: int, most: int) -> int:
    """Steps of twice the usual length, after 60 usual ones, until `follow` says so; ``most`` + 1: it did not."""
    rng = np.random.default_rng((seed, laws.workers))
    for step in range(60):
        feed(laws, step, draw(rng, laws.workers))
        laws.follow()
    for step in range(most):
        feed(laws, 60 + step, 2 * draw(rng, laws.workers))
        if laws.follow():
            return step + 1
    return most + 1


@pytest.mark.parametrize("workers", [3, 4, 8])
def test_twice_as_slow_is_followed_within_three_steps(workers: int) -> None:
    for seed in range(50):
        laws = WorkLaws(workers)
        assert steps_until_followed(laws, LAWS["even"], seed, 3) <= 3
        assert laws.complete(0, 4, np.array([0.15]))[0] == 0.0  # all remembered times are twice as long
        assert laws.complete(0, 4, np.array([0.25]))[0] > 0.99


def test_one_slow_worker_is_no_slowdown() -> None:
    rng, laws = np.random.default_rng(0), WorkLaws(4)
    for step in range(200):
        seconds_N = LAWS["even"](rng, 4)
        seconds_N[2] *= 8.0 if step >= 100 else 1.0
        feed(laws, step, seconds_N)
        assert not laws.follow()


def test_it_goes_on_from_a_checkpoint() -> None:
    laws = WorkLaws(4)
    rng = np.random.default_rng(0)
    for step in range(31):
        feed(laws, step, LAWS["even"](rng, 4) * (2 if step == 30 else 1))
    again = WorkLaws(4)
    again.load_state_dict(laws.state_dict())
    slow_N = 2 * LAWS["even"](rng, 4)
    for each in (laws, again):
        feed(each, 31, slow_N)
    assert laws.follow() and again.follow()  # noqa: PT018
    assert laws.state_dict()["rows"] == again.state_dict()["rows"]


def test_a_row_of_which_nothing_was_done_tells_only_if_that_is_slow() -> None:
    slowdown, past_T = Slowdown(1), np.full(20, 0.1)
    for step in range(4):
        slowdown.judge(0, step, 0.05, past_T, complete=False)  # it was cut early
    assert slowdown.take() == [(0, 1.0)]
    slowdown.judge(0, 4, 0.3, past_T, complete=False)
    ((rows, ratio),) = slowdown.take()
    assert rows == 1
    assert ratio == pytest.approx(3.0)
