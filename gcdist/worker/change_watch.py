"""How much partitions' gradients have changed since they were last computed: what a memory of them would be worth.

A memory of each partition (`worker.partition_memory`) pays where ``|g_j - h_j|^2`` is small against ``|g_j|^2``, and costs
``l d`` floats. Whether it pays is told by a sample of the coordinates, without it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

import numpy as np

from gcdist.model.gradients import PartitionResult
from gcdist.protocol.order import Part
from gcdist.types import F32, I64

COORDINATES = 512  # of the vector that are looked at: ratios of sums of so many squares are known within a tenth
EARLY, EVERY = 16, 8  # the first steps are looked at, later two of eight in a row: a look costs some 0.1 ms a row
UNKNOWN = -1.0


class Change(NamedTuple):
    """One row's differences to the newest gradients before it, over the gradients themselves; `UNKNOWN`: cannot be told.

    ``spread``: S^2 of a_j (g_j - h_j) over that of a_j g_j; ``row``: |y - sum a_j h_j|^2 over |y|^2; ``age``: mean steps
    since the h_j were computed.
    """

    spread: float = UNKNOWN
    row: float = UNKNOWN
    age: float = UNKNOWN


class _Seen(NamedTuple):
    values: F32
    step: int


class ChangeWatch:
    """The newest gradient of each partition of the plan, at `COORDINATES` coordinates drawn once."""

    def __init__(self) -> None:
        self._seen: dict[int, _Seen] = {}
        self._row: dict[int, tuple[float, _Seen, _Seen | None]] = {}  # of the row in the making: coefficient, new, old
        self._sizes: tuple[int, ...] = ()
        self._where: list[tuple[int, I64]] = []  # parameter, and its coordinates that are looked at

    def keep(self, partitions: Collection[int]) -> None:
        """Forget all other partitions: a new plan."""
        self._seen = {j: seen for j, seen in self._seen.items() if j in partitions}

    def looks(self, step: int) -> bool:
        """Whether a step is looked at where nothing is remembered."""
        return step < EARLY or step % EVERY < 2

    def begin(self) -> None:
        """A new row."""
        self._row = {}

    def add(self, step: int, coefficient: float, result: PartitionResult) -> None:
        """A partition of the row was computed."""
        if result.sizes != self._sizes:
            self._look_at(result.sizes)
        parts = [
            np.zeros(len(at), np.float32) if (grad := result.grads[i]) is None else grad[at] for i, at in self._where
        ]
        values = (np.concatenate(parts) if parts else np.zeros(0, np.float32)) * result.scale
        new = _Seen(values.astype(np.float32), step)
        self._row[result.partition] = coefficient, new, self._seen.get(result.partition)
        self._seen[result.partition] = new

    def _look_at(self, sizes: tuple[int, ...]) -> None:
        d, first = sum(sizes), not self._sizes
        kept = {j: seen for j, seen in self._seen.items() if first and len(seen.values) == min(d, COORDINATES)}
        self._seen, self._row, self._sizes = kept, {}, sizes  # before the first one they are of a checkpoint
        chosen = np.arange(d) if d <= COORDINATES else np.sort(np.random.default_rng(d).choice(d, COORDINATES, False))
        ends = np.cumsum(sizes)
        of = np.searchsorted(ends, chosen, side="right")
        self._where = [(int(i), chosen[of == i] - (ends[i] - sizes[i])) for i in np.unique(of)]

    def change(self, step: int, parts: Iterable[Part]) -> Change:
        """What the row came to, of whose ``parts`` some are done."""
        parts, known = list(parts), [(a, new, old) for a, new, old in self._row.values() if old is not None]
        if not known or any(j not in self._seen for j, _ in parts) or len(known) < len(self._row):
            return Change()  # of a partition that is new, the difference says nothing of those to come
        with np.errstate(all="ignore"):
            new_MD = np.array([a * new.values for a, new, _ in known])
            moved_MD = np.array([a * (new.values - old.values) for a, new, old in known])
            spread = _ratio(_spread(moved_MD), _spread(new_MD))
            scale = len(parts) / len(self._row)
            done = sum(a * (new.values - (0 if old is None else old.values)) for a, new, old in self._row.values())
            base = np.zeros(new_MD.shape[1])
            for j, a in parts:
                before = self._row[j][2] if j in self._row else self._seen.get(j)
                if before is not None:
                    base += a * before.values
            moved = scale * np.asarray(done, np.float64)
            row = _ratio(float(moved @ moved), float((base + moved) @ (base + moved)))
        age = float(np.mean([step - old.step for _, _, old in known]))
        return Change(spread, row, age) if min(spread, row) >= 0 and age > 0 else Change()

    def vectors(self) -> dict[int, F32]:
        """By partition: the values, and the step behind them; for a checkpoint."""
        return {j: np.append(seen.values, np.float32(seen.step)) for j, seen in self._seen.items()}

    def restore(self, vectors: dict[int, F32]) -> None:
        """Take what `vectors` gave, before the first partition is computed."""
        self._seen = {j: _Seen(vector[:-1].copy(), int(vector[-1])) for j, vector in vectors.items()}


def _spread(terms_MD: F32) -> float:
    """``S^2`` of the terms, or of a single one its square."""
    m = len(terms_MD)
    if m < 2:
        return float(np.sum(np.square(terms_MD, dtype=np.float64)))
    return float(np.sum(np.square(terms_MD - terms_MD.mean(axis=0), dtype=np.float64))) / (m - 1)


def _ratio(above: float, below: float) -> float:
    """Their ratio, at most 1e6; `UNKNOWN` if there is none."""
    return min(above / below, 1e6) if below > 0 and np.isfinite(above) and np.isfinite(below) else UNKNOWN
