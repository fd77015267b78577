"""Data allocations by name: coefficients alpha with the given row sums and columns that sum to 1 (math section 4)."""

from __future__ import annotations

import heapq

import numpy as np
from scipy.sparse import csr_array

from gcdist.coding.capped_chain import chain_under_caps
from gcdist.coding.capped_held import held_under_caps
from gcdist.coding.flow import held_row_sums
from gcdist.coding.supports import chain, normalised
from gcdist.names import unknown
from gcdist.types import F64, Mask, Problem

SEARCHED = 512  # workers times partitions: up to it, a capped chain of unequal partitions is also searched off the line
ALLOCATIONS = ("chain", "star", "papers-chain", "full", "replicated:R")


def check_allocation(name: str) -> tuple[str, int]:
    """(kind, replicas); ValueError names what is allowed.

    >>> check_allocation("replicated:3")
    ('replicated', 3)
    """
    kind, _, count = name.partition(":")
    if kind == "replicated" and count.isdigit() and int(count) >= 1:
        return kind, int(count)
    if name in ALLOCATIONS[:-1]:
        return name, 1
    raise unknown("allocation", name, ALLOCATIONS)


def masses(problem: Problem) -> F64:
    """C_j (K,): partition sizes in units of their mean, so that they sum to k and equal partitions have 1."""
    return np.asarray(problem.size_K * (problem.k / problem.size_K.sum()), np.float64)


def allocate(name: str, Y_N: F64, cost_N: F64, problem: Problem) -> tuple[csr_array, Mask]:
    """(alpha (N, K), covered_K) with row masses ``Y_N``, or the best masses that caps and holders allow."""
    kind, replicas = check_allocation(name)
    covered_K = np.ones(problem.k, np.bool_)
    C_K = masses(problem)
    if problem.holds_NK is not None:
        return _held(kind, replicas, cost_N, problem, C_K)
    if kind == "full":
        return _full(Y_N, problem), covered_K
    if kind == "star":
        return star(Y_N, C_K), covered_K
    if kind == "papers-chain":
        return papers_chain(Y_N, C_K), covered_K
    alpha = _capped_chain(Y_N, cost_N, problem, C_K)
    if kind == "replicated":
        able = csr_array(np.ones(problem.k)[None, :] * (Y_N > 0)[:, None]) if problem.n * problem.k <= 1e6 else None
        alpha = _spread(alpha, able, replicas, problem, C_K)
    return alpha, covered_K


def star(Y_N: F64, C_K: F64) -> csr_array:
    """Own partitions with coefficient 1, the last one shared by all; negative unless ``sum floor(Y_i) >= k - 1``.

    Only for comparison; equal partitions. A worker owns floor(Y_i) partitions; while these are too few, the largest
    remainders get one more.
    """
    k = len(C_K)
    if np.ptp(C_K) > 1e-9:
        raise ValueError("allocation star needs partitions of equal size")
    own_N = np.floor(Y_N + 1e-12).astype(np.int64)
    if own_N.sum() > k - 1:  # every partition has an owner: the last owner's last one is shared
        own_N[int(np.flatnonzero(own_N)[-1])] -= int(own_N.sum()) - (k - 1)
    while own_N.sum() < k - 1:
        rest = np.where(Y_N > 0, Y_N - own_N, -np.inf)
        more = np.argsort(-rest, kind="stable")[: k - 1 - int(own_N.sum())]
        own_N[more[np.isfinite(rest[more])]] += 1
    shared = np.flatnonzero(np.abs(Y_N - own_N) > 1e-12)
    row = np.concatenate([np.repeat(np.arange(len(Y_N)), own_N), shared])
    col = np.concatenate([np.arange(k - 1), np.full(shared.size, k - 1)])
    value = np.concatenate([np.ones(k - 1), (Y_N - own_N)[shared]])
    return normalised(row, col, value, (len(Y_N), k))


def papers_chain(Y_N: F64, C_K: F64) -> csr_array:
    """Two entries a row in the order of the workers: blocks m and m + 1; the carry is often negative. For comparison.

    The k partitions are cut into as many contiguous blocks as rows are used (k = n: the papers' form).
    """
    rows, k = np.flatnonzero(Y_N > 0), len(C_K)
    if k < rows.size:
        raise ValueError(
            f"allocation papers-chain needs at least as many partitions as workers, not {k} for {rows.size}"
        )
    edges = np.linspace(0, k, rows.size + 1).round().astype(np.int64)
    block_mass = np.add.reduceat(C_K, edges[:-1])
    row, col, value = [], [], []
    carried = 0.0  # share of block m that row m - 1 computes
    for m, i in enumerate(rows):
        own = 1.0 - carried
        carried = 0.0 if m == rows.size - 1 else (Y_N[i] - own * block_mass[m]) / block_mass[m + 1]
        for block, share in ((m, own), (m + 1, carried)):
            if share != 0:
                col.append(np.arange(edges[block], edges[block + 1]))
                row.append(np.full(col[-1].size, i))
                value.append(np.full(col[-1].size, share))
    return normalised(np.concatenate(row), np.concatenate(col), np.concatenate(value), (len(Y_N), k))


def _full(Y_N: F64, problem: Problem) -> csr_array:
    """``alpha_ij = Y_i/k`` everywhere: the least error for every Gram matrix, at the largest load."""
    rows = np.flatnonzero(Y_N > 0)
    if np.any(problem.load_cap_N[rows] < problem.k):
        raise ValueError(f"allocation full gives every worker all {problem.k} partitions: a load cap is below that")
    share = Y_N[rows] / Y_N.sum()
    indptr = np.concatenate([[0], np.cumsum(np.where(Y_N > 0, problem.k, 0))])
    return csr_array(
        (np.repeat(share, problem.k), np.tile(np.arange(problem.k), rows.size), indptr), shape=(problem.n, problem.k)
    )


