"""Recorded seconds of workers, from a table or from a run's folder: what the doctor's comparison is made of."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from gcdist.straggler.delays import read_trace
from gcdist.types import F64

ROUNDS = 100_000  # `observe.trace.ROUNDS`: added to a worker's number, the track of its rounds
_LINK = ("receive", "upload")  # names of slices there


@dataclass(frozen=True, slots=True, eq=False)
class Recorded:
    """Seconds of some steps.

    Args:
        seconds_TN: of each step (T) and worker (N) at an even share, without ``outside_N``; they grow with the load.
        least: some of them are lower bounds.
        outside_N: seconds of a round that do not grow with the load: the link, both ways.
        between: seconds between two steps.
    """

    seconds_TN: F64
    least: bool = False
    outside_N: F64 = field(default_factory=lambda: np.zeros(0))
    between: float = 0.0

    def __post_init__(self) -> None:
        """Without a word on links they take nothing."""
        if not len(self.outside_N):
            object.__setattr__(self, "outside_N", np.zeros(self.seconds_TN.shape[1]))

    def last(self, steps: int) -> Recorded:
        """The newest so many steps."""
        return Recorded(self.seconds_TN[-steps:], self.least, self.outside_N, self.between)


def from_csv(path: Path, unit: float = 1.0) -> Recorded:
    """A CSV of worker columns; ValueError names the wrong line."""
    return Recorded(read_trace(path, unit))


def from_run(folder: Path) -> Recorded:
    """A run's ``trace.json``. Messages that did not come count as just later than the step: ``least``.

    The first steps (a fifth, at most 5), which include warm-up, and steps without a worker are left out. ValueError.
    """
    path = folder / "trace.json"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    steps: list[dict[int, float]] = []
    opened, ended = [], []  # seconds since the start
    links: dict[int, list[float]] = defaultdict(list)
    cut = False
    for name, track, at, seconds in _slices(lines):
        if name.startswith("step "):
            steps.append({})
            opened.append(at)
            ended.append(at + seconds)
        elif name in ("counted", "missed") and steps:
            cut |= name == "missed"
            steps[-1][track] = seconds * (1.0 if name == "counted" else 1.01)
        elif name == _LINK[0]:
            links[track - ROUNDS].append(seconds)
        elif name == _LINK[1] and links[track - ROUNDS]:
            links[track - ROUNDS][-1] += seconds
    first = min(5, len(steps) // 5)
    ranks = sorted({rank for step in steps for rank in step})
    whole = np.array([[step[rank] for rank in ranks] for step in steps[first:] if len(step) == len(ranks)])
    if not whole.size:
        raise ValueError(f"{path} has no step in which all workers took part")
    outside_N = np.minimum([median(links[rank]) if links[rank] else 0.0 for rank in ranks], whole.min(axis=0))
    between = [max(0.0, begin - end) for begin, end in zip(opened[first + 1 :], ended[first:], strict=False)]
    return Recorded(whole - outside_N, cut, outside_N, median(between) if between else 0.0)


def _slices(lines: list[str]) -> Iterator[tuple[str, int, float, float]]:
    """(name, track, begin, length) in seconds; without the array's brackets, marks, names of tracks, half a last line."""
    for line in lines:
        try:
            event: dict[str, Any] = json.loads(line.strip().rstrip(","))
            yield event["name"], int(event["tid"]), float(event["ts"]) * 1e-6, float(event["dur"]) * 1e-6
        except (ValueError, KeyError, TypeError):
            continue
