"""The residual error E|ghat - g|^2 of inverse-weight decoding, in every form that agrees (math sections 1, 2 and 4)."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array, diags_array
from scipy.sparse.linalg import eigsh

from gcdist.coding.optimal import total_gain
from gcdist.types import F64


def exact_error(A_RK: csr_array, cost_R: F64, gram_KK: F64) -> float:
    """``sum_i c_i |v_i|^2`` with ``|v_i|^2 = alpha_i G alpha_i^T`` for the Gram matrix ``G_jl = <g_j, g_l>``."""
    return float(np.sum(_times(cost_R, _norms(A_RK, gram_KK))))


def exact_error_of_samples(A_RK: csr_array, cost_R: F64, g_KD: F64) -> float:
    """As `exact_error`, from the partitions' gradients (K, D)."""
    return float(np.sum(_times(cost_R, np.square(A_RK @ g_KD).sum(axis=1))))


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
    return float(k / (k - 1) * deviation * np.sum(_times(cost_R, np.maximum(squares_R - Y_R**2 / k, 0.0))))


def worst_error(A_RK: csr_array, cost_R: F64, limit: float | F64 = 1.0) -> float:
    """A bound over all ``|g_j| <= limit`` (one C, or C_j (K,)): ``C^2 min(k lambda_max(M), sum_i c_i (sum_j
    |alpha_ij|)^2)``.

    For non-negative alpha with the optimal row sums it is ``K^2/F`` and is attained (section 2).
    """
    limit_K = np.broadcast_to(np.asarray(limit, np.float64), (A_RK.shape[1],))
    by_sums = float(np.sum(_times(cost_R, (abs(A_RK) @ limit_K) ** 2)))
    if np.all(A_RK.data >= 0) or np.isinf(by_sums):
        return by_sums
    scaled = csr_array(A_RK @ diags_array(limit_K))
    return min(by_sums, int(A_RK.shape[1]) * _lambda_max(scaled, cost_R))


def spectral_ratio(A_RK: csr_array, cost_R: F64) -> float:
    """``lambda_max(M) F/k`` with ``M = alpha^T diag(c) alpha``: 1 is the optimum, more amplifies differing partitions.

    0 if F is infinite, inf if a row with data cannot arrive. Non-negative alpha with ``M 1 = (k/F) 1`` has exactly 1
    (Perron-Frobenius) and is not iterated.
    """
    used = np.diff(A_RK.indptr) > 0
    F, k = total_gain(np.where(used, cost_R, np.inf)), int(A_RK.shape[1])
    if np.any(np.isinf(cost_R[used])):
        return np.inf
    if F == 0 or not np.isfinite(F):
        return 0.0
    row_ratio_K = (A_RK.T @ _times(cost_R, np.asarray(A_RK.sum(axis=1)).ravel())) * F / k
    if np.all(A_RK.data >= 0) and np.ptp(row_ratio_K) <= 1e-9:
        return float(row_ratio_K[0])
    return _lambda_max(A_RK, cost_R) * F / k


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


def _times(cost_R: F64, value_R: F64) -> F64:
    """``c_i x_i`` where x_i is not 0: rows without data may cost infinity."""
    out = np.zeros(len(value_R))
    used = value_R != 0
    out[used] = cost_R[used] * value_R[used]
    return out


def _lambda_max(A_RK: csr_array, cost_R: F64) -> float:
    used = np.diff(A_RK.indptr) > 0
    rows = A_RK[used]
    scaled = csr_array(diags_array(np.sqrt(cost_R[used])) @ rows)
    small = csr_array(scaled @ scaled.T) if scaled.shape[0] <= scaled.shape[1] else csr_array(scaled.T @ scaled)
    if small.shape[0] <= 500:
        return float(np.linalg.eigvalsh(small.toarray())[-1])
    return float(eigsh(small, k=1, which="LA", return_eigenvectors=False, v0=np.ones(small.shape[0]))[0])