def _capped_chain(Y_N: F64, cost_N: F64, problem: Problem, C_K: F64) -> csr_array:
    """`chain` if it keeps to the load caps, else the best chain within them, whole loads included."""
    alpha = chain(Y_N, C_K)
    if np.all(np.diff(alpha.indptr) <= problem.load_cap_N):
        return alpha
    alpha = chain_under_caps(cost_N, problem.load_cap_N, C_K)
    if np.ptp(C_K) > 0 and problem.n * problem.k <= SEARCHED:
        # a chain on one line wastes room if sizes differ, so the second search allows any set of partitions for a row
        every_NK = np.ones((problem.n, problem.k), np.bool_)
        free = held_under_caps(cost_N, problem.load_cap_N, C_K, every_NK)
        if _noise(free.sum(axis=1), cost_N) < _noise(alpha @ C_K, cost_N):
            at = free.tocoo()
            return normalised(at.row, at.col, at.data, alpha.shape)
    return alpha


def _noise(Y_N: F64, cost_N: F64) -> float:
    used = Y_N > 0
    return float(cost_N[used] @ Y_N[used] ** 2)


def _held(kind: str, replicas: int, cost_N: F64, problem: Problem, C_K: F64) -> tuple[csr_array, Mask]:
    """Allocation over holders only: a forest for `chain`, spread over all holders or r of them otherwise."""
    if kind not in ("chain", "full", "replicated"):
        raise ValueError(f"allocation {kind} needs workers that can read every partition")
    assert problem.holds_NK is not None
    usable = np.isfinite(cost_N)
    able = csr_array(problem.holds_NK.toarray().astype(bool) & usable[:, None])
    covered_K: Mask = np.asarray(able.sum(axis=0)).ravel() > 0
    cols = np.flatnonzero(covered_K)
    if not cols.size:
        raise ValueError("no usable worker can read any partition")
    able_cols = csr_array(able[:, cols])
    _, mass = held_row_sums(cost_N, able_cols, C_K[cols])
    if np.any(np.diff(mass.indptr) > problem.load_cap_N):
        mass = held_under_caps(cost_N, problem.load_cap_N, C_K[cols], able_cols.toarray().astype(np.bool_))
    at = mass.tocoo()
    alpha = normalised(at.row, cols[at.col], at.data, (problem.n, problem.k))
    if kind != "chain":
        alpha = _spread(alpha, able, problem.n if kind == "full" else replicas, problem, C_K)
    return alpha, covered_K


def _spread(alpha: csr_array, able: csr_array | None, replicas: int, problem: Problem, C_K: F64) -> csr_array:
    """Each partition on about ``replicas`` workers: the base support plus the least loaded able workers, then balanced.

    The row sums stay feasible on the wider support, because the base already meets Hall's condition. Iterative
    proportional fitting gives the most even coefficients with these sums, exact in the columns.
    """
    n, k = alpha.shape
    by_col = csr_array(alpha.T)
    load_N = np.diff(alpha.indptr).astype(np.int64)
    active = load_N > 0
    cap_N = np.minimum(problem.load_cap_N, k)
    able_by_col = None if able is None else csr_array(able.T)
    heap = [(int(load_N[i]), i) for i in range(n) if active[i]]
    heapq.heapify(heap)
    row, col = [alpha.tocoo().row], [alpha.tocoo().col]
    for j in range(k):
        mine = set(by_col.indices[by_col.indptr[j] : by_col.indptr[j + 1]].tolist())
        holders = None
        if able_by_col is not None:
            holders = set(able_by_col.indices[able_by_col.indptr[j] : able_by_col.indptr[j + 1]].tolist())
        want, added, put_back = replicas - len(mine), [], []
        while want > 0 and heap:
            load, i = heapq.heappop(heap)
            if load + 1 > cap_N[i]:
                continue
            if i in mine or (holders is not None and i not in holders):
                put_back.append((load, i))
                continue
            added.append(i)
            put_back.append((load + 1, i))
            want -= 1
        for entry in put_back:
            heapq.heappush(heap, entry)
        row.append(np.array(added, np.int64))
        col.append(np.full(len(added), j))
    rows, cols = np.concatenate(row), np.concatenate(col)
    support = normalised(rows, cols, np.ones(rows.size), (n, k))
    return fitted(support, alpha @ C_K, C_K)


def fitted(support: csr_array, Y_N: F64, C_K: F64, rounds: int = 1000, tolerance: float = 1e-10) -> csr_array:
    """alpha > 0 on the support with columns that sum to 1 exactly and row masses ``Y_N`` (iterative proportional
    fitting).
    """
    alpha = csr_array(support, copy=True).astype(np.float64)
    row = np.repeat(np.arange(len(Y_N)), np.diff(alpha.indptr))
    for _ in range(rounds):
        Y_now = alpha @ C_K
        if np.max(np.abs(Y_now - Y_N)) <= tolerance * Y_N.max():
            break
        with np.errstate(divide="ignore", invalid="ignore"):
            factor_N = np.where(Y_now > 0, Y_N / Y_now, 0.0)
        alpha.data *= factor_N[row]
        alpha.data /= np.bincount(alpha.indices, weights=alpha.data, minlength=len(C_K))[alpha.indices]
    return alpha
