"""What the scheme `auto` comes to under a delay model, once it knows the workers' laws: for `gcdist plan`."""

from __future__ import annotations

from typing import TypedDict

import numpy as np

from gcdist.planning.cut_choice import choose_cut
from gcdist.planning.report import finite
from gcdist.straggler.known_laws import KnownLaws
from gcdist.types import DelayModel

DRAWS = 400  # of each worker's law: what is foreseen of an exponential one is known within 5%


class AutoFigures(TypedDict):
    """The choice in figures, JSON-able; ``cost`` is ``seconds (1 + noise)``, `planning.objective.Prospect`."""

    deadline: float | None  # seconds after which rows are cut; None: wait for all
    loads: list[int]
    seconds: float  # of a step
    noise: float  # of stragglers over |g|^2
    cost: float
    waiting: float  # cost of waiting for all, with loads by speed
    spread: float  # S^2/|g|^2 of one partition that this is of


def foreseen(delays: DelayModel, workers: int, partitions: int, zeta2: float, noise_most: float) -> AutoFigures:
    """The deadline and loads with the least objective under these delays, links and rounding left out.

    Args:
        delays: seconds by worker, step and load.
        workers: N.
        partitions: K.
        zeta2: ``mean |grad f_j - grad f|^2/|grad f|^2``; 0: not known, and all of the gradient is taken to be noise of the
            partitions, as a run does before it has measured them.
        noise_most: see `choose_cut`.
    """
    k = partitions
    spread = zeta2 / (k * (k - 1)) if zeta2 > 0 and k > 1 else 1 / k
    laws = KnownLaws(workers, delays, lambda step: range(DRAWS))
    found = choose_cut(laws, np.ones(workers, np.bool_), k, np.zeros(workers), spread, noise_most, np.inf)
    return AutoFigures(
        deadline=finite(found.deadline),
        loads=found.load_N.tolist(),
        seconds=found.prospect.seconds,
        noise=found.prospect.noise,
        cost=found.prospect.cost,
        waiting=found.waiting.cost,
        spread=spread,
    )


def line_of(figures: AutoFigures) -> str:
    """The same for people.

    >>> line_of(AutoFigures(deadline=None, loads=[3, 1], seconds=0.5, noise=0.2, cost=0.6, waiting=0.6, spread=0.25))
    'auto: wait for all, loads 3, 1: 0.5 s a step x (1 + noise 0.2) = 0.6 s'
    """
    loads = ", ".join(map(str, figures["loads"]))
    expected = f"{figures['seconds']:.3g} s a step x (1 + noise {figures['noise']:.2g}) = {figures['cost']:.3g} s"
    if figures["deadline"] is None:
        return f"auto: wait for all, loads {loads}: {expected}"
    gain = f"{figures['waiting'] / figures['cost']:.2f} times as fast as waiting for all ({figures['waiting']:.3g} s)"
    return f"auto: rows are cut after {figures['deadline']:.3g} s, loads {loads}: {expected}, {gain}"
