"""Whole partitions to workers that can read them, as evenly as caps allow."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array, csr_matrix
from scipy.sparse.csgraph import maximum_flow

from gcdist.types import F64, I64


def assigned(able_NK: csr_array, cap_N: F64 | I64) -> I64:
    """An owner for every column (K,) with the smallest largest load within caps: maximum flows, bisection on the level.

    ValueError if caps and holders (the stored entries) allow none.
    """
    n, k = able_NK.shape
    source, sink, at = n + k, n + k + 1, able_NK.tocoo()
    row = np.concatenate([np.full(n, source), at.row, n + np.arange(k)])
    col = np.concatenate([np.arange(n), n + at.col, np.full(k, sink)])

    def flow(level: int) -> csr_array | None:
        limit = np.concatenate([np.minimum(cap_N, level), np.ones(at.nnz + k)]).astype(np.int32)
        kept = limit > 0
        size = (n + k + 2, n + k + 2)
        found = maximum_flow(csr_matrix((limit[kept], (row[kept], col[kept])), shape=size), source, sink)
        return csr_array(found.flow[:n, n : n + k]) if found.flow_value == k else None

    low, high, best = 0, k, flow(k)
    if best is None:
        raise ValueError("load caps and holders allow no assignment of every partition")
    while high - low > 1:
        middle = (low + high) // 2
        found = flow(middle)
        low, high, best = (middle, high, best) if found is None else (low, middle, found)
    taken = best.tocoo()
    owner_K = np.zeros(k, np.int64)
    owner_K[taken.col[taken.data > 0]] = taken.row[taken.data > 0]
    return owner_K
