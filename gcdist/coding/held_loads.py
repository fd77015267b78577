"""Loads of workers who cannot read all partitions: together they must read each of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_flow

from gcdist.coding.cut_loads import cheapest_loads, increments
from gcdist.coding.flow import held_row_sums
from gcdist.types import F64, I64, Mask


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """Groups of partitions that the same workers can read."""

    holds_NG: Mask  # who can read a group
    size_G: I64  # partitions of each
    _flow: dict[bytes, int] = field(default_factory=dict, init=False, repr=False)  # what `_most` found, by loads

    @staticmethod
    def of(workers: int, holds: Mapping[int, Sequence[int]], k: int) -> Held | None:
        """``holds``: of each worker who cannot read all of the k partitions, those that it can; None: there is no such
        worker.
        """
        held_NK = readable(workers, holds, k)
        return None if held_NK.all() else _grouped(held_NK)[0]

    def among(self, who: I64) -> Held:
        """Of these workers alone."""
        return Held(self.holds_NG[who], self.size_G)

    def reached(self) -> Held:
        """Without the partitions that nobody can read."""
        some_G = self.holds_NG.any(axis=0)
        return Held(self.holds_NG[:, some_G], self.size_G[some_G])

    def least_noise(self, cost_N: F64) -> float:
        """The least ``sum c_i Y_i^2`` of shares Y that sum to 1 over what each can read; inf if a partition
        has no usable reader.
        """
        usable = np.isfinite(cost_N)
        if not self.holds_NG[usable].any(axis=0).all():
            return math.inf
        able = csr_array((self.holds_NG & usable[:, None]).astype(np.float64))
        Y_N = held_row_sums(cost_N, able, self.size_G / self.size_G.sum())[0]
        return float(cost_N[Y_N > 0] @ Y_N[Y_N > 0] ** 2)

    def all_read(self) -> bool:
        """Whether every partition has somebody who can read it."""
        return bool(self.holds_NG.any(axis=0).all())

    def fit(self, load_N: I64) -> bool:
        """Whether workers with these loads can share out partitions, each to one of them."""
        return self._most(load_N) == int(load_N.sum())

    def can_share(self, cap_N: F64, k: int) -> bool:
        """Whether the workers can share out k partitions with at most so many each."""
        return self._most(np.minimum(cap_N, k).astype(np.int64)) >= k

    def _most(self, load_N: I64) -> int:
        """Partitions that can be shared out with at most so many each. Remembered: the same loads are asked for often."""
        key = load_N.tobytes()
        if key not in self._flow:
            self._flow[key] = int(self.shared(load_N).sum())
        return self._flow[key]

    def shared(self, load_N: I64) -> I64:
        """Partitions of each group for each worker (N, G), as many as can be with at most so many each: a maximal flow."""
        workers, groups = self.holds_NG.shape
        worker, group = np.nonzero(self.holds_NG)
        source, sink = workers + groups, workers + groups + 1
        begin = np.concatenate([np.full(workers, source), worker, workers + np.arange(groups)])
        end = np.concatenate([np.arange(workers), workers + group, np.full(groups, sink)])
        room = np.concatenate([load_N, self.size_G[group], self.size_G]).astype(np.int32)
        flow = maximum_flow(csr_array((room, (begin, end)), (sink + 1, sink + 1)), source, sink).flow
        found: I64 = flow.toarray()[:workers, workers:source].astype(np.int64)
        return found

    def loads(self, cost_NL: F64, k: int, cap_N: F64) -> I64:
        """As `cheapest_loads`, of all loads with which every partition has a worker who can read it.

        The loads that fit are a polymatroid's bases: taking the cheapest increment that fits is exact there (Edmonds 1970).

        Raises:
            ValueError: there are no such loads of finite cost.
        """
        free_N = cheapest_loads(cost_NL, k, cap_N)
        if self.fit(free_N):
            return free_N
        step_NL = increments(cost_NL, cap_N)
        flat, dealt = step_NL.ravel(), _Dealt(self)
        level = np.broadcast_to(np.arange(step_NL.shape[1]), step_NL.shape).ravel()
        load_N, full_N = np.zeros(len(cost_NL), np.int64), np.zeros(len(cost_NL), np.bool_)
        for at in np.lexsort((level, flat)):
            worker = int(at) // step_NL.shape[1]
            if full_N[worker]:
                continue
            if not np.isfinite(flat[at]):
                break
            if dealt.one_more(worker):
                load_N[worker] += 1
                if load_N.sum() == k:
                    return load_N
            else:
                full_N[worker] = True
        raise ValueError(f"{k} partitions do not fit the workers that can read them: {int(load_N.sum())} do")


def readable(workers: int, holds: Mapping[int, Sequence[int]], k: int) -> Mask:
    """Who can read which of the k partitions, (N, K); workers that ``holds`` does not name can read all."""
    held_NK = np.ones((workers, k), np.bool_)
    for worker, partitions in holds.items():
        held_NK[worker] = np.isin(np.arange(k), partitions)
    return held_NK


def _grouped(held_NK: Mask) -> tuple[Held, I64]:
    """The groups of partitions with the same readers, and each partition's group, (K,)."""
    holds_NG, group_K, size_G = np.unique(held_NK, axis=1, return_inverse=True, return_counts=True)
    return Held(holds_NG, size_G.astype(np.int64)), group_K.ravel().astype(np.int64)


