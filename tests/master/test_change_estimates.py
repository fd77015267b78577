"""Who would gain by a memory of its partitions: running estimates of each worker."""

from __future__ import annotations

import numpy as np
import pytest

from gcdist.exchange.sidecar import Sidecar
from gcdist.master.change_estimates import ChangeEstimates
from gcdist.planning.changes import MOST, Changes


def told(change: float, row: float = 0.01, age: float = 1.0, memory: float = 1.0) -> Sidecar:
    return Sidecar(np.zeros((2, 4)), change=change, row_change=row, change_age=age, memory=memory)


def test_only_who_has_room_and_gradients_that_last_is_able() -> None:
    estimates = ChangeEstimates(4)
    for _ in range(20):
        estimates.observe(0, 2, told(0.01))
        estimates.observe(1, 2, told(2.0, row=1.5))
        estimates.observe(2, 2, told(0.01, memory=0.0))
    found = estimates.changes(None)
    assert found.able_N.tolist() == [True, False, False, False]
    assert found.spread_N[0] < 0.02  # its own messages count for more than those of all
    assert found.spread_N[1] > 0.5


def test_who_remembers_goes_on_for_longer() -> None:
    estimates = ChangeEstimates(1)
    for _ in range(10):
        estimates.observe(0, 2, told(0.65))
    assert not estimates.changes(None).able_N[0]
    assert estimates.changes(np.array([True])).able_N[0]


def test_older_memories_count_by_a_step_of_age_and_one_large_step_does_not_stand_for_all() -> None:
    estimates = ChangeEstimates(1)
    for _ in range(10):
        estimates.observe(0, 2, told(0.04, age=4.0))
    assert estimates.changes(None).spread_N[0] == pytest.approx(0.01)
    estimates.observe(0, 2, told(1.0, row=1.0))
    for _ in range(8):
        estimates.observe(0, 2, told(0.01))
    assert estimates.changes(None).spread_N[0] < 0.02


def test_nothing_known_is_no_reason_to_remember() -> None:
    estimates = ChangeEstimates(3)
    estimates.observe(0, 2, told(-1.0, row=-1.0, age=-1.0))
    assert not estimates.changes(None).able_N.any()
    assert estimates.slowness == 1.0


def test_a_checkpoint_brings_them_back() -> None:
    estimates, other = ChangeEstimates(2), ChangeEstimates(2)
    estimates.observe(1, 2, told(0.1, age=2.0))
    other.load_state_dict(estimates.state_dict())
    assert np.array_equal(other.changes(None).spread_N, estimates.changes(None).spread_N)
    ChangeEstimates(3).load_state_dict(estimates.state_dict())


def test_a_memory_is_as_old_as_rows_are_cut_and_never_worse_than_twice_the_noise() -> None:
    changes = Changes(np.array([0.1, 0.1]), np.array([0.01, 0.01]), np.array([True, False]))
    excess_GL = np.array([[0.0, 0.0], [1.0, 2.0], [0.0, 98.0]])
    spread_GL, row_GL = changes.left(0, excess_GL, np.zeros(3))
    assert spread_GL.tolist() == pytest.approx(np.array([[0.1, 0.1], [0.2, 0.2], [0.1, MOST]]))
    assert row_GL.tolist() == pytest.approx(np.array([[0.01, 0.01], [0.02, 0.02], [0.01, 0.5]]))
    assert np.all(changes.left(1, excess_GL, np.zeros(3))[0] == 1)
    seldom_GL, _ = changes.left(0, excess_GL, np.array([0.5, 0.75, 0.0]))  # what was not sent grows older
    assert seldom_GL.tolist() == pytest.approx(np.array([[0.2, 0.2], [0.8, 0.8], [0.1, MOST]]))


def test_who_sends_nothing_leaves_no_noise() -> None:
    """An idle worker remembers nothing, and no noise comes of it: the planned noise was 10 to 40, observed 0.001."""
    estimates = ChangeEstimates(3)
    for _ in range(10):
        estimates.observe(0, 2, told(0.01, row=0.01))
    remembers_N, sends_N = np.array([True, False, False]), np.array([True, False, True])
    assert max(estimates.sent(remembers_N, remembers_N)) < 0.02
    assert estimates.sent(remembers_N, sends_N) == pytest.approx((0.505, 0.505), abs=0.01)
