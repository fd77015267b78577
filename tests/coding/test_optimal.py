"""The closed forms of math section 2 against a numerical optimiser and against limits taken by hand."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest
from scipy.optimize import minimize

from gcdist.coding.optimal import row_costs, row_sums, total_gain
from tests.reference.designs import dependent_row_sums, weight_from_counts


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


def test_dependent_arrivals_against_the_closed_form_and_an_optimiser() -> None:
    rng = np.random.default_rng(1)
    signs = set()
    for _ in range(20):
        n = int(rng.integers(2, 6))
        x = rng.normal(size=(n, n + 1))
        C = x @ x.T + 0.1 * np.eye(n)
        Y, F = dependent_row_sums(C, 4.0)
        free = np.linalg.solve(C, np.ones(n))
        signs.add(bool(np.all(free >= 0)))
        if np.all(free >= 0):
            np.testing.assert_allclose(Y, 4 * free / free.sum(), atol=1e-9)
            assert pytest.approx(free.sum()) == F
        found = minimize(
            lambda y, C=C: float(y @ C @ y),
            np.full(n, 4 / n),
            jac=lambda y, C=C: 2 * C @ y,
            bounds=[(0, None)] * n,
            constraints={"type": "eq", "fun": lambda y: y.sum() - 4},
            method="SLSQP",
            options={"ftol": 1e-15},
        )
        assert pytest.approx(found.fun, rel=1e-7) == Y @ C @ Y
    assert signs == {True, False}


def test_weights_from_counts() -> None:
    p, m = 0.8, 20
    mean = sum(comb(m, a) * (1 - p) ** a * p ** (m - a) * weight_from_counts(a, m) for a in range(m + 1))
    assert mean * (1 - p) == pytest.approx(1 - p ** (m + 1))
    with pytest.raises(ValueError, match="5 arrivals in 4 rounds"):
        weight_from_counts(5, 4)
