"""Noticing within about three steps that everybody works slower, where rows are cut and all still arrive."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from gcdist.straggler.order import quantile
from gcdist.straggler.surprise import Surprise
from gcdist.types import F64

LEAST_ROWS = 10  # remembered rows of a worker from which on a new one is judged
RARE = 0.1  # chance of a slow row while the law holds ...
MATERIAL = 1.5  # ... which takes so many times the median besides; smaller changes are left to the fading memory
MOST = 0.75  # of the workers were slow in their last row: it is not about some of them


class Slowdown:
    """Which of the last rows of each worker were slow by its own past, and whether all together that is chance.

    A row is slow if it takes longer than all but a tenth of its worker's past, by the order statistic that a new one exceeds
    with a chance of `RARE` at most. `Surprise` judges the rows of all workers of the last steps: with four workers, two
    steps in which all are slow have a chance of 1e-8. `MOST` of the workers must be slow: a spell of one is no slowdown.
    """

    def __init__(self, workers: int) -> None:
        self._surprise = Surprise()
        self._last = -1
        self._judged: set[int] = set()  # workers
        self._ratios: list[list[float]] = [[] for _ in range(workers)]  # of the slow rows in a row up to now

    def judge(self, worker: int, step: int, seconds: float, past_T: F64, complete: bool = True) -> None:
        """Take in a row that took ``seconds`` where the remembered ones took ``past_T`` for as many partitions.

        ``complete`` False: nothing was done in so many seconds, which tells something only if that is slow already.
        """
        if len(past_T) < LEAST_ROWS or step < self._last:
            return
        rank, middle = math.ceil((1 - RARE) * (len(past_T) + 1)), 0.0
        slow = bool(np.count_nonzero(past_T < seconds) >= rank)  # longer than the order statistic of that rank
        if slow:
            middle = quantile(past_T, 0.5)
            slow = seconds > MATERIAL * middle
        if not slow and not complete:
            return
        self._last = step
        self._judged.add(worker)
        self._surprise.add(step, RARE, not slow)
        self._ratios[worker] = [*self._ratios[worker], seconds / middle] if slow and middle > 0 else []

    def found(self) -> bool:
        """Whether the last steps had more slow rows than chance gives."""
        slow = sum(len(ratios) > 0 for ratios in self._ratios)
        return slow > 0 and slow >= MOST * len(self._judged) and self._surprise.found() is not None

    def take(self) -> list[tuple[int, float]]:
        """Of each worker: its slow rows in a row up to now, and how many times slower they are; begins anew."""
        found = [(len(ratios), float(np.median(ratios)) if ratios else 1.0) for ratios in self._ratios]
        self._surprise.forget()
        self._ratios = [[] for _ in self._ratios]
        self._judged.clear()
        return found

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "recent": self._surprise.state(),
            "last": self._last,
            "judged": sorted(self._judged),
            "ratios": list(self._ratios),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take what `state_dict` gave."""
        ratios: Sequence[Sequence[float]] = state["ratios"]
        self._surprise.load_state(state["recent"])
        self._judged = {int(worker) for worker in state["judged"]}
        self._last, self._ratios = int(state["last"]), [list(map(float, each)) for each in ratios]
