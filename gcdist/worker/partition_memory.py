"""The last gradient of each partition of a worker, for codes that send differences to it (math.md section 10)."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np

from gcdist.coding.auto import Auto
from gcdist.coding.partial_memory import PartialMemory
from gcdist.config import Config
from gcdist.memory import size_text
from gcdist.protocol.order import Part
from gcdist.types import F32
from gcdist.worker.change_watch import ChangeWatch

ROOM = 0.9  # of the free memory that may be taken


class PartitionMemory:
    """h_j (d,) float32 of the partitions in the plan; 0 before a partition is computed for the first time.

    Any h_j that was there before the step keeps the estimate unbiased: it may stay when a message is lost or late, when the
    link breaks, and when a partition comes back.

    ``watch``: whether to remember is the master's choice, by what the watch sees; None: the code always remembers.
    """

    def __init__(self, watch: ChangeWatch | None = None) -> None:
        self.watch = watch
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

    def fits(self, partitions: Collection[int], d: int, free: int | None, times: int = 1) -> bool:
        """Whether the vectors of ``times`` as many partitions fit; ``free``: bytes, None: not known."""
        return free is None or 4 * d * (times * len(partitions) - len(self._h)) <= ROOM * free

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
        """Copies by partition j, for a checkpoint; what the watch has seen of it by -1 - j."""
        seen = {} if self.watch is None else self.watch.vectors()
        return {j: h.copy() for j, h in self._h.items()} | {-1 - j: values for j, values in seen.items()}

    def restore(self, vectors: dict[int, F32]) -> None:
        """Take what `vectors` gave."""
        self._h = {j: np.array(h, np.float32) for j, h in vectors.items() if j >= 0}
        if self.watch is not None:
            self.watch.restore({-1 - j: values for j, values in vectors.items() if j < 0})


def memory_of(config: Config) -> PartitionMemory | None:
    """A memory if the settings' code has one, or may choose one."""
    if config.code.scheme == PartialMemory.name:
        return PartitionMemory()
    chooses = config.code.scheme == Auto.name and config.code.partial is not False
    return PartitionMemory(ChangeWatch()) if chooses and config.straggler.deadline == "auto" else None
