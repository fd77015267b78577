"""The estimated seconds of the same steps if every step had waited for all: by injected delays, or by measured times."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from statistics import median
from typing import Any

import numpy as np

from gcdist.master.round_result import RoundResult
from gcdist.straggler import Arrivals, WorkLaws
from gcdist.types import F64, DelayModel

LEAST_TIMES = 5  # of a worker; with fewer nothing is said
OPEN = 0.02  # chance that some worker takes longer than was ever waited for, beyond which the mean is a lower bound
GRID = 400  # points of the integral over a step's time


class WaitForAllClock:
    """What `sync` would have taken on the same steps: the slowest worker's injected delay at sync's own load, plus overhead.

    The overhead of a step that waited for everybody is measured: its length minus the largest delay injected into it.
    """

    def __init__(self, delays: DelayModel, seed: int, workers: int, partitions: int) -> None:
        self._delays = delays
        self._seed = seed
        self._workers = workers
        base, more = divmod(partitions, workers)
        self._sync_load = [float(base + (i < more)) for i in range(workers)]
        self._overheads: deque[float] = deque(maxlen=200)
        self._floors = 0.0
        self._steps = 0

    def state_dict(self) -> dict[str, Any]:
        """What was measured so far, for a checkpoint."""
        return {"overheads": list(self._overheads), "floors": self._floors, "steps": self._steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what `state_dict` gave."""
        self._overheads.clear()
        self._overheads.extend(state["overheads"])
        self._floors, self._steps = state["floors"], state["steps"]

    def add(self, result: RoundResult) -> None:
        """Take in one step."""
        self._floors += self.floor(result.step)
        self._steps += 1
        self.measure(result)

    def measure(self, result: RoundResult) -> None:
        """Learn the overhead, if this step had everybody."""
        rows = np.flatnonzero(result.plan.weighted_R())
        if len(result.counted) == len(rows) and not any(seen.cold for seen in result.seen):
            load = np.diff(result.plan.A_RK.indptr)
            owners = result.plan.worker_R
            floors = [
                self._delays.seconds(int(owners[r]), result.step, float(load[owners == owners[r]].sum()), self._seed)
                for r in rows
            ]
            self._overheads.append(max(0.0, result.seconds - max(floors)))

    def floor(self, step: int) -> float:
        """The slowest worker's injected delay at sync's load, seconds."""
        return max(
            self._delays.seconds(i, step, self._sync_load[i], self._seed)
            for i in range(self._workers)
            if self._sync_load[i] > 0
        )

    @property
    def overhead(self) -> float | None:
        """Seconds a step on top of the slowest delay; None: no step had everybody."""
        return median(self._overheads) if self._overheads else None

    def total(self) -> float | None:
        """Seconds that waiting for all would have taken in the steps so far, None if unknown."""
        return self.of(self._floors, self._steps)

    def by_times(self, arrivals: Arrivals, laws: WorkLaws | None) -> tuple[float, bool] | None:
        """Mean seconds of a step that waits for all, by the remembered times, as if workers were slow independently.

        ``E max_i T_i = integral of 1 - prod_i P(T_i <= t)``, with times at sync's own load: of rows that were cut those of
        their partitions (``laws``; without rows of which nothing was done), else Kaplan and Meier's curve of the arrivals.

        Returns:
            The mean, and whether it is a lower bound: more than was ever waited for is not known. None: too few times.
        """
        busy = [i for i in range(self._workers) if self._sync_load[i] > 0]
        if laws is not None:
            found = [laws.whole_rows(i, int(self._sync_load[i])) for i in busy]
            if min(len(seconds_T) for seconds_T, _ in found) < LEAST_TIMES:
                return None
            time_G = np.linspace(0.0, max(float(seconds_T.max()) for seconds_T, _ in found), GRID)
            in_time = [np.mean(seconds_T <= time_G[:, None] * (1 + 1e-12), axis=1) for seconds_T, _ in found]
            left_out = max(share for _, share in found)
        else:
            times = arrivals.arrived(max(self._sync_load))
            if min(arrivals.count_N()[busy]) < LEAST_TIMES or not len(times):
                return None
            time_G = np.linspace(0.0, float(times[-1]), GRID)
            in_time = [1 - arrivals.survival(time_G, self._sync_load[i])[i] for i in busy]
            left_out = 0.0
        out_G: F64 = 1 - np.prod(in_time, axis=0)
        return float(np.sum((out_G[1:] + out_G[:-1]) / 2 * np.diff(time_G))), bool(max(out_G[-1], left_out) > OPEN)

    def of(self, floors: float, steps: int) -> float | None:
        """Seconds of so many steps whose largest delays sum to ``floors``."""
        return None if self.overhead is None else floors + self.overhead * steps
