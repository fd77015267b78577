"""Contiguous blocks of partitions, for codes that are published for as many partitions as workers."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

from gcdist.coding.workers import equal_bits, finish, loads, miss_at, nominal_miss
from gcdist.types import F64, I64, Plan, Problem


def usable_workers(problem: Problem, name: str) -> I64:
    """The workers with p < 1, in order; ValueError if not everybody can read everything."""
    if problem.holds_NK is not None:
        raise ValueError(f"{name} needs workers that can read every partition")
    return np.flatnonzero(nominal_miss(problem) < 1)


def redundancy(wanted: int, least: int, most: int, problem: Problem, workers: I64, text: str) -> int:
    """``wanted`` of s or r where the usable workers allow it; where workers are missing, as much of it as they allow.

    Raises:
        ValueError: ``text``, where it does not fit though everybody is here, or nothing does.
    """
    if least <= wanted <= most:
        return wanted
    if wanted > most >= least and len(workers) < problem.n:
        return most
    raise ValueError(text)


def less_than_asked(code: str, key: str, wanted: float, most: float, usable: int) -> str | None:
    """The line that says so of a plan with less redundancy than was asked for; None: it has it."""
    if wanted <= most:
        return None
    here = "1 worker is" if usable == 1 else f"{usable} workers are"
    return f"{code}: {key} = {most:g} in place of {wanted:g} while only {here} usable"


def expand(B_MV: F64, workers: I64, problem: Problem, name: str) -> csr_array:
    """The (N, K) matrix in which worker ``workers[m]`` applies ``B_MV[m, v]`` to every partition of block v.

    The k partitions are cut into V contiguous blocks that differ by at most one; V = k is the published form.
    """
    blocks = B_MV.shape[1]
    if problem.k < blocks:
        raise ValueError(f"{name} over {len(workers)} workers needs at least {blocks} partitions, not {problem.k}")
    block_K = np.minimum((np.arange(problem.k) * blocks) // problem.k, blocks - 1)
    A_NK = np.zeros((problem.n, problem.k))
    A_NK[workers] = B_MV[:, block_K]
    return csr_array(A_NK)


def plan_of(problem: Problem, plan_id: int, A_NK: csr_array) -> Plan:
    """The plan with equal bits on every row used and p at its load; partitions without a worker are not covered."""
    load_N = loads(A_NK)
    p_N = miss_at(problem, np.maximum(load_N, 1).astype(np.float64))
    covered_K = np.bincount(A_NK.indices, minlength=problem.k) > 0
    return finish(problem, plan_id, A_NK, equal_bits(problem, load_N > 0), p_N, covered_K)
