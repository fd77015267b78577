"""Partitions that differ in cost: a cut row is unbiased as long as any partition alone would be done by the cut."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcdist.protocol.order import partition_order


def weights(costs: list[int], cut: int) -> tuple[np.ndarray, float]:
    """Mean over all orders of l/m for the partitions done by the cut (l,), and the chance that one is done."""
    total, some, count = np.zeros(len(costs)), 0, 0
    for order in permutations(range(len(costs))):
        count += 1
        ends = np.cumsum([costs[j] for j in order])
        done = int(np.searchsorted(ends, cut, side="right"))
        if done:
            some += 1
            total[list(order[:done])] += len(costs) / done
    return total / count, some / count


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(1, 30))
def test_the_weight_of_a_partition_is_its_chance_to_be_done_as_the_first(costs: list[int], cut: int) -> None:
    found, some = weights(costs, cut)
    fits = np.array(costs) <= cut
    assert np.allclose(
        found, fits
    )  # E[l/m 1{j done}; m >= 1] = P(j is done when it comes first), whatever else it costs
    assert some == pytest.approx(fits.mean())


@pytest.mark.parametrize(("cut", "cheap", "dear"), [(4.5, 1.0, 1.0), (10.0, 1.0, 1.0), (3.0, 2.0, 0.0)])
def test_the_orders_of_workers_give_these_weights_at_costs_of_one_to_four(
    cut: float, cheap: float, dear: float
) -> None:
    """4,000 steps: a mean of 4 partitions has a standard error below 0.02; 0.1 is 5 of them (error below 1e-5)."""
    costs, parts = np.repeat([1.0, 4.0], 4), tuple((j, 1.0) for j in range(8))
    total, some = np.zeros(8), 0
    for step in range(4000):
        order = [j for j, _ in partition_order(1, step, 0, parts)]
        done = int(np.searchsorted(np.cumsum(costs[order]), cut, side="right"))
        if done:
            some += 1
            total[order[:done]] += 8 / done
    assert total[:4].mean() / some == pytest.approx(cheap, abs=0.1)
    assert total[4:].mean() / some == pytest.approx(dear, abs=0.1)
