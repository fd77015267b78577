"""Workers' times that are known beforehand: draws of a delay model in the place of what steps have shown."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from gcdist.straggler.work_laws import WorkLaws
from gcdist.types import F64, DelayModel, Seen

SEED = 77  # of the draws, if no other is given: not that of any run's delays


class KnownLaws(WorkLaws):
    """Laws drawn from a delay model; only the seconds of links are learned.

    The first partition takes what the model says of a load of one, and each further one what a load of two takes more:
    nothing where a delay does not grow with the load.

    Args:
        workers: N.
        delays: the model.
        steps_at: the model's steps that the law of a step of the run is drawn from.
        least: seconds that a partition takes without a delay.
        seed: of the draws; the run's own where the very times of its steps are to be known.
    """

    def __init__(
        self,
        workers: int,
        delays: DelayModel,
        steps_at: Callable[[int], Iterable[int]],
        least: float = 0.0,
        seed: int = SEED,
    ) -> None:
        super().__init__(workers)
        self._delays, self._steps_at, self._least, self._seed = delays, steps_at, least, seed
        self._steps: tuple[int, ...] = ()
        self._times_2NT = np.zeros((2, workers, 0))  # of the first partition, and of a further one
        self.at(0)

    def at(self, step: int) -> None:
        """The laws are those of this step of the run from now on; where they are others, all workers have changed."""
        steps = tuple(self._steps_at(step))
        if steps == self._steps:
            return
        first_NT, two_NT = (
            np.array([[self._delays.seconds(i, t, load, self._seed) for t in steps] for i in range(self.workers)])
            for load in (1.0, 2.0)
        )
        times_2NT = np.maximum(self._least, np.stack([first_NT, two_NT - first_NT]))
        if self._steps and not np.array_equal(times_2NT, self._times_2NT):
            self.changed |= set(range(self.workers))
        self._steps, self._times_2NT = steps, times_2NT

    def observe(self, seen: Seen) -> None:
        """Learn the seconds of the link."""
        if seen.work is not None and seen.work.done and seen.overhead is not None:
            self._learn_overhead(seen.worker, max(0.0, seen.overhead), seen.cold)

    @property
    def known_N(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """All of them."""
        return np.ones(self.workers, np.bool_)

    def count(self, worker: int) -> int:
        """Number of draws."""
        return len(self._steps)

    def table(self, worker: int) -> tuple[F64, F64, F64]:
        """(start, pace, weight) of the draws, which weigh the same."""
        start_T, pace_T = self._times_2NT[:, worker]
        return start_T, pace_T, np.full(len(start_T), 1 / max(1, len(start_T)))
