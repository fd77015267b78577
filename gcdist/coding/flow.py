"""The best row sums when some workers cannot read all partitions, and coefficients with these sums."""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import coo_array, csr_array, vstack

from gcdist.types import F64, Mask

_SHORT = 1e-7  # of the total mass: below this a flow is full


def capped_row_sums(cost_N: F64, total: float, cap_N: F64) -> F64:
    """``Y_i = min(u_i, nu/c_i)`` with ``sum Y = total``: the optimum of section 2 under caps on the row sums.

    ValueError if the caps of the usable rows do not reach the total.

    >>> capped_row_sums(np.array([1.0, 1.0, 2.0]), 5.0, np.array([1.0, 9.0, 9.0])).round(9).tolist()
    [1.0, 2.666666667, 1.333333333]
    """
    cap_N = np.where(np.isfinite(cost_N), np.minimum(cap_N, total), 0.0)
    if cap_N.sum() < total * (1 - 1e-12):
        raise ValueError(f"load caps allow {cap_N.sum():g} of the {total:g} partitions")
    rate_N = _rates(cost_N)
    full_at_N = np.where(cap_N > 0, cap_N / rate_N, 0.0)
    order = np.argsort(full_at_N, kind="stable")
    capped = np.concatenate([[0.0], np.cumsum(cap_N[order])])[:-1]
    rate_left = np.cumsum(rate_N[order][::-1] * (cap_N[order][::-1] > 0))[::-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        level = (total - capped) / rate_left
    first = int(np.flatnonzero((level <= full_at_N[order] * (1 + 1e-12)) & (rate_left > 0))[0])
    return np.asarray(np.minimum(cap_N, rate_N * level[first]), np.float64)


def least_noise(cost_N: F64, share_most: float = math.inf) -> float:
    """The least ``sum c_i Y_i^2`` of shares Y that sum to 1, none above ``share_most/n``; 1/F where none is bounded.

    Infinity if the caps of the usable rows sum to less than 1.

    >>> round(least_noise(np.array([1.0, 1.0, 2.0])), 4), round(least_noise(np.array([1.0, 1.0, 2.0]), 1.0), 4)
    (0.4, 0.4444)
    """
    n = len(cost_N)
    try:
        Y_N = capped_row_sums(cost_N, 1.0, np.full(n, share_most / n))
    except ValueError:
        return math.inf
    used_N = Y_N > 0
    return float(cost_N[used_N] @ Y_N[used_N] ** 2)


def positive_costs(cost_N: F64) -> F64:
    """The costs, with a value far below all others in place of 0 and a harmless 1 in place of infinity."""
    positive = cost_N[(cost_N > 0) & np.isfinite(cost_N)]
    floor = 1e-9 * float(positive.min()) if positive.size else 1.0
    return np.asarray(np.where(np.isfinite(cost_N), np.maximum(cost_N, floor), 1.0), np.float64)


def _rates(cost_N: F64) -> F64:
    return np.asarray(1 / positive_costs(cost_N), np.float64)


def held_row_sums(cost_N: F64, able_NK: csr_array, mass_K: F64) -> tuple[F64, csr_array]:
    """The row sums that minimise ``sum_i c_i Y_i^2`` when worker i can take only the partitions stored in ``able_NK``.

    Returns (Y_N, masses (N, K) of a basic solution: a forest, at most N + K - 1 entries). Decomposition: start at the
    unconstrained optimum; the partitions left short and the workers that can read them form a smaller problem. Every
    partition needs a usable holder. O(N) maximum flows at worst.
    """
    n, k = able_NK.shape
    rate_N, able = _rates(cost_N), csr_array(able_NK).astype(np.bool_)
    Y_N, pieces = np.zeros(n), []
    open_sets = [(np.flatnonzero(np.isfinite(cost_N)), np.arange(k))]
    while open_sets:
        rows, cols = open_sets.pop()
        if not cols.size:
            continue
        sub = csr_array(able[rows][:, cols])
        has = np.flatnonzero(np.diff(sub.indptr) > 0)
        rows, sub = rows[has], csr_array(sub[has])
        level = mass_K[cols].sum() / rate_N[rows].sum()
        flow = _largest_flow(sub, rate_N[rows] * level, mass_K[cols])
        short = mass_K[cols] - np.asarray(flow.sum(axis=0)).ravel() > _SHORT * mass_K[cols].sum() / len(cols)
        tight_rows, tight_cols = _closure(sub, flow, short)
        if not short.any() or tight_rows.all():
            Y_N[rows] = np.asarray(flow.sum(axis=1)).ravel()
            found = flow.tocoo()
            pieces.append((rows[found.row], cols[found.col], found.data))
            continue
        open_sets.append((rows[tight_rows], cols[tight_cols]))
        open_sets.append((rows[~tight_rows], cols[~tight_cols]))
    row, col, mass = (np.concatenate(x) for x in zip(*pieces, strict=True))
    return Y_N, csr_array(coo_array((mass, (row, col)), shape=(n, k)))


def _largest_flow(able: csr_array, row_cap: F64, col_cap: F64) -> csr_array:
    """A basic maximum flow from rows to columns over the stored entries of ``able``, as masses."""
    at = able.tocoo()
    edge = np.arange(at.nnz)
    rows = csr_array((np.ones(at.nnz), (at.row, edge)), shape=(able.shape[0], at.nnz))
    cols = csr_array((np.ones(at.nnz), (at.col, edge)), shape=(able.shape[1], at.nnz))
    limit = np.concatenate([row_cap, col_cap])
    found = linprog(-np.ones(at.nnz), A_ub=vstack([rows, cols]), b_ub=limit, method="highs-ds")
    if not found.success:
        raise ValueError(f"the data allocation has no solution: {found.message}")
    kept = found.x > 1e-12 * col_cap.max()
    return csr_array(coo_array((found.x[kept], (at.row[kept], at.col[kept])), shape=able.shape))


def _closure(able: csr_array, flow: csr_array, short: Mask) -> tuple[Mask, Mask]:
    """Rows that can serve short columns, columns those rows serve now, and so on: the minimum cut's tight side."""
    reach, serves = able.astype(np.float64), (flow > 0).astype(np.float64)
    cols: Mask = short.copy()
    while True:
        rows: Mask = (reach @ cols.astype(np.float64)) > 0
        more: Mask = cols | ((serves.T @ rows.astype(np.float64)) > 0)
        if np.array_equal(more, cols):
            return rows, cols
        cols = more
