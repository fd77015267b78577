"""Times of workers' partitions, and the cuts that follow from them."""

from __future__ import annotations

from itertools import count, islice

import numpy as np
import pytest

from gcdist.straggler import FirstPartition, WorkLaws, make_delays, with_cuts
from gcdist.straggler.row_window import PARTS, RowWindow
from gcdist.straggler.work_laws import CHANGED, FACTOR, LONGER, PAST
from gcdist.types import Seen, StepTerms, WorkTimes


def seen(step: int, done: tuple[float, ...], row: float, overhead: float = 0.1, worker: int = 0) -> Seen:
    return Seen(worker, worker, step, 1.0, row + overhead, False, True, False, WorkTimes(done, row), overhead)


def test_what_is_done_by_a_cut_is_read_off_the_rows_seen() -> None:
    laws = WorkLaws(2)
    laws.observe(seen(0, (1.0, 1.5, 2.0), 2.0))
    p_G, excess_GL = laws.outcomes(0, np.array([1, 4]), np.array([0.9, 1.0, 2.0, 9.0]))
    assert p_G.tolist() == [1.0, 0.0, 0.0, 0.0]
    # at 1.0 one partition is done, at 2.0 three, at 9.0 all four: l^2/m - l
    assert excess_GL[1:, 0].tolist() == [0.0, 0.0, 0.0]
    assert excess_GL[1:, 1] == pytest.approx([12.0, 16 / 3 - 4, 0.0])
    assert laws.complete(0, 4, np.array([2.4, 2.5])).tolist() == [0.0, 1.0]
    assert laws.known_N.tolist() == [True, False]


def test_a_worker_that_was_seen_to_be_slow_is_taken_to_be_as_slow_while_it_does_nothing_by_its_cuts() -> None:
    """It was taken to be done at twice its cut once the window of 100 rows held guesses alone, and given work then."""
    laws = WorkLaws(1)
    for step in range(LONGER):
        laws.observe(seen(step, (10.0,), 10.0))
    for step in range(LONGER, 150):
        laws.observe(Seen(0, 0, step, 1.0, 1.1, True, True, False))
    p_G, _ = laws.outcomes(0, np.array([1]), np.array([2.1, 4.0, 10.1]))
    assert p_G == pytest.approx([1.0, 1.0, 0.0])
    for step in range(150, 1200):  # by then it is believed no longer
        laws.observe(Seen(0, 0, step, 1.0, 1.1, True, True, False))
    assert laws.outcomes(0, np.array([1]), np.array([2.1]))[0] == pytest.approx(0.0)


def test_a_cut_row_of_which_nothing_was_done_counts_as_slower_than_its_cut() -> None:
    laws = WorkLaws(1)
    laws.observe(seen(0, (1.0,), 1.0))
    laws.observe(Seen(0, 0, 1, 1.0, 2.1, True, True, False))
    p_G, _ = laws.outcomes(0, np.array([1]), np.array([1.0, 2.0, 4.1]))
    assert p_G[0] == pytest.approx(p_G[1])
    assert 0.4 < p_G[0] < 0.6
    assert p_G[2] == pytest.approx(0.0)


def test_a_cold_row_counts_until_a_warm_one_is_in() -> None:
    laws = WorkLaws(1)
    laws.observe(Seen(0, 0, 0, 1.0, 9.0, False, True, True, WorkTimes((9.0,), 9.0), 3.0))
    assert laws.known_N.all()
    assert laws.table(0)[0].tolist() == [9.0]
    laws.observe(seen(1, (1.0,), 1.0))
    assert laws.table(0)[0].tolist() == [1.0]
    assert laws.overhead_N().tolist() == [0.1]


def test_one_message_that_was_held_up_moves_no_cut() -> None:
    laws = WorkLaws(1)
    for step in range(20):
        laws.observe(seen(step, (1.0,), 1.0, overhead=5.0 if step == 15 else 0.1))
        if step > 9:
            assert laws.overhead_N(3.0)[0] < 0.12
    for step in (20, 21):  # the second in a row is the link's
        laws.observe(seen(step, (1.0,), 1.0, overhead=5.0))
    assert laws.overhead_N(3.0)[0] > 3.0


