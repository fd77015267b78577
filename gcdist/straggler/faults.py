"""The schedule of injected faults: time and worker follow from the settings, the seed and the workers present.

What a fault does is no business of this room: it is opaque. Nothing that plans or waits may read the schedule, or p would
know what is to come.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from gcdist.straggler.delays import uniform

F = TypeVar("F")
_WHEN, _WHO = 101, 102  # streams of `uniform`: far from those of the delays


def pick(seed: int, number: int, draw: int, here: Sequence[int]) -> int:
    """One of the ranks ``here``, evenly: of the ``draw``-th strike of fault ``number``."""
    return here[int(len(here) * uniform(seed, number, draw, _WHO))]


@dataclass(frozen=True, slots=True)
class Planned(Generic[F]):
    """A fault of the settings: at ``step``, or at the times of a Poisson process ``every`` so many seconds in the mean.

    ``rank``: the worker that it strikes (1..n; 0: the master); None: one of those that are here, drawn anew each time.
    """

    fault: F
    rank: int | None = None
    step: int | None = None
    every: float | None = None


@dataclass(slots=True)
class FaultSchedule(Generic[F]):
    """Hands out faults as they fall due. Pure: equal calls give equal faults.

    >>> schedule = FaultSchedule([Planned("cut", rank=2, step=5), Planned("stop", every=10.0)], seed=1)
    >>> [schedule.due(step, 3.0 * step, here=[1, 2, 3]) for step in range(4, 7)]
    [[('stop', 3)], [('cut', 2)], [('stop', 1)]]
    """

    planned: Sequence[Planned[F]]
    seed: int
    _count: dict[int, int] = field(default_factory=dict)  # faults of each Poisson process so far
    _next: dict[int, float] = field(default_factory=dict)  # seconds of its next one

    def __post_init__(self) -> None:
        for number, planned in enumerate(self.planned):
            if planned.every is not None:
                self._count[number] = 0
                self._next[number] = self._gap(number, planned.every)

    def due(self, step: int, seconds: float, here: Sequence[int]) -> list[tuple[F, int]]:
        """The faults that strike as ``step`` opens, ``seconds`` after the run began: (fault, rank) each.

        ``here``: ranks of the workers whose link stands, ascending. A fault of a worker that is not here is left out.
        """
        found: list[tuple[F, int]] = []
        for number, planned in enumerate(self.planned):
            if planned.step == step:
                self._strike(number, planned, step, here, found)
            while planned.every is not None and self._next[number] <= seconds:
                self._strike(number, planned, self._count[number], here, found)
                self._count[number] += 1
                self._next[number] += self._gap(number, planned.every)
        return found

    def spare_master(self) -> None:
        """Leave out faults that strike the master at a step: a run resumed before that step would never pass it."""
        self.planned = [replace(each, step=None) if each.rank == 0 else each for each in self.planned]

    def _gap(self, number: int, every: float) -> float:
        return -every * math.log(uniform(self.seed, number, self._count[number], _WHEN))

    def _strike(
        self, number: int, planned: Planned[F], draw: int, here: Sequence[int], found: list[tuple[F, int]]
    ) -> None:
        rank = planned.rank
        if rank is None and here:
            rank = pick(self.seed, number, draw, here)
        if rank is not None and (rank == 0 or rank in here):
            found.append((planned.fault, rank))
