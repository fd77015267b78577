"""Bounds of the residual error E|ghat - g|^2 of inverse-weight decoding, over all partitions' gradients (math section 2)."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array, diags_array
from scipy.sparse.linalg import eigsh

from gcdist.coding.optimal import total_gain
from gcdist.types import F64


def worst_error(A_RK: csr_array, cost_R: F64, limit: float | F64 = 1.0) -> float:
    """A bound over all ``|g_j| <= limit`` (one C, or C_j (K,)): ``C^2 min(k lambda_max(M), sum_i c_i (sum_j
    |alpha_ij|)^2)``.

    For non-negative alpha with the optimal row sums it is ``K^2/F`` and is attained (section 2).
    """
    limit_K = np.broadcast_to(np.asarray(limit, np.float64), (A_RK.shape[1],))
    by_sums = float(np.sum(cost_times(cost_R, (abs(A_RK) @ limit_K) ** 2)))
    if np.all(A_RK.data >= 0) or np.isinf(by_sums):
        return by_sums
    scaled = csr_array(A_RK @ diags_array(limit_K))
    return min(by_sums, int(A_RK.shape[1]) * _lambda_max(scaled, cost_R))


def spectral_ratio(A_RK: csr_array, cost_R: F64) -> float:
    """``lambda_max(M) F/k`` with ``M = alpha^T diag(c) alpha``: 1 is the optimum, more amplifies differences.

    0 if F is infinite, inf if a row with data cannot arrive. Non-negative alpha with ``M 1 = (k/F) 1`` has exactly 1
    (Perron-Frobenius) and is not iterated.
    """
    used = np.diff(A_RK.indptr) > 0
    F, k = total_gain(np.where(used, cost_R, np.inf)), int(A_RK.shape[1])
    if np.any(np.isinf(cost_R[used])):
        return np.inf
    if F == 0 or not np.isfinite(F):
        return 0.0
    row_ratio_K = (A_RK.T @ cost_times(cost_R, np.asarray(A_RK.sum(axis=1)).ravel())) * F / k
    if np.all(A_RK.data >= 0) and np.ptp(row_ratio_K) <= 1e-9:
        return float(row_ratio_K[0])
    return _lambda_max(A_RK, cost_R) * F / k


def cost_times(cost_R: F64, value_R: F64) -> F64:
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
