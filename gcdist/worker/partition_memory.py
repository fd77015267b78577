"""The last gradient of each partition of a worker, for codes that send differences to it (math.md section 10)."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np

from gcdist.coding.partial_memory import PartialMemory
from gcdist.config import Config
from gcdist.memory import size_text
from gcdist.protocol.order import Part
from gcdist.types import F32

ROOM = 0.9  # of the free memory that may be taken


class PartitionMemory:
    """h_j (d,) float32 of the partitions in the plan; 0 before a partition is computed for the first time.

    Any h_j that was there before the step keeps the estimate unbiased: it may stay when a message is lost or late, when the
    link breaks, and when a partition comes back.
    """

    def __init__(self) -> None:
        self._h: dict[int, F32] = {}
        self._term = np.zeros(0, np.float32)

    def keep(self, partitions: Collection[int]) -> None:
        """Forget all other partitions: a new plan."""
        self._h = {j: h for j, h in self._h.items() if j in partitions}

    def total(self, parts: Iterable[Part], d: int) -> F32:
        """``sum_j a_j h_j`` (d,) of a row's partitions; of vectors of another length nothing is kept."""
        if any(len(h) != d for h in self._h.values()):
            self._h.clear()
        total, self._term = np.zeros(d, np.float32), np.zeros(d, np.float32) if len(self._term) != d else self._term
        for j, coefficient in parts:
            if (h := self._h.get(j)) is not None:
                np.multiply(h, np.float32(coefficient), out=self._term)
                np.add(total, self._term, out=total)
        return total

    def exchange(self, partition: int, gradient: F32) -> F32:
        """``g_j - h_j`` (d,), valid until the next call; then ``h_j := g_j``."""
        h = self._h.get(partition)
        if h is None:
            self._h[partition] = gradient.copy()
            return gradient
        np.subtract(gradient, h, out=self._term)
        np.copyto(h, gradient)
        return self._term

    def check_room(self, partitions: Collection[int], d: int, free: int | None) -> None:
        """ValueError if the partitions' vectors do not fit; ``free``: bytes, None: not known."""
        need = 4 * d * len([j for j in partitions if j not in self._h])
        if free is not None and need > ROOM * free:
            raise ValueError(
                f"partial-memory keeps a gradient of each of {len(partitions)} partitions, {size_text(4 * d)} each: "
                f"{size_text(need)} more, and {size_text(free)} are free; take more workers, fewer partitions or the scheme "
                "shifted"
            )

    def vectors(self) -> dict[int, F32]:
        """Copies by partition, for a checkpoint."""
        return {j: h.copy() for j, h in self._h.items()}

    def restore(self, vectors: dict[int, F32]) -> None:
        """Take what `vectors` gave."""
        self._h = {j: np.array(h, np.float32) for j, h in vectors.items()}


def memory_of(config: Config) -> PartitionMemory | None:
    """A memory if the settings' code has one."""
    return PartitionMemory() if config.code.scheme == PartialMemory.name else None
