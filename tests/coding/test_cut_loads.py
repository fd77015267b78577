"""Loads of rows that are cut: the cheapest whole loads, against all of them."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from gcdist.coding import cut_loads
from gcdist.coding.cut_loads import cheapest_loads, cut_costs, cut_plan_loads
from gcdist.types import F64, Problem


def brute(cost_NL: F64, k: int, cap_N: F64) -> float:
    """The least sum over all whole loads within the caps."""
    n, most = cost_NL.shape[0], cost_NL.shape[1] - 1
    sums = [
        sum(float(cost_NL[i, load]) for i, load in enumerate(loads))
        for loads in product(range(most + 1), repeat=n)
        if sum(loads) == k and all(load <= cap for load, cap in zip(loads, cap_N, strict=True))
    ]
    return min(sums)


def test_loads_are_the_cheapest_of_all() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        n, k = int(rng.integers(2, 5)), int(rng.integers(2, 8))
        rate_N = rng.uniform(0.3, 6.0, n)  # partitions that a worker does by its cut
        load_L = np.arange(1, k + 1)
        excess_NL = np.maximum(0.0, load_L[None, :] ** 2 / np.maximum(1.0, rate_N[:, None]) - load_L)
        p_N = rng.choice([0.0, 0.05, 0.3, 0.9], n)
        cost_NL = cut_costs(p_N, rng.uniform(0, 0.2, n), excess_NL, float(rng.uniform(0.001, 1)), k)
        cap_N = rng.integers(1, k + 1, n).astype(np.float64)
        if cap_N.sum() < k:
            with pytest.raises(ValueError, match="do not fit"):
                cheapest_loads(cost_NL, k, cap_N)
            continue
        load_N = cheapest_loads(cost_NL, k, cap_N)
        assert load_N.sum() == k
        assert np.all(load_N <= cap_N)
        found = float(cost_NL[np.arange(n), load_N].sum())
        assert found == pytest.approx(brute(cost_NL, k, cap_N), rel=1e-12)


def test_who_is_slow_computes_less_and_who_cannot_arrive_nothing() -> None:
    load_L = np.arange(1, 13)
    excess_NL = np.stack([np.maximum(0.0, load_L**2 / rate - load_L) for rate in (6.0, 3.0, 3.0, 9.0)])
    cost_NL = cut_costs(np.array([0.05, 0.05, 0.05, 1.0]), np.full(4, 0.02), excess_NL, 0.1, 12)
    assert cheapest_loads(cost_NL, 12, np.full(4, 12.0)).tolist() == [6, 3, 3, 0]


def test_loads_that_are_not_looked_at_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    for case in range(60):
        n = int(rng.integers(2, 9))
        k = n * int(rng.integers(1, 6))
        # partitions that a worker does by its cut; in every third case one worker alone is of use
        rate_N = rng.uniform(0.3, 6.0, n) if case % 3 else np.where(np.arange(n) == 0, 1e3, 0.3)

        def excess(worker: int, load_L: F64, rate_N: F64 = rate_N) -> F64:
            excess_L: F64 = np.floor(np.maximum(0.0, load_L**2 / max(1.0, rate_N[worker]) - load_L))
            return excess_L

        problem = Problem(
            size_K=np.full(k, 1 / k),
            late=lambda worker, load_L: np.zeros(len(load_L)),
            noise=np.array([np.inf, 0.1]),
            bits_total=float(n),
            bits_cap_N=np.ones(n, np.int64),
            load_cap_N=np.where(rng.random(n) < 0.3, 2.0, np.inf) if case % 3 == 2 else np.full(n, np.inf),
            excess=excess,
            spread=1.0,
        )
        p_N, omega_N = rng.choice([0.0, 0.05, 0.3], n), rng.choice([0.1, 0.2], n)
        with monkeypatch.context() as patch:
            patch.setattr(cut_loads, "FIRST_LOOK", k)
            every = cut_plan_loads(problem, p_N, omega_N)
        for first in (1, 2):
            monkeypatch.setattr(cut_loads, "FIRST_LOOK", first)
            assert cut_plan_loads(problem, p_N, omega_N).tolist() == every.tolist()


def test_nobody_can_take_everything() -> None:
    problem = Problem(
        size_K=np.full(40, 1 / 40),
        late=lambda worker, load_L: np.zeros(len(load_L)),
        noise=np.array([np.inf, 0.1]),
        bits_total=2.0,
        bits_cap_N=np.ones(2, np.int64),
        load_cap_N=np.array([3.0, 30.0]),
        excess=lambda worker, load_L: np.zeros(len(load_L)),
    )
    with pytest.raises(ValueError, match="at most 33 do"):
        cut_plan_loads(problem, np.zeros(2), np.full(2, 0.1))
