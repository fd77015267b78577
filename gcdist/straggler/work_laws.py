"""How fast each worker works: when the first partition of its row is done, and how long each further one takes.

Every message tells when its partitions were done (`WorkTimes`). A cut row tells nothing of the partitions behind the cut:
its further partitions are taken to come at the pace of those that were done. Older steps weigh less.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gcdist.types import F64, I64, Seen

WINDOW = 100  # steps of a worker that are remembered
HALF_LIFE = 25.0  # steps after which an observation weighs half
BEYOND = 2.0  # a row of which nothing was done by its cut is taken to begin at this multiple of it


@dataclass(frozen=True, slots=True)
class RowTimes:
    """Of one row: seconds until its first partition was done, and of each further one."""

    start: float
    pace: float


class WorkLaws:
    """The times of the last rows of each worker, and what its link takes besides.

    ``overhead`` of a worker is what a step takes of it outside its row: the round's way down, encoding, and the message's
    way up. Its mean and mean deviation are exponential averages, as in TCP's estimate of round-trip times (Jacobson 1988).
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._rows: list[deque[RowTimes]] = [deque(maxlen=WINDOW) for _ in range(workers)]
        self._overhead_N = np.full(workers, np.nan)
        self._deviation_N = np.zeros(workers)

    def observe(self, seen: Seen) -> None:
        """Take in the outcome of a partial row; outcomes of other rows, and of a worker's first round, say nothing."""
        if seen.cold:
            return
        if seen.work is None or not seen.work.done:
            if seen.censored and np.isfinite(self._overhead_N[seen.worker]):
                begun = max(seen.seconds - self._overhead_N[seen.worker], 0.0)
                self._rows[seen.worker].append(RowTimes(BEYOND * begun, BEYOND * begun))
            return
        done = seen.work.done
        pace = (done[-1] - done[0]) / (len(done) - 1) if len(done) > 1 else done[0]
        self._rows[seen.worker].append(RowTimes(done[0], pace))
        if seen.overhead is not None:
            self._learn_overhead(seen.worker, max(0.0, seen.overhead))

    def _learn_overhead(self, worker: int, seconds: float) -> None:
        mean = self._overhead_N[worker]
        if np.isnan(mean):
            self._overhead_N[worker], self._deviation_N[worker] = seconds, seconds / 2
            return
        self._deviation_N[worker] += 0.25 * (abs(seconds - mean) - self._deviation_N[worker])
        self._overhead_N[worker] += 0.125 * (seconds - mean)

    @property
    def known_N(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Workers whose times have been seen, (N,)."""
        return np.array([len(rows) > 0 for rows in self._rows])

    def overhead_N(self, deviations: float = 0.0) -> F64:
        """Mean overhead plus so many mean deviations, seconds (N,); of a worker never seen: the largest of the others."""
        bound_N = self._overhead_N + deviations * self._deviation_N
        most = np.nanmax(bound_N) if np.isfinite(bound_N).any() else 0.0
        return np.where(np.isnan(bound_N), most, bound_N)

    def deviation(self) -> float:
        """The largest mean deviation of an overhead, seconds."""
        return float(self._deviation_N.max(initial=0.0))

    def table(self, worker: int) -> tuple[F64, F64, F64]:
        """(start, pace, weight) of the rows seen of a worker, each (T,); weights sum to 1. Empty: nothing was seen."""
        rows = self._rows[worker]
        start_T = np.array([row.start for row in rows])
        pace_T = np.array([row.pace for row in rows])
        weight_T = 0.5 ** (np.arange(len(rows))[::-1] / HALF_LIFE)
        return start_T, pace_T, weight_T / max(weight_T.sum(), 1e-300)

    def count(self, worker: int) -> int:
        """Rows that are remembered of a worker."""
        return len(self._rows[worker])

    def outcomes(self, worker: int, load_L: I64, cut_G: F64) -> tuple[F64, F64]:
        """What rows of these loads come to at each cut, seconds since the round's receipt.

        Returns:
            ``P(m = 0)`` (G,), and ``E[l^2/m - l | m >= 1]`` (G, L), the factor of S_i^2 in math.md section 10.
        """
        start_T, pace_T, weight_T = self.table(worker)
        if not len(start_T):
            return np.zeros(len(cut_G)), np.zeros((len(cut_G), len(load_L)))
        u_GT = _done(start_T, pace_T, cut_G)
        weight_GT = weight_T * (u_GT >= 1)
        some_G = weight_GT.sum(axis=1)
        inverse_GT = 1.0 / np.maximum(u_GT, 1.0)
        excess_GL = np.zeros((len(cut_G), len(load_L)))
        for column, load in enumerate(load_L):
            excess_GL[:, column] = (weight_GT * load * np.maximum(0.0, load * inverse_GT - 1.0)).sum(axis=1)
        return 1.0 - some_G, excess_GL / np.maximum(some_G, 1e-12)[:, None]

    def complete(self, worker: int, load: int, seconds_G: F64) -> F64:
        """P(the whole row is done by so many seconds) (G,)."""
        start_T, pace_T, weight_T = self.table(worker)
        if not len(start_T):
            return np.ones(len(seconds_G))
        share_G: F64 = (weight_T * (start_T + pace_T * (load - 1) <= seconds_G[:, None] + 1e-12)).sum(axis=1)
        return share_G

    def state_dict(self) -> dict[str, Any]:
        """What was learned, for a checkpoint."""
        return {
            "rows": [[[row.start, row.pace] for row in rows] for rows in self._rows],
            "overhead": self._overhead_N.copy(),
            "deviation": self._deviation_N.copy(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what `state_dict` gave; ValueError if it is of another number of workers."""
        if len(state["rows"]) != self.workers:
            raise ValueError(f"times of {len(state['rows'])} workers, not {self.workers}")
        self._rows = [deque((RowTimes(*row) for row in rows), maxlen=WINDOW) for rows in state["rows"]]
        self._overhead_N[:], self._deviation_N[:] = state["overhead"], state["deviation"]


def _done(start_T: F64, pace_T: F64, cut_G: F64) -> F64:
    """Partitions that a row without end has done by each cut in each remembered step, (G, T)."""
    left_GT = cut_G[:, None] - start_T[None, :]
    with np.errstate(divide="ignore", invalid="ignore"):
        more_GT = np.where(pace_T > 0, np.floor(left_GT / pace_T + 1e-9), np.inf)
    return np.where(left_GT >= 0, 1.0 + more_GT, 0.0)
