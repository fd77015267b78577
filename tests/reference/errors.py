"""Errors of inverse-weight decoding by other formulas than the package uses (math sections 1, 2 and 4)."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

from gcdist.coding.errors import cost_times
from gcdist.types import F64, Plan


def exact_error(A_RK: csr_array, cost_R: F64, gram_KK: F64) -> float:
    """``sum_i c_i |v_i|^2`` with ``|v_i|^2 = alpha_i G alpha_i^T`` for the Gram matrix ``G_jl = <g_j, g_l>``."""
    return float(np.sum(cost_times(cost_R, _norms(A_RK, gram_KK))))


def exact_error_of_samples(A_RK: csr_array, cost_R: F64, g_KD: F64) -> float:
    """As `exact_error`, from the partitions' gradients (K, D)."""
    return float(np.sum(cost_times(cost_R, np.square(A_RK @ g_KD).sum(axis=1))))


def dependent_error(A_RK: csr_array, joint_RR: F64, omega_R: F64, gram_KK: F64) -> float:
    """For any arrival law, ``joint_RR = P(I_i I_l = 1)`` with the arrival probabilities on the diagonal (section 1)."""
    pi_R = np.diag(joint_RR)
    gram_v_RR = A_RK @ (A_RK @ gram_KK).T
    return float(np.sum((joint_RR / np.outer(pi_R, pi_R) - 1) * gram_v_RR) + (omega_R / pi_R) @ np.diag(gram_v_RR))


def spread_error(A_RK: csr_array, cost_R: F64, deviation: float) -> float:
    """What partitions that differ add on average over labellings, ``V = mean_j |g_j - g/k|^2 = deviation`` (section 4).

    ``k/(k-1) V sum_i c_i (sum_j alpha_ij^2 - Y_i^2/k)``; 0 for one partition.
    """
    k = A_RK.shape[1]
    if k == 1:
        return 0.0
    squares_R = np.asarray(A_RK.power(2).sum(axis=1)).ravel()
    Y_R = np.asarray(A_RK.sum(axis=1)).ravel()
    return float(k / (k - 1) * deviation * np.sum(cost_times(cost_R, np.maximum(squares_R - Y_R**2 / k, 0.0))))


def best_coefficients(support: csr_array, cost_R: F64, gram_KK: F64, ridge: float = 1e-10) -> tuple[csr_array, float]:
    """The alpha on ``support`` that minimises `exact_error` for a known Gram matrix, and that error (section 4; any
    signs).

    ``K = sum_i (1/c_i) E_i (G_SS)^-1 E_i^T``, ``lambda = K^-1 1``, ``alpha_i = (1/c_i) (G_SS)^-1 lambda_S``, error ``1^T
    K^-1 1``. ``ridge`` times the mean of diag G is added to G. Dense in K: for small problems.
    """
    k = support.shape[1]
    gram_KK = gram_KK + ridge * np.trace(gram_KK) / k * np.eye(k)
    total_KK = np.zeros((k, k))
    pieces: list[tuple[int, np.ndarray, F64]] = []
    for i in range(support.shape[0]):
        at = support.indices[support.indptr[i] : support.indptr[i + 1]]
        if at.size and np.isfinite(cost_R[i]):
            inverse = np.linalg.inv(gram_KK[np.ix_(at, at)]) / cost_R[i]
            total_KK[np.ix_(at, at)] += inverse
            pieces.append((i, at, inverse))
    multiplier_K = np.linalg.solve(total_KK, np.ones(k))
    alpha = csr_array(support, copy=True).astype(np.float64)
    alpha.data[:] = 0.0
    for i, at, inverse in pieces:
        alpha.data[alpha.indptr[i] : alpha.indptr[i + 1]] = inverse @ multiplier_K[at]
    return alpha, float(multiplier_K.sum())


def _norms(A_RK: csr_array, gram_KK: F64) -> F64:
    return np.asarray(((A_RK @ gram_KK) * A_RK.toarray()).sum(axis=1), np.float64)


def predictor_error(plan: Plan, p_R: F64, omega_R: F64, v_RD: F64, m_D: F64) -> float:
    """``sum_i p_i/(1-p_i) |v_i - (Y_i/k) m|^2 + omega_i/(1-p_i) |v_i|^2`` for a predicted m, fixed before the step."""
    used = plan.weighted_R()
    share_R = plan.row_masses() / (plan.covered_mass() or 1.0)
    missing_R = np.square(v_RD - share_R[:, None] * m_D[None, :]).sum(axis=1)
    noise_R = np.square(v_RD).sum(axis=1)
    p, omega = p_R[used], omega_R[used]
    return float(np.sum((p * missing_R[used] + omega * noise_R[used]) / (1 - p)))