def test_a_worker_of_which_little_is_known_is_like_the_others() -> None:
    laws = WorkLaws(3)
    laws.observe(seen(0, (9.0,), 9.0, worker=0))
    laws.observe(seen(0, (1.0,), 1.0, worker=1))
    start_T, _, weight_T = laws.table(0)
    assert start_T.tolist() == [9.0, 1.0]
    assert 0.3 < weight_T[0] < 0.5
    for step in range(1, 8):
        laws.observe(seen(step, (9.0,), 9.0, worker=0))
    assert laws.table(0)[0].tolist() == [9.0] * 8
    assert not laws.known_N[2]


@pytest.mark.parametrize("seed", range(3))
def test_a_worker_that_changes_loses_its_past_and_one_that_varies_does_not(seed: int) -> None:
    """A worker with exponential times is taken to have changed in 1,000 rows with a chance below 1e-3."""
    rng, laws = np.random.default_rng(seed), WorkLaws(1)
    for step in range(1000):
        pace = 1.0 + rng.exponential(4.0)
        laws.observe(seen(step, tuple(pace * np.arange(1, 9)), 8 * pace))
        assert not laws.changed
    for step in range(1000, 1014):
        pace = 10.0 * (1.0 + rng.exponential(0.2))
        laws.observe(seen(step, (10 * pace,), 10 * pace))
    assert laws.changed == {0}
    assert laws.count(0) < 16


def test_a_worker_in_a_slow_spell_is_expected_to_stay_slow_and_is_its_old_self_after_it() -> None:
    laws, steps = WorkLaws(1), count()

    def rows(number: int, seconds: float) -> None:
        for step in islice(steps, number):
            laws.observe(seen(step, tuple(seconds * np.arange(1, 5)), 4 * seconds))

    def share_of_slow() -> float:
        start_T, _, weight_T = laws.table(0)
        return float(weight_T[start_T > 2].sum())

    rows(20, 1.0)
    rows(1, 8.0)
    assert laws.spells.moved == {0}
    assert share_of_slow() == pytest.approx(1 / 2)  # nothing is known of spells: one slow and one fast row before
    rows(5, 8.0)
    assert share_of_slow() > 0.8
    rows(1, 1.0)
    assert share_of_slow() < 0.06  # the spell's first row: how often spells begin
    again = WorkLaws(1)
    again.load_state_dict(laws.state_dict())
    assert [a.tolist() for a in again.table(0)] == [a.tolist() for a in laws.table(0)]
    assert not laws.changed


def test_rows_that_are_slow_by_chance_soon_tell_nothing_of_the_next_one() -> None:
    """Of 400 exponential rows a slow one is followed by a slow one with the chance of any; error probability below 1e-3."""
    rng, laws = np.random.default_rng(5), WorkLaws(1)
    for step in range(400):
        pace = 1.0 + rng.exponential(4.0)
        laws.observe(seen(step, tuple(pace * np.arange(1, 9)), 8 * pace))
    assert laws.spells.persistence < 0.3
    laws.spells.moved.clear()
    for step in range(400, 402):
        laws.observe(seen(step, (80.0, 160.0), 160.0))
    assert not laws.spells.moved
    weight_T = laws.table(0)[2]
    assert weight_T == pytest.approx(0.5 ** (np.arange(100)[::-1] / 25.0) / (0.5 ** (np.arange(100) / 25.0)).sum())


def test_cuts_leave_room_for_the_message() -> None:
    laws = WorkLaws(2)
    for step in range(60):
        laws.observe(seen(step, (0.5,), 0.5, overhead=0.2, worker=0))
        laws.observe(seen(step, (0.5,), 0.5, overhead=0.05, worker=1))
    terms = with_cuts(StepTerms(2.0, np.full(2, 0.1)), laws)
    assert terms.aim == 2.0
    assert terms.deadline > 2.0
    assert terms.cut_N is not None
    assert terms.cut_N == pytest.approx([1.8, 1.95], abs=0.01)
    known = with_cuts(StepTerms(2.0, np.full(2, 0.1)), laws, known_p=True)
    assert known.cut_N is not None
    assert known.cut_N.tolist() == [2.0, 2.0]


