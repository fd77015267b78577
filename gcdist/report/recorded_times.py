"""The recorded times of a run's workers as a delay model, for a replay with other settings.

Each worker's rounds keep their order: a step of the replay takes the recorded round of the same part of the run.
Computing time is proportional to the worker's partitions; time on the link is proportional to the bytes, and bytes up
to the bits. A cut row gets the time of a whole row at its own pace. A dropped round takes as long as a longer round of
that worker, or, without one, its own time plus an exponential time (maximum likelihood under the cut). The time of a row
is spent inside its partitions, and a replay can cut it between them; where the run injected delays into messages, it is
spent before the first partition.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Literal, TypeAlias

import numpy as np

from gcdist.observe import WorkerRound
from gcdist.report.reading import Run
from gcdist.types import F64

LATER = 1e-4  # seconds from the opening of a step to its round: beyond them the worker was not free
ENOUGH = 3  # least number of longer rounds from which the time of a dropped round is drawn

Way: TypeAlias = Literal["before", "spread", "inside", "measured"]


def way_of(run: Run) -> Way:
    """How a round's time at the worker goes with its partitions: an injected delay before the first of them, spread over
    them, or inside them; measured: none was injected.
    """
    if run.setting("inject.model", "none") == "none":
        return "measured"
    if run.setting("inject.scale_with_load", False) is True:
        return "spread"
    return "inside" if run.setting("inject.where", "message") == "compute" else "before"


def part_seconds(run: Run) -> float:
    """Median seconds that a partition computes."""
    known = [each.compute / (each.done or each.load) for each in run.rounds if each.compute and each.load]
    return float(np.median(known)) if known else 0.0


def as_whole(each: WorkerRound, way: Way) -> WorkerRound:
    """A cut row as it would have been whole, at the pace of the partitions that were done; other rounds as they are."""
    if each.whole or not each.done or each.held is None or each.end not in ("counted", "late"):
        return each
    times = each.load / each.done
    compute, data = (each.compute or 0.0) * times, (each.data or 0.0) * times
    if way in ("spread", "inside"):
        held = each.held * each.load / (each.done + 0.5)  # the next one was half done, on average
    else:
        held = each.held + (compute + data) * (1.0 - 1.0 / times)
    held = max(held, each.held)
    seconds = each.seconds + held - each.held
    return replace(each, seconds=seconds, held=held, compute=compute, data=data, done=each.load)


def _until_free(mine: Sequence[WorkerRound], opened: Mapping[int, float]) -> float:
    """Median seconds from a message's arrival to the next round, where that was sent after its step had been opened: the
    credit behind the message was still on the link.
    """
    gaps = [
        after.sent - (before.sent + before.seconds)
        for before, after in pairwise(sorted(mine, key=lambda each: each.sent))
        if before.end in ("counted", "late") and after.sent > opened.get(after.step, math.inf) + LATER
    ]
    return max(0.0, float(np.median(gaps))) if gaps else 0.0


class Recorded:
    """The recorded times at the worker as a delay model (`types.DelayModel`), and those on the link.

    Args:
        run: with rounds that separate the link from the work.
        steps: of the replay.
        bits: of the replay over those of the run.
        seed: of the times drawn for dropped rounds.
    """

    def __init__(self, run: Run, steps: int, bits: float, seed: int = 0) -> None:
        self._steps = steps
        way = way_of(run)
        self.part_seconds = part_seconds(run) if way == "before" else 0.0  # the simulator adds them after the delay
        rng = np.random.default_rng(seed)
        self._at: list[F64] = []  # of each worker: place of its rounds in the run, from 0 to 1
        self._terms: list[F64] = []  # (rounds, 4): seconds a partition, fixed, least at the worker, link
        self.credit_N: list[float] = []
        self.free_N: list[float] = []  # seconds from a message's arrival until its worker counts as free
        opened = dict(zip(run.step_T.tolist(), run.opened_T.tolist(), strict=True))
        first, length = (int(run.step_T[0]), max(1, int(run.step_T[-1] - run.step_T[0]))) if run.steps else (0, 1)
        every = [each for each in run.rounds if each.held is not None and each.end != "lost"]
        for worker in range(1, run.workers + 1):
            mine = [each for each in every if each.worker == worker] or every
            rounds, held = _finished([as_whole(each, way) for each in mine], rng)
            rows = []
            for each, seconds in zip(rounds, held, strict=True):
                part = (each.compute or 0.0) / each.load if each.load else 0.0
                rest = max(0.0, seconds - part * each.load)
                least = 0.0
                if way == "spread" and each.load:
                    part, rest = seconds / each.load, 0.0
                elif way == "inside":  # as long with fewer partitions
                    rest, least = 0.0, seconds
                elif way == "before":
                    part, rest, least = 0.0, 0.0, max(0.0, seconds - self.part_seconds * (each.load - 1))
                size = each.down + each.up
                link = (each.link or 0.0) * ((each.down + bits * each.up) / size if size else 1.0)
                rows.append((part, rest, least, link))
            # the worker of a dropped round sends only its credit
            credits = [each.link for each in mine if each.end == "stale" and each.link is not None]
            self.credit_N.append(float(np.median(credits)) if credits else 0.0)
            self.free_N.append(_until_free(mine, opened))
            self._at.append(np.array([(each.step - first) / length for each in rounds]))
            self._terms.append(np.array(rows, np.float64).reshape(-1, 4))

    def seconds(self, worker: int, step: int, load: float, seed: int) -> float:
        """At the worker, in the round recorded at the same part of the run."""
        terms = self._round(worker, step)
        return float(_held(terms, load)[0]) if len(terms) else 0.0

    def link(self, worker: int, step: int) -> float:
        """On the link, both ways, in the same round."""
        terms = self._round(worker, step)
        return float(terms[0, 3]) if len(terms) else 0.0

    def _round(self, worker: int, step: int) -> F64:
        """The terms (1, 4) of the round nearest to the step's place in the run; (0, 4) if there is none."""
        at, place = self._at[worker], step / max(1, self._steps - 1)
        k = int(np.searchsorted(at, place))
        if k == len(at) or (k > 0 and place - at[k - 1] < at[k] - place):
            k -= 1
        return self._terms[worker][max(0, k) : max(0, k) + 1]

    def survival(self, worker: int, load: F64, t: float) -> F64:
        """The share of longer rounds among the recorded ones."""
        terms = self._terms[worker]
        if not len(terms):
            return np.zeros(len(load))
        return np.array([float((_held(terms, float(each)) + terms[:, 3] > t).mean()) for each in load])


