"""Loads of workers who cannot read everything, against all loads that there are."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest

from gcdist.coding.held_loads import Held, dealt_among
from gcdist.types import I64, Mask


def can(load_N: I64, held_NK: Mask) -> bool:
    """By trying all owners."""
    owners = [np.flatnonzero(held_NK[:, j]) for j in range(held_NK.shape[1])]
    wanted = tuple(load_N.tolist())
    return any(tuple(np.bincount(each, minlength=len(held_NK)).tolist()) == wanted for each in product(*owners))


@pytest.mark.parametrize("seed", range(40))
def test_the_cheapest_loads_that_fit(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, k = 3, 5
    held_NK = rng.random((n, k)) < 0.5
    held_NK[rng.integers(n, size=k), np.arange(k)] = True
    held = Held.of(n, {i: np.flatnonzero(row).tolist() for i, row in enumerate(held_NK)}, k)
    cost_NL = np.concatenate(
        [np.zeros((n, 1)), np.cumsum(np.sort(rng.exponential(size=(n, k)), axis=1), axis=1)], axis=1
    )
    cap_N = held_NK.sum(axis=1).astype(np.float64)
    every = [np.array(each) for each in product(range(k + 1), repeat=n) if sum(each) == k]
    fitting = [each for each in every if can(each, held_NK)]
    if held is None:
        assert held_NK.all()
        return
    assert [held.fit(each) for each in every] == [can(each, held_NK) for each in every]
    assert held.can_share(cap_N, k)
    found = held.loads(cost_NL, k, cap_N)
    cost = [float(cost_NL[np.arange(n), each].sum()) for each in fitting]
    assert float(cost_NL[np.arange(n), found].sum()) == pytest.approx(min(cost))
    for each in every:
        A_NK = dealt_among(each, held_NK)
        assert (A_NK is not None) == can(each, held_NK)
        if A_NK is not None:
            given_NK = A_NK.toarray()
            assert given_NK.sum(axis=0).tolist() == [1.0] * k
            assert given_NK.sum(axis=1).tolist() == each.tolist()
            assert not given_NK[~held_NK].any()


def test_a_partition_that_nobody_reads_or_can_take_is_an_error() -> None:
    held = Held.of(2, {0: [0, 1], 1: [1]}, 3)
    assert held is not None
    assert not held.all_read()
    assert not held.can_share(np.array([3.0, 3.0]), 3)
    cost_NL = np.tile(np.arange(4.0), (2, 1))
    with pytest.raises(ValueError, match="3 partitions do not fit the workers that can read them: 2 do"):
        held.loads(cost_NL, 3, np.array([3.0, 3.0]))


def test_everybody_reads_everything() -> None:
    assert Held.of(2, {0: [0, 1, 2]}, 3) is None


def test_order_of_the_workers_changes_nothing() -> None:
    parts = [[0, 1, 2], [2, 3], [3, 4, 5]]
    cost_NL = np.array([[0, 1, 5, 9, 20, 30, 40], [0, 2, 3, 60, 70, 80, 90], [0, 3, 6, 9, 20, 30, 40]], np.float64)
    cost_NL = np.maximum.accumulate(cost_NL, axis=1)
    totals = set()
    for order in permutations(range(3)):
        held = Held.of(3, {i: parts[o] for i, o in enumerate(order)}, 6)
        assert held is not None
        mine_NL = cost_NL[list(order)]
        load_N = held.loads(mine_NL, 6, np.array([float(len(parts[o])) for o in order]))
        totals.add(float(mine_NL[np.arange(3), load_N].sum()))
    assert len(totals) == 1


def test_the_least_noise_is_that_of_shares_which_can_be_read() -> None:
    held = Held.of(3, {0: [0, 1, 2], 1: [1, 2], 2: [3]}, 4)
    assert held is not None
    # worker 3 has its quarter whatever it costs; the others share the rest as 2 to 1
    assert held.least_noise(np.array([1.0, 2.0, 8.0])) == pytest.approx(0.5**2 + 2 * 0.25**2 + 8 * 0.25**2)
    assert held.least_noise(np.array([1.0, 2.0, np.inf])) == np.inf
    assert held.among(np.array([0, 1])).reached().least_noise(np.ones(2)) == pytest.approx(0.5)