def test_what_was_learned_comes_back() -> None:
    laws, again = WorkLaws(2), WorkLaws(2)
    laws.observe(seen(0, (1.0, 1.5), 1.5))
    again.load_state_dict(laws.state_dict())
    cut_G = np.array([0.5, 1.2])
    assert [a.tolist() for a in again.outcomes(0, np.array([3]), cut_G)] == [
        a.tolist() for a in laws.outcomes(0, np.array([3]), cut_G)
    ]
    with pytest.raises(ValueError, match="2 workers, not 3"):
        WorkLaws(3).load_state_dict(laws.state_dict())


def test_the_first_partition_is_done_at_its_share_of_a_delay() -> None:
    delays = make_delays("shifted-exponential", 1, shift=0.1, mean=0.2, scale_with_load=True)
    first = FirstPartition(delays, True)
    assert first.seconds(0, 3, 8.0, 0) == delays.seconds(0, 3, 8.0, 0) / 8
    assert first.survival(0, np.array([8.0]), 0.3) == delays.survival(0, np.array([1.0]), 0.3)


def test_where_arrivals_contradict_workers_of_which_nothing_came_lose_their_past() -> None:
    """The cut at 0.9 is no slow row by itself: only that nobody's partition is done any more tells."""
    laws = WorkLaws(2)
    for step in range(20):
        for worker in range(2):
            laws.observe(seen(step, (1.0,), 1.0, worker=worker))
    for step in range(20, 23):
        laws.observe(Seen(0, 0, step, 1.0, 1.0, True, True, False))
        laws.observe(seen(step, (1.0,), 1.0, worker=1))
    assert not laws.spells.moved
    laws.doubt()
    assert laws.table(0)[0][:3].tolist() == pytest.approx([1.8, 1.8, 1.8])  # twice what it had
    assert laws.count(0) == 3
    assert laws.count(1) == 23


def test_a_spell_is_over_where_its_worker_loses_its_past() -> None:
    laws = WorkLaws(1)
    for step in range(20):
        laws.observe(seen(step, (1.0,), 1.0))
    for step in range(20, 24):
        laws.observe(Seen(0, 0, step, 1.0, 9.0, True, True, False))  # nothing by 8.9: a slow spell
    assert laws.spells.slow(0) == 4
    laws.doubt()
    assert laws.spells.slow(0) == 0
    assert laws.table(0)[0].min() == pytest.approx(17.8)


def test_the_deviation_of_a_worker_that_is_not_heard_of_any_more_counts_no_longer() -> None:
    laws = WorkLaws(2)
    laws.observe(seen(0, (1.0,), 1.0, overhead=0.8, worker=1))  # its first one, and its last
    for step in range(40):
        laws.observe(seen(step, (1.0,), 1.0, overhead=0.1, worker=0))
        if step == 10:
            assert laws.deviation() == pytest.approx(0.4)
    assert laws.deviation() < 0.01
    again = WorkLaws(2)
    again.load_state_dict(laws.state_dict())
    assert again.deviation() == laws.deviation()


def test_rows_unlike_the_past_are_found_as_by_all_of_them() -> None:
    rng, found = np.random.default_rng(5), {True: 0, False: 0}
    for case in range(2000):
        rows = RowWindow()
        spread, change = rng.choice([0.02, 0.2, 1.0]), rng.choice([0.4, 0.6, 0.7, 1.0, 1.45, 1.6, 3.0])
        n = int(rng.integers(CHANGED + PAST, 110))
        for i in range(n):
            slow = change if i >= n - CHANGED else 1.0
            rows.add(
                slow * (1.0 + rng.exponential(spread)),
                slow * rng.choice([0.0, 0.1]),
                again=bool(case % 2 and i % 7 == 0),
            )
        if case % 5 == 0:
            rows.stretch(1.7, 3)
        time_T = rows.start_T + rows.pace_T * (PARTS - 1)
        assert rows.seconds_T(PARTS).tolist() == time_T.tolist()
        past_T, last_T = time_T[:-CHANGED], time_T[-CHANGED:]
        slower, faster = FACTOR * np.quantile(past_T, 0.9), np.quantile(past_T, 0.1) / FACTOR
        is_new = bool(last_T.min() > slower or last_T.max() < faster)
        assert WorkLaws._is_new(rows) == is_new
        found[is_new] += 1
    assert min(found.values()) > 300
