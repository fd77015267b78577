"""The closed forms of math section 2 against a numerical optimiser and against limits taken by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from gcdist.coding.optimal import row_costs, row_sums, total_gain


def test_closed_form_equals_a_numerical_optimiser() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        n, k = int(rng.integers(2, 8)), float(rng.integers(1, 20))
        cost_N = row_costs(rng.uniform(0.05, 0.9, n), rng.uniform(0, 2, n))
        x_N = row_sums(cost_N, k)
        found = minimize(
            lambda Y, c=cost_N: float(c @ Y**2),
            np.full(n, k / n),
            jac=lambda Y, c=cost_N: 2 * c * Y,
            constraints={"type": "eq", "fun": lambda Y, k=k: Y.sum() - k, "jac": np.ones_like},
            method="SLSQP",
            options={"ftol": 1e-15, "maxiter": 500},
        )
        assert found.fun == pytest.approx(cost_N @ x_N**2, rel=1e-8)
        assert cost_N @ x_N**2 == pytest.approx(k * k / total_gain(cost_N), rel=1e-12)


def test_costs_at_the_edges() -> None:
    cost = row_costs(np.array([0.0, 1.0, 1.0, 0.5, 0.5]), np.array([0.0, 0.0, np.inf, np.inf, 0.0]))
    assert cost.tolist() == [0.0, np.inf, np.inf, np.inf, 1.0]


def test_p_of_zero_takes_everything() -> None:
    Y = row_sums(row_costs(np.array([0.0, 0.3, 0.0, 1.0])), 6.0)
    assert Y.tolist() == [3.0, 0.0, 3.0, 0.0]
    assert total_gain(row_costs(np.array([0.0, 0.3]))) == np.inf
    assert row_sums(np.zeros(2), 3.0, np.array([1.0, 2.0])).tolist() == [1.0, 2.0]


def test_equal_p_shares_equally_and_one_worker_takes_all() -> None:
    assert row_sums(row_costs(np.full(4, 0.25)), 8.0).tolist() == [2.0] * 4
    assert row_sums(row_costs(np.array([0.7])), 5.0).tolist() == [5.0]


def test_nobody_usable_is_an_error() -> None:
    with pytest.raises(ValueError, match="no worker is usable"):
        row_sums(row_costs(np.ones(3)), 3.0)
