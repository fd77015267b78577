"""The share of the data that the steps have counted: warnings about partitions that hardly count, and final figures."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np

from gcdist.master.round_result import RoundResult
from gcdist.observe import PartitionCount
from gcdist.planning.load_cap import named
from gcdist.types import F64, I64, Mask, Plan

WINDOW = 50  # a warning counts arrivals in the newest 50 steps
FIRST = 20  # early in a run: warn after 20 steps in a row without the partition
RARE = 0.1  # warn about a partition that counts in less than a tenth of the steps
AGAIN = 2  # warn again about the same partitions after twice as many steps
FEWEST = 10  # partitions in the summary's table, those that counted least


class Coverage:
    """Counts of each partition over the steps of a run. ``size_K`` (K,) are its shares of the samples."""

    def __init__(self, size_K: F64) -> None:
        k = len(size_K)
        self._size_K = size_K / size_K.sum()
        self.steps = self.without_gradient = 0
        self._count_K = np.zeros(k, np.int64)
        self._last_K = np.full(k, -1, np.int64)  # in steps of this account
        self._gap_K = np.zeros(k, np.int64)  # the longest run of steps without the partition that is over
        self._recent: deque[Mask] = deque(maxlen=WINDOW)
        self._recent_K = np.zeros(k, np.int64)
        self._said_K = np.zeros(k, np.bool_)
        self._say_at = FIRST

    def add(self, result: RoundResult) -> str | None:
        """Take in one step; a line if partitions are hardly ever counted that it was not said of lately."""
        counted_K = np.zeros(len(self._size_K), np.bool_)
        if result.gradient is None:
            self.without_gradient += 1
        else:
            counted_K[_counted(result)] = True
        seen = np.flatnonzero(counted_K)
        self._gap_K[seen] = np.maximum(self._gap_K[seen], self.steps - 1 - self._last_K[seen])
        self._last_K[seen] = self.steps
        self._count_K += counted_K
        self.steps += 1
        if len(self._recent) == WINDOW:
            self._recent_K -= self._recent[0]
        self._recent.append(counted_K)
        self._recent_K += counted_K
        return self._line(result.plan)

    def _line(self, plan: Plan) -> str | None:
        steps = len(self._recent)
        away_K = self._last_K < self.steps - FIRST
        rare_K = self._recent_K < RARE * steps if steps == WINDOW else away_K
        self._said_K &= away_K | (self._recent_K < 2 * RARE * steps)  # well again: a relapse is said anew
        if steps < FIRST or not rare_K.any():
            return None
        if not np.any(rare_K & ~self._said_K) and self.steps < self._say_at:
            return None
        self._said_K |= rare_K
        self._say_at = AGAIN * self.steps
        rare = np.flatnonzero(rare_K)
        most = int(self._recent_K[rare].max())
        return (
            f"{named(rare.tolist())} ({self._size_K[rare].sum():.1%} of the samples) counted in "
            f"{'none' if most == 0 else f'at most {most}'} of the last {steps} steps: the model hardly learns from them; "
            f"{_who(plan, rare)}"
        )

    def partitions(self) -> list[PartitionCount]:
        """The partitions that were counted least, for the summary; none if all were counted in every step."""
        order = np.argsort(self._count_K, kind="stable")[:FEWEST]
        missed = [int(j) for j in order if self._count_K[j] < self.steps]
        gap_K = np.maximum(self._gap_K, self.steps - 1 - self._last_K)
        return [
            PartitionCount(
                partition=j,
                samples=float(self._size_K[j]),
                counted=int(self._count_K[j]),
                ago=None if self._last_K[j] < 0 else int(self.steps - 1 - self._last_K[j]),
                longest=int(gap_K[j]),
            )
            for j in missed
        ]

    @property
    def share(self) -> float:
        """Of the samples, on average over the steps, those that counted; 1 before the first step."""
        return float(self._size_K @ self._count_K) / self.steps if self.steps else 1.0

    @property
    def incomplete(self) -> int:
        """Partitions that some step did not count."""
        return int(np.sum(self._count_K < self.steps))

    def state_dict(self) -> dict[str, Any]:
        """The counts so far, for a checkpoint."""
        return {
            "steps": self.steps,
            "without_gradient": self.without_gradient,
            "count": self._count_K.copy(),
            "last": self._last_K.copy(),
            "gap": self._gap_K.copy(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what `state_dict` gave, of as many partitions; the newest steps are looked at anew."""
        self.steps, self.without_gradient = state["steps"], state["without_gradient"]
        self._count_K[:], self._last_K[:], self._gap_K[:] = state["count"], state["last"], state["gap"]
        self._say_at = max(FIRST, AGAIN * self.steps)


def _counted(result: RoundResult) -> I64:
    """The partitions that a step counted, some several times."""
    A_RK, none = result.plan.A_RK, [np.zeros(0, np.int64)]
    plain = [message for message in result.counted if not message.sidecar.remembers]
    # of a row that was cut: some of its partitions
    number_P = np.concatenate([*none, *(message.sidecar.parts_P4[:, 0] for message in plain)]).astype(np.int64)
    if not A_RK.data.all():  # partitions that are stored without a coefficient do not count
        row_P = np.repeat([m.row for m in plain], [len(m.sidecar.parts_P4) for m in plain]).astype(np.int64)
        row_S = np.repeat(np.arange(A_RK.shape[0]), np.diff(A_RK.indptr))
        place_S = (row_S * A_RK.shape[1] + A_RK.indices)[A_RK.data != 0]
        number_P = number_P[np.isin(row_P * A_RK.shape[1] + number_P, place_S)]
    remembering = [message.row for message in result.counted if message.sidecar.remembers]
    held = [slice(int(A_RK.indptr[row]), int(A_RK.indptr[row + 1])) for row in remembering]
    # what is remembered of the others counts
    return np.concatenate([number_P, *(A_RK.indices[stored][A_RK.data[stored] != 0] for stored in held)])


def _who(plan: Plan, rare: I64) -> str:
    """Who has these partitions in the present plan, and what can be done."""
    stored = plan.A_RK.tocoo()
    ranks = sorted({int(w) + 1 for w in plan.worker_R[stored.row[np.isin(stored.col, rare) & (stored.data != 0)]]})
    if not ranks:
        return "nobody who is here can read them"
    have = f"worker {ranks[0]} has" if len(ranks) == 1 else f"workers {', '.join(map(str, ranks[:8]))} have"
    return f'{have} them: a longer straggler.deadline (or "wait") or a larger code.load_most counts them'
