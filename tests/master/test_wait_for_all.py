"""The clock that estimates waiting for all: delays at sync's load, and an overhead from steps that had everybody."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_array

from gcdist.exchange.sidecar import Sidecar
from gcdist.master.aggregator import Counted
from gcdist.master.round_result import RoundResult
from gcdist.master.wait_for_all import WaitForAllClock
from gcdist.straggler import make_delays
from gcdist.types import Plan, Seen, StepTerms, Use

SHIFTS = [0.1, 0.3, 0.2]


def clock(partitions: int = 6, scale: bool = False) -> WaitForAllClock:
    delays = make_delays("shifted-exponential", 3, shift=SHIFTS, scale_with_load=scale)
    return WaitForAllClock(delays, 0, 3, partitions)


def a_round(step: int, seconds: float, rows: tuple[int, ...], cold: bool = False) -> RoundResult:
    """Worker 1 computes three partitions, worker 2 two, worker 3 one."""
    A_RK = csr_array(np.array([[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 0], [0, 0, 0, 0, 0, 1]], np.float64))
    plan = Plan(0, A_RK, np.arange(3), np.full((3, 1), 4, np.uint8), np.zeros(3), np.ones(6, bool))
    counted = tuple(Counted(row, Use(1.0), Sidecar(np.zeros((0, 4)))) for row in rows)
    seen = (Seen(0, 0, step, 1.0, 0.1, False, True, cold),)
    terms = StepTerms(1.0, np.zeros(3))
    return RoundResult(
        step, None, 0.0, "complete", seconds, counted, plan, terms, np.ones(3, bool), seen, 3, 0, 0, True
    )


def test_the_overhead_is_what_a_step_with_everybody_took_beyond_its_largest_delay() -> None:
    found = clock()
    found.add(a_round(0, 0.25, (0, 2)))  # worker 2 did not come
    found.add(a_round(1, 9.0, (0, 1, 2), cold=True))  # the first round of a life is slow
    assert (found.overhead, found.total()) == (None, None)
    for step, overhead in ((2, 0.1), (3, 0.5), (4, 0.2)):
        found.add(a_round(step, 0.3 + overhead, (0, 1, 2)))
    assert found.overhead == pytest.approx(0.2)  # the median
    assert found.total() == pytest.approx(5 * (0.3 + 0.2))
    assert found.of(3.0, 10) == pytest.approx(3.0 + 10 * 0.2)


def test_delays_count_at_the_load_of_each() -> None:
    found = clock(scale=True)
    assert found.floor(0) == pytest.approx(0.3 * 2)  # sync: two partitions each
    found.measure(a_round(0, 1.0, (0, 1, 2)))
    assert found.overhead == pytest.approx(1.0 - 0.3 * 2)  # of 0.1 x 3, 0.3 x 2 and 0.2 x 1
    found.measure(a_round(1, 0.1, (0, 1, 2)))
    assert found.overhead == pytest.approx(0.4 / 2)  # shorter than the delay: at least 0


def test_workers_without_partitions_delay_nobody() -> None:
    assert clock(partitions=1).floor(0) == 0.1


def test_what_was_measured_goes_into_checkpoints() -> None:
    found, other = clock(), clock()
    found.add(a_round(0, 0.5, (0, 1, 2)))
    other.load_state_dict(found.state_dict())
    assert (other.overhead, other.total()) == (found.overhead, found.total())