def dealt_among(load_N: I64, held_NK: Mask) -> csr_array | None:
    """Whole partitions with coefficient 1, ``load_N[i]`` of those that worker i can read; None: there are none such.

    >>> dealt_among(np.array([1, 2]), np.array([[1, 1, 0], [1, 1, 1]], np.bool_)).toarray().tolist()
    [[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]]
    """
    workers, k = held_NK.shape
    held, group_K = _grouped(held_NK)
    share_NG = held.shared(load_N)
    if int(share_NG.sum()) < k:
        return None
    owner_K = np.empty(k, np.int64)
    for group, share_N in enumerate(share_NG.T):
        owner_K[group_K == group] = np.repeat(np.arange(workers), share_N)
    found = csr_array((np.ones(k), (owner_K, np.arange(k))), shape=(workers, k))
    found.sort_indices()
    return found


class _Dealt:
    """Partitions dealt to workers, group by group; more of them by augmenting paths."""

    def __init__(self, held: Held) -> None:
        self._holds_NG = held.holds_NG
        self._left_G = held.size_G.copy()
        self._dealt_NG = np.zeros(held.holds_NG.shape, np.int64)

    def one_more(self, worker: int) -> bool:
        """Deal one more partition to a worker, moving others if need be; False: it cannot have one."""
        came_G = np.full(len(self._left_G), -1)  # the worker that a group was reached from
        reached_N, queue = {worker: -1}, [worker]  # the group that a worker was reached from
        for here in queue:
            new = np.flatnonzero(self._holds_NG[here] & (came_G < 0))
            came_G[new] = here
            open_g = new[self._left_G[new] > 0]
            if len(open_g):
                self._move(int(open_g[0]), came_G, reached_N)
                return True
            for g in new.tolist():
                for other in np.flatnonzero(self._dealt_NG[:, g]).tolist():
                    if other not in reached_N:
                        reached_N[other] = g
                        queue.append(other)
        return False

    def _move(self, group: int, came_G: I64, reached_N: Mapping[int, int]) -> None:
        """Along the path back: a worker takes a partition of the group that it reached, and gives one of that it came by."""
        self._left_G[group] -= 1
        while group >= 0:
            worker = int(came_G[group])
            self._dealt_NG[worker, group] += 1
            group = reached_N[worker]
            if group >= 0:
                self._dealt_NG[worker, group] -= 1