def _held(terms: F64, load: float) -> F64:
    return np.maximum(terms[:, 0] * load + terms[:, 1], terms[:, 2])


def _finished(mine: Sequence[WorkerRound], rng: np.random.Generator) -> tuple[list[WorkerRound], list[float]]:
    """The rounds with a gradient, in order, and their seconds at the worker, estimated for dropped ones."""
    most = max((each.up for each in mine), default=0)
    done = [each for each in mine if each.whole and each.up >= most / 4]
    if not done:
        done = [each for each in mine if each.whole]
    dropped = [each for each in mine if not each.whole]
    rounds = sorted([*done, *dropped], key=lambda each: (each.step, each.sent))
    lengths = np.array([each.seconds for each in done])
    shortest = float(lengths.min()) if len(done) else 0.0
    excess = sum(max(0.0, each.seconds - shortest) for each in rounds) / max(1, len(done))
    kept, held = [], []
    for each in rounds:
        if each.whole:
            kept.append(each)
            held.append(each.held or 0.0)
            continue
        longer = np.flatnonzero(lengths > each.seconds)
        if len(longer) >= ENOUGH or (len(longer) and len(done) <= 2 * ENOUGH):
            other = done[int(rng.choice(longer))]
            kept.append(replace(other, step=each.step))
            held.append(other.held or 0.0)
        else:
            kept.append(replace(each, compute=each.held))  # a dropped round's time is proportional to the load
            held.append((each.held or 0.0) + float(rng.exponential(excess or each.seconds)))
    return kept, held
