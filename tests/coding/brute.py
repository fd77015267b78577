"""Least noise under load caps and holders by trying every support: what the solvers are measured against."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from gcdist.types import F64, I64

_AT_ONCE = 200_000  # supports in one array


def least_noise_by_supports(cost_N: F64, mass_K: F64, cap_N: F64, held_NK: F64 | None = None) -> float:
    """The least ``sum c_i Y_i^2 / k^2`` over every support with at most ``cap_N`` partitions a row; inf if there is none.

    For small problems: up to (2^n - 1)^k supports, far fewer where partitions are alike.
    """
    n, k = len(cost_N), len(mass_K)
    usable = np.isfinite(cost_N) & (cap_N >= 1)
    held_NK = np.ones((n, k)) if held_NK is None else held_NK
    bit_N = 1 << np.arange(n)
    may_K = [int(bit_N[usable & (held_NK[:, j] > 0)].sum()) for j in range(k)]
    best = np.inf
    for sets in _chunks(_supports(may_K, mass_K)):
        load = np.stack([(sets & bit).astype(bool).sum(axis=1) for bit in bit_N], axis=1)
        sets = sets[np.all(load <= cap_N, axis=1)]
        if len(sets):
            best = min(best, float(_values(sets, cost_N, mass_K).min()))
    return best / k**2


def _supports(may_K: list[int], mass_K: F64) -> Iterator[tuple[int, ...]]:
    """The workers of each partition, as bits; partitions that are alike are in order, so that none comes twice."""
    kinds: dict[tuple[int, float], list[int]] = {}
    for j, may in enumerate(may_K):
        kinds.setdefault((may, float(mass_K[j])), []).append(j)
    order = np.argsort(np.concatenate([np.array(at) for at in kinds.values()]))
    choices = []
    for (may, _), at in kinds.items():
        subsets = [s for s in range(1, may + 1) if s & may == s]
        choices.append(itertools.combinations_with_replacement(subsets, len(at)))
    for found in itertools.product(*choices):
        flat = [s for kind in found for s in kind]
        yield tuple(flat[at] for at in order)


def _chunks(supports: Iterator[tuple[int, ...]]) -> Iterator[I64]:
    while some := list(itertools.islice(supports, _AT_ONCE)):
        yield np.array(some, np.int64)


def _values(sets: I64, cost_N: F64, mass_K: F64) -> F64:
    """``min sum c_i Y_i^2`` of each support: the tightest set of workers is settled first, then the rest anew."""
    n = len(cost_N)
    rate_N = np.where(np.isfinite(cost_N), 1 / np.maximum(cost_N, 1e-12), 0.0)
    every = np.arange(1 << n)
    rate_A = np.array([rate_N[[i for i in range(n) if a >> i & 1]].sum() for a in every])
    mass_SA = np.zeros((len(sets), len(every)))
    for j in range(sets.shape[1]):
        mass_SA += mass_K[j] * ((sets[:, j : j + 1] & ~every[None, :]) == 0)
    done, value = np.zeros(len(sets), np.int64), np.zeros(len(sets))
    rows = np.arange(len(sets))
    for _ in range(n):
        more = mass_SA - mass_SA[rows, done][:, None]
        room = rate_A[None, :] - rate_A[done][:, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            tight = np.where((every[None, :] & done[:, None]) == done[:, None], more / room, -np.inf)
        tight[~np.isfinite(tight)] = -1.0
        at = np.argmax(tight, axis=1)
        gained, used = more[rows, at], room[rows, at]
        going = tight[rows, at] > 0
        value += np.where(going, gained**2 / np.where(used > 0, used, 1.0), 0.0)
        done = np.where(going, at, done)
    return value
