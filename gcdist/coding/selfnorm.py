"""Self-normalised decoding (Hajek estimator): ``ghat = k sum_i I_i a_i Q(v_i) / sum_i I_i a_i Y_i`` (math section 5).

Unbiased given at least one arrival iff ``e_i = E[k I_i a_i / sum_l I_l a_l Y_l | an arrival] = 1`` for every row. Its
error for partitions that agree is 0. The expectations are one-dimensional integrals, ``1/x = int_0^inf exp(-s x) ds``.
"""

from __future__ import annotations

import numpy as np

from gcdist.types import F64

_STEP = 0.125  # of the trapezoid rule in log s; integrands are analytic, so the rule is exact to rounding
_SOLVED = 1e-11
_VANISHED = 1e-12  # a weight this far below the others is on its way to 0: there is no solution


def _ratios(a_N: F64, Y_N: F64, p_N: F64) -> tuple[F64, F64, F64]:
    """Quadrature nodes s (Q,), weights times ``Phi(s) = prod_l phi_l(s)`` (Q,), and ``exp(-s a_i Y_i)/phi_i(s)`` (N,
    Q).
    """
    x_N = a_N * Y_N
    lo = np.log(1e-18 / max(x_N.sum(), 1e-300))
    hi = np.log(800.0 / x_N.min())
    u = np.arange(lo, hi + _STEP, _STEP)
    s_Q = np.exp(u)
    decay_NQ = np.exp(-np.minimum(x_N[:, None] * s_Q[None, :], 745.0))
    phi_NQ = p_N[:, None] + (1 - p_N)[:, None] * decay_NQ
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio_NQ = np.where(p_N[:, None] > 0, decay_NQ / phi_NQ, 1.0)
        log_phi = np.where(p_N[:, None] > 0, np.log(phi_NQ), -x_N[:, None] * s_Q[None, :])
    return s_Q, _STEP * s_Q * np.exp(log_phi.sum(axis=0)), ratio_NQ


def expectations(a_N: F64, Y_N: F64, p_N: F64, k: float) -> tuple[F64, F64]:
    """``e_i`` (N,) and ``E_il`` (N, N) given at least one arrival; rows of positive Y and p < 1 only."""
    s_Q, weight_Q, ratio_NQ = _ratios(a_N, Y_N, p_N)
    some = -np.expm1(np.sum(np.log(p_N))) if np.all(p_N > 0) else 1.0
    scale_N = k * a_N * (1 - p_N)
    e_N = scale_N * (ratio_NQ @ weight_Q) / some
    E_NN = np.outer(scale_N, scale_N) * ((ratio_NQ * (weight_Q * s_Q)) @ ratio_NQ.T) / some
    np.fill_diagonal(E_NN, k * a_N * scale_N * (ratio_NQ @ (weight_Q * s_Q)) / some)
    return e_N, E_NN


def solve(Y_N: F64, p_N: F64, k: float, rounds: int = 500) -> F64 | None:
    """The weights a (N,) with ``e_i = 1`` by ``a_i <- a_i/e_i`` from ``1/(1-p_i)``; None if they do not exist.

    No weights exist if a small row often arrives alone (even a -> 0 leaves ``e_i > 1``) or if a row sum is negative.
    Rows must have p < 1.
    """
    if np.any(Y_N <= 0):
        return None
    a_N = 1 / (1 - p_N)
    some = -np.expm1(np.sum(np.log(p_N))) if np.all(p_N > 0) else 1.0
    alone_N = np.array([np.prod(np.delete(p_N, i)) for i in range(len(p_N))]) if len(p_N) < 200 else np.zeros(len(p_N))
    if np.any((1 - p_N) * alone_N * k / Y_N / some > 1 + 1e-12):
        return None
    for _ in range(rounds):
        _, weight_Q, ratio_NQ = _ratios(a_N, Y_N, p_N)
        e_N = k * a_N * (1 - p_N) * (ratio_NQ @ weight_Q) / some
        if np.max(np.abs(e_N - 1)) <= _SOLVED:
            return a_N
        a_N = a_N / e_N
        if a_N.min() < _VANISHED * a_N.max():
            return None
    return None


def self_normalised_error(a_N: F64, Y_N: F64, p_N: F64, omega_N: F64, gram_v_NN: F64, k: float) -> float:
    """``E|ghat - g|^2 = sum_il (E_il - 1) <v_i, v_l> + sum_i omega_i E_ii |v_i|^2`` given an arrival; ``gram_v`` is
    <v_i, v_l>.
    """
    _, E_NN = expectations(a_N, Y_N, p_N, k)
    noise = float(omega_N @ (np.diag(E_NN) * np.diag(gram_v_NN)))
    return float(np.sum((E_NN - 1) * gram_v_NN)) + noise
