"""Slow spells: what a worker's next row is likely to be like, given its last one (a two-state chain, Gilbert 1960)."""

from __future__ import annotations

from typing import Any

import numpy as np

from gcdist.straggler.order import quantile
from gcdist.types import F64

FACTOR = 1.5  # a row is slow if it takes so many times the 90% quantile of its worker's past
PAST = 4  # rows outside spells that are needed to tell
MATTERS = 0.3  # a slow row that is followed by another one with less than this chance does not change what is expected
FORGET = 0.98  # factor, for each slow row, of the older ones in the estimate of that chance


class Spells:
    """Which workers' last rows were slow, and how often a slow row was followed by another one.

    The chance is estimated over all workers with one slow row and one fast row as prior knowledge: the first slow row
    already counts, and times that are slow by chance alone soon do not.
    """

    def __init__(self, workers: int) -> None:
        self._rows_N = np.zeros(workers, np.int64)  # slow ones in a row up to now
        self._stayed = self._left = 0.0  # slow rows that were followed by a slow and by a fast one
        self.moved: set[int] = set()  # workers whose spell began or ended; whoever has taken that in clears it

    def judge(self, worker: int, seconds: float, past_T: F64, complete: bool = True) -> None:
        """Take in a row of ``seconds`` where those outside spells took ``past_T`` for as many partitions.

        ``complete`` False: nothing was done in so many seconds, which tells nothing unless that is slow already.
        """
        if len(past_T) < PAST:
            return
        slow = seconds > FACTOR * quantile(past_T, 0.9)
        if not slow and not complete:
            return
        inside, mattered = self._rows_N[worker] > 0, self.persistence > MATTERS
        if not slow and not inside:
            return  # the usual case: nothing changes
        if inside:
            self._stayed, self._left = FORGET * self._stayed + slow, FORGET * self._left + (not slow)
        self._rows_N[worker] = self._rows_N[worker] + 1 if slow else 0
        matters = self.persistence > MATTERS
        if slow != inside and (mattered or matters):
            self.moved.add(worker)
        if matters != mattered:
            self.moved |= set(np.flatnonzero(self._rows_N).tolist())

    @property
    def persistence(self) -> float:
        """P(a slow row is followed by another one)."""
        return (1 + self._stayed) / (2 + self._stayed + self._left)

    def rows(self, worker: int) -> int:
        """Number of slow rows in a row up to now; 0 where they would say nothing of the next one."""
        return int(self._rows_N[worker]) if self.persistence > MATTERS else 0

    def slow(self, worker: int) -> int:
        """Number of slow rows in a row up to now."""
        return int(self._rows_N[worker])

    def forget(self, worker: int) -> None:
        """The worker's past is forgotten: what it does now is its usual speed."""
        self._rows_N[worker] = 0

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "rows": self._rows_N.tolist(),
            "stayed": self._stayed,
            "left": self._left,
            "moved": sorted(self.moved),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take what `state_dict` gave."""
        self._rows_N = np.array(state["rows"], np.int64)
        self._stayed, self._left = float(state["stayed"]), float(state["left"])
        self.moved = {int(worker) for worker in state["moved"]}
