"""Designs that the package does not use: dependent arrivals, infinitely fine partitions, weights from counts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.optimize import nnls

from gcdist.coding.optimal import row_costs
from gcdist.types import F64

_HALVINGS = 50


def dependent_row_sums(excess_NN: F64, total: float) -> tuple[F64, float]:
    """Row sums (N,) and F for dependent arrivals: minimise ``Y^T C Y`` with ``sum Y = total``, ``Y >= 0`` (math section
    2).

    ``C_il = P(I_i I_l = 1)/(pi_i pi_l) - 1``, with ``c_i`` on the diagonal; positive definite. ``F = total^2/(Y^T C
    Y)``. Without the sign, ``Y = total C^-1 1/(1^T C^-1 1)``; the quadratic programme is one non-negative least squares
    problem, because its solution only scales with the sum that is asked for.

    >>> Y, F = dependent_row_sums(np.diag([0.5, 0.25]), 3.0)
    >>> Y.round(9).tolist(), round(F, 9)
    ([1.0, 2.0], 6.0)
    """
    root_NN = np.linalg.cholesky(excess_NN).T
    target = np.append(np.zeros(len(excess_NN)), 1.0)
    Y_N, _ = nnls(np.vstack([root_NN, np.ones(len(excess_NN))]), target)
    Y_N = np.asarray(Y_N * (total / Y_N.sum()), np.float64)
    return Y_N, float(total**2 / (Y_N @ excess_NN @ Y_N))


def weight_from_counts(arrivals: int, rounds: int) -> float:
    """``w = (m+1)/(A+1)`` after A arrivals in m independent rounds: ``E w (1-p) = 1 - p^(m+1)`` (math section 5).

    The plug-in m/A is biased upward.
    """
    if not 0 <= arrivals <= rounds:
        raise ValueError(f"{arrivals} arrivals in {rounds} rounds")
    return (rounds + 1) / (arrivals + 1)


def loads_by_slope(
    late: Callable[[int, F64], F64], omega_N: F64, total: float, tolerance: float = 1e-12
) -> tuple[F64, F64]:
    """Real loads ``Y`` (N,) with equal derivative ``h_i'(Y_i)``, ``sum Y = total``, and their p: infinitely fine
    partitions.

    Each h_i is taken as convex (checked by the tests for shifted-exponential delays). Nested bisection; derivative by
    central difference, so Y is good to about 1e-6.
    """
    n = len(omega_N)

    def h(Y_N: F64) -> F64:
        p_N = np.array([float(late(i, Y_N[i : i + 1])[0]) for i in range(n)])
        return np.asarray(Y_N**2 * row_costs(p_N, omega_N), np.float64)

    def slope(Y_N: F64) -> F64:
        step = 1e-6 * np.maximum(Y_N, 1e-9)
        with np.errstate(invalid="ignore"):
            found: F64 = (h(Y_N + step) - h(Y_N - step)) / (2 * step)
        return np.asarray(np.where(np.isfinite(found), found, np.inf), np.float64)

    def at(multiplier: float) -> F64:
        low, high = np.zeros(n), np.full(n, float(total))
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            above = slope(middle) > multiplier
            low, high = np.where(above, low, middle), np.where(above, middle, high)
        return np.asarray((low + high) / 2, np.float64)

    low, high = 0.0, 1.0
    while at(high).sum() < total * (1 - 1e-9) and high < 1e30:
        high *= 4
    while high - low > tolerance * high:
        middle = (low + high) / 2
        low, high = (middle, high) if at(middle).sum() < total else (low, middle)
    Y_N = at(high) * (total / at(high).sum())
    return Y_N, np.array([float(late(i, Y_N[i : i + 1])[0]) for i in range(n)])
