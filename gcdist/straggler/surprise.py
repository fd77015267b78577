"""Detects chances that no longer hold: numbers of arrivals, high or low, that are next to impossible under them."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from gcdist.types import F64

Outcomes: TypeAlias = list[tuple[float, bool, float]]  # promised p, whether it arrived, and how wrong p may be

# steps judged together -> chance of so few, or so many, arrivals below which the laws have changed. A false alarm costs a
# warm-up: only two and three steps, which are to notice a slowdown at once, have a large one
DOUBT = {1: 1e-6, 2: 1e-4, 3: 1e-4, 6: 1e-6, 12: 1e-6}
WRONG = 2.0  # of an outcome: how far a p that was estimated from outcomes may be from the truth
_EXACT = 512  # outcomes; beyond, the number of arrivals is taken as normal


class Surprise:
    """The outcomes of the last steps that promised a p, and whether they can still be believed.

    A uniform slowdown shows in the first steps after it: four workers with p = 0.1 of which one arrives have a chance of
    0.004 in one step, and of 1e-7 in three. p is given readiness, so a slow spell that is known to last is no surprise.

    A p that was estimated from few outcomes is no promise to hold anybody to: with many workers the test is sharp enough to
    see the estimator's own bias (after m outcomes p is at most ``m/(m+1)``). So each p may be wrong by `WRONG` over
    ``m + 1``, all of them in the same direction.
    """

    def __init__(self) -> None:
        self._steps: deque[tuple[int, Outcomes]] = deque(maxlen=max(DOUBT))

    def add(self, step: int, p: float, arrived: bool, outcomes: float = math.inf) -> None:
        """One outcome; steps come in order. ``outcomes``: that p was estimated from."""
        if not self._steps or self._steps[-1][0] != step:
            self._steps.append((step, []))
        self._steps[-1][1].append((p, arrived, WRONG / (outcomes + 1)))

    def forget(self) -> None:
        """Begin without outcomes."""
        self._steps.clear()

    def found(self) -> int | None:
        """The first step of those that had, under the promised p, a chance below that of `DOUBT`; None: all can be believed.

        Looks at the last 1, 2, 3, 6 and 12 steps.
        """
        recent: Outcomes = []
        for back, (step, outcomes) in enumerate(reversed(self._steps), start=1):
            recent += outcomes
            if back in DOUBT and recent:
                p_X, in_X, wrong_X = np.array(recent, np.float64).T
                arrived = int(in_X.sum())
                few = arrived < np.sum(1 - p_X)
                near_X = np.clip(p_X + wrong_X if few else p_X - wrong_X, 0.0, 1.0)
                beyond = (arrived < np.sum(1 - near_X)) == few  # also of what the chances may be
                if beyond and tail(near_X, arrived) < DOUBT[back]:
                    return step
        return None

    def state(self) -> list[tuple[int, list[float], list[bool], list[float]]]:
        """For a checkpoint."""
        return [
            (step, [p for p, _, _ in outcomes], [a for _, a, _ in outcomes], [w for _, _, w in outcomes])
            for step, outcomes in self._steps
        ]

    def load_state(self, state: Sequence[Sequence[Any]]) -> None:
        """Take what `state` gave; older versions did not say how wrong p may be."""
        self._steps.clear()
        for step, p, arrived, *wrong in state:
            each = wrong[0] if wrong else [0.0] * len(p)
            self._steps.append((int(step), list(zip(p, map(bool, arrived), each, strict=True))))


def tail(p_X: F64, arrived: int) -> float:
    """P(so few arrivals or fewer) or P(so many or more), whichever is smaller, of independent outcomes that miss with p.

    >>> round(tail(np.full(4, 0.1), 1), 6)
    0.0037
    """
    mean, sd = float(np.sum(1 - p_X)), math.sqrt(float(np.sum(p_X * (1 - p_X))))
    if abs(arrived - mean) <= 2 * sd + 1:
        return 1.0  # nowhere near
    if len(p_X) > _EXACT:
        return 0.5 * math.erfc((abs(arrived - mean) - 0.5) / (sd * math.sqrt(2)))
    chance = np.ones(1)  # of each number of arrivals
    for p in p_X:
        chance = np.convolve(chance, [p, 1 - p])
    return float(min(chance[: arrived + 1].sum(), chance[arrived:].sum()))
