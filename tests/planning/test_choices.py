"""Automatic choices by one objective: bits, deadline and loads."""

from __future__ import annotations

import numpy as np
import pytest

from gcdist.planning.bits_choice import choose_bits
from gcdist.planning.cut_choice import CutChoice, choose_cut
from gcdist.planning.objective import Prospect
from gcdist.straggler import WorkLaws
from gcdist.types import F64, I64, Seen, WorkTimes

OMEGA = np.full(33, np.inf)
OMEGA[1:9] = 4.0 ** -np.arange(8)  # four times less with each bit
K = 32


def laws_of(pace_N: tuple[float, ...], rows: int = 30, vary: float = 0.0, seed: int = 0) -> WorkLaws:
    """Laws that have seen so many rows of 8 partitions; a partition takes pace (1 + vary Exp(1)), one draw a row."""
    laws, rng = WorkLaws(len(pace_N)), np.random.default_rng(seed)
    for step in range(rows):
        for worker, pace in enumerate(pace_N):
            done = pace * (1 + vary * rng.exponential()) * np.arange(1, 9)
            times = WorkTimes(tuple(done.tolist()), float(done[-1]))
            laws.observe(Seen(worker, worker, step, 1.0, float(done[-1]), False, True, False, times, 0.001))
    return laws


def chosen(
    laws: WorkLaws,
    spread: float,
    noise_most: float = 0.2,
    present: float = np.inf,
    cap_N: F64 | None = None,
    load_N: I64 | None = None,
) -> CutChoice:
    live, omega_N = np.ones(laws.workers, bool), np.zeros(laws.workers)
    return choose_cut(laws, live, K, omega_N, spread, noise_most, present, 0.001, cap_N, load_N)


def test_links_that_take_no_time_get_the_most_bits_and_slow_ones_few() -> None:
    now = Prospect(0.1, 0.0, 0.05)
    assert choose_bits(now, 4, OMEGA, 1e-4, 8, 0.2) > 4
    assert choose_bits(now, 4, OMEGA, 1e-4, 4, 0.2) == 4
    assert choose_bits(Prospect(0.1, 0.0, 0.001), 4, OMEGA, 0.09, 8, 0.2) < 4
    assert choose_bits(Prospect(0.1, 0.0, 0.001), 4, OMEGA, 1e-4, 8, 0.2) == 4
    assert choose_bits(now, 4, np.full(33, np.inf), 1e-4, 8, 0.2) == 4


def test_fewer_bits_never_add_more_noise_than_is_borne() -> None:
    assert choose_bits(Prospect(0.1, 0.15, 0.02), 4, OMEGA, 0.1, 8, 0.2) == 4


@pytest.mark.parametrize("spread", [1 / K, 1e-3])
def test_where_all_take_the_same_time_all_are_waited_for(spread: float) -> None:
    """Also where partitions agree, and a smaller batch would do: the batch is the user's."""
    found = chosen(laws_of((0.01,) * 4), spread)
    assert np.isinf(found.deadline)
    assert found.load_N.tolist() == [8] * 4


def test_partitions_that_agree_are_cut_earlier() -> None:
    laws = laws_of((0.01,) * 4, vary=2.0)
    assert chosen(laws, 1e-3).deadline < chosen(laws, 1 / K).deadline


def test_loads_follow_speeds_and_nobody_waits() -> None:
    found = chosen(laws_of((0.01, 0.01, 0.02, 0.1)), 1 / K)
    assert found.load_N.sum() == K
    assert found.load_N[0] > found.load_N[2] > found.load_N[3]
    assert found.prospect.seconds <= found.waiting.seconds < 1.3 * K * 0.01 / 2.6


def test_loads_are_balanced_where_all_are_waited_for() -> None:
    found = chosen(laws_of((0.01, 0.01, 0.02, 0.04)), 10.0)
    assert found.waiting.seconds < 1.1 * K * 0.01 / (1 + 1 + 0.5 + 0.25) + 0.01
    assert found.load_N.sum() == K
    assert found.load_N[3] <= 4


def test_a_worker_that_can_read_little_gets_no_more() -> None:
    found = chosen(laws_of((0.01,) * 4, vary=2.0), 0.01, cap_N=np.array([3.0, 32.0, 32.0, 32.0]))
    assert found.load_N[0] <= 3
    assert found.load_N.sum() == K


@pytest.mark.parametrize("noise_most", [0.05, 0.2, 1.0])
def test_noise_is_bounded_and_less_of_it_takes_longer(noise_most: float) -> None:
    laws = laws_of((0.01, 0.012, 0.015, 0.02), vary=2.0)
    found, wide = chosen(laws, 1 / K, noise_most), chosen(laws, 1 / K, 10.0)
    assert found.prospect.noise <= noise_most + found.waiting.noise + 1e-12
    assert found.prospect.cost >= 0.999 * wide.prospect.cost
    again = chosen(laws, 1 / K, noise_most, present=found.deadline, load_N=found.load_N)
    assert again.deadline == found.deadline
    assert again.load_N.tolist() == found.load_N.tolist()


def test_loads_of_those_who_were_here_before_are_not_kept() -> None:
    laws = laws_of((0.01,) * 8, vary=2.0)
    before = np.array([K, 0, 0, 0, 0, 0, 0, 0])  # more than anybody may have now
    found = chosen(laws, 1 / K, load_N=before)
    assert found.load_N.max() < K
    assert found.load_N.sum() == K
