"""Who computes which partitions: supports and coefficients with given row and column sums (math section 4)."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_array, csr_array

from gcdist.types import F64, I64

TINY = 1e-12  # a share of one partition below this is rounding, not data


def chain(Y_N: F64, size_K: F64) -> csr_array:
    """North-west-corner rule: the sparsest simple alpha >= 0 with row masses ``Y`` and columns that sum to 1.

    ``Y_N`` are the row masses ``sum_j alpha_ij C_j`` and ``size_K`` the C_j (all 1: the papers); both have the same sum.
    Workers and partitions are laid on one line in order; each overlap is an entry: at most n + k - 1 of them, and at most
    ``floor(Y_i) + 2`` a row for equal partitions. Sorted merge, O((n + k) log(n + k)).

    >>> chain(np.array([1.5, 0.0, 1.5]), np.ones(3)).toarray().tolist()
    [[1.0, 0.5, 0.0], [0.0, 0.0, 0.0], [0.0, 0.5, 1.0]]
    """
    row_end_N, col_end_K = np.cumsum(Y_N), np.cumsum(size_K)
    row_end_N = row_end_N * (col_end_K[-1] / row_end_N[-1])
    cuts = np.sort(np.concatenate([[0.0], row_end_N, col_end_K]))
    length, middle = np.diff(cuts), (cuts[1:] + cuts[:-1]) / 2
    col = np.minimum(np.searchsorted(col_end_K, middle, side="right"), len(size_K) - 1)
    row = np.searchsorted(row_end_N, middle, side="right")
    # only rounding can give an entry to a row behind the last one with data
    row = np.minimum(row, np.flatnonzero(Y_N)[-1])
    kept = length > TINY * size_K[col]
    return normalised(row[kept], col[kept], length[kept], (len(Y_N), len(size_K)))


def normalised(row: I64, col: I64, mass: F64, shape: tuple[int, int]) -> csr_array:
    """A float64 csr array of the entries, columns divided by their sums (columns without entries stay empty)."""
    sums_K = np.bincount(col, weights=mass, minlength=shape[1])
    alpha = coo_array((mass / sums_K[col], (row.astype(np.int64), col.astype(np.int64))), shape=shape).tocsr()
    alpha.sort_indices()
    return csr_array(alpha)


def dealt(load_N: I64, size_K: F64) -> csr_array:
    """Contiguous blocks with coefficient 1: worker i gets the next ``load_N[i]`` partitions; ``sum load_N = k``.

    >>> dealt(np.array([2, 0, 1]), np.ones(3)).toarray().tolist()
    [[1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    """
    k = len(size_K)
    row = np.repeat(np.arange(len(load_N)), load_N)
    return csr_array((np.ones(k), (row, np.arange(k))), shape=(len(load_N), k))
