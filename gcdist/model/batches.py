"""The samples of a partition in a step, and how they are read: batches can be asked for in any order."""

from __future__ import annotations

import hashlib
import traceback
from collections.abc import Iterable
from functools import cached_property
from time import perf_counter
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

import numpy as np

from gcdist.model.draws import MOST_DRAWN, MOST_SAMPLES, draw
from gcdist.model.randomness import COMPARE, DATA, SAMPLING, Drawer, seed_generators, sequence
from gcdist.model.seed_words import seed_words
from gcdist.model.user_traceback import users_traceback
from gcdist.tasks import Task
from gcdist.types import F64, I64

Sampling: TypeAlias = Literal["independent", "epochs"]
DRAWN = 4096  # samples drawn in search of some that this process holds
ORDERS_KEPT = 2  # shuffled orders in memory for one partition: a batch may begin in one epoch and end in the next


class Fetched(NamedTuple):
    """A batch, the numbers of its samples, and the seconds that the worker waited for it."""

    indices: I64
    batch: Any
    seconds: float


class BatchSource(Protocol):
    """Where a worker's batches come from: read when asked for (`Batches`), or read ahead by another process."""

    def batch(self, step: int, j: int) -> Fetched:
        """The batch of partition ``j`` in ``step``; raises ReadError."""
        ...


class ReadError(Exception):
    """The user's data set or collate_fn raised; ``text`` says all of it."""

    def __init__(self, indices: I64, text: str) -> None:
        super().__init__(indices, text)  # all arguments: an exception is pickled by them
        self.indices = indices  # of the samples of the batch
        self.text = text


def story(error: Exception, step: int, j: int, indices: I64, reading: int | None = None, *, trace: bool = True) -> str:
    """One line that names the error and its place, then the user's traceback; ``reading``: the sample in work."""
    samples = f"samples {np.array2string(indices, threshold=20)}".replace("\n", "")
    where = f"(step {step}, partition {j}, {samples if reading is None else f'sample {reading}'})"
    if not trace:
        return f"{error} {where}"
    what = "".join(traceback.format_exception_only(error)).strip()
    return f"{what} {where}\n{users_traceback(error)}".rstrip()


def fetch(task: Task, indices: list[int], reading: list[int]) -> Any:
    """One batch of these samples; meanwhile ``reading`` holds the sample being read, for errors."""
    dataset = task.dataset
    if hasattr(dataset, "__getitems__"):
        return task.batch(dataset.__getitems__(indices))
    samples = []
    for index in indices:
        reading[:] = [index]
        samples.append(dataset[index])
    reading.clear()
    return task.batch(samples)


class Batches:
    """The batches of all partitions; batch (step, j) depends on the seed and the data set alone.

    ``sampling``: how a partition of N_j samples gives batches of B = ``task.batch_size``; if N_j <= B, always the whole one.

    - "independent": B of them without replacement, drawn anew in every step.
    - "epochs": step t takes places t*B to t*B + B - 1 of one endless row of the partition's orders, each a permutation drawn
      by (seed, j, epoch). Every sample comes once an epoch of N_j/B steps, at a place where every other is as likely.
      Memory: two orders of each partition that is read.

    Args:
        task: data set, batch size, collate_fn and partitioner.
        k: number of partitions.
        seed: >= 0; of everything random.
        sampling: see above.

    Raises:
        ValueError: the task cannot be cut into ``k`` partitions, or a bad seed.
    """

    def __init__(self, task: Task, k: int, seed: int, sampling: Sampling = "independent") -> None:
        if seed < 0:
            raise ValueError(f"seed must be an integer >= 0, found {seed}")
        self.task = task
        self.seed = seed
        self.sampling = sampling
        self._parts = task.partitions(k)
        self._orders: dict[int, dict[int, I64]] = {}
        self._drawer = Drawer()
        counts = np.array([len(part) for part in self._parts], np.float64)
        self.sizes_K: F64 = counts / counts.sum()

    @cached_property
    def cut(self) -> str:
        """Hash of which samples are in which partition."""
        hashed = hashlib.sha256()
        for part in self._parts:
            hashed.update(b"%d;" % len(part))
            hashed.update(part.astype("<i8").tobytes())
        return hashed.hexdigest()[:16]

    def some(self, count: int, held: Iterable[int] | None) -> list[tuple[int, int]]:
        """Samples to compare between processes, as (sample, partition): ``count`` of the partitions that are held.

        Drawn by the seed from all of them in one order, so that processes that hold the same draw the same. None: all.
        """
        parts = sorted(set(range(len(self._parts))).intersection(range(len(self._parts)) if held is None else held))
        readable = set(parts)
        total = sum(len(part) for part in self._parts)
        drawn = np.random.Generator(np.random.Philox(sequence(self.seed, COMPARE, 0, 0))).integers(total, size=DRAWN)
        ends = np.cumsum([len(part) for part in self._parts])
        owners = np.searchsorted(ends, drawn, side="right")
        places = [(j, int(at - ends[j])) for at, j in zip(drawn, owners.tolist(), strict=True) if j in readable]
        places += [(j, 0) for j in parts[:count]]  # of a small part of the data perhaps nothing was drawn
        return list(dict.fromkeys((int(self._parts[j][at]), j) for j, at in places))[:count]

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which the largest partition gives as many samples as it has (rounded up)."""
        return -(-max(len(part) for part in self._parts) // self.task.batch_size)

    def samples(self, step: int, j: int) -> I64:
        """Numbers of the samples that partition ``j`` gives in ``step``."""
        part, size = self._parts[j], self.task.batch_size
        if len(part) <= size:
            return part
        if self.sampling == "independent":
            if size <= MOST_DRAWN and len(part) <= MOST_SAMPLES:
                return part[draw(seed_words(self.seed, SAMPLING, step, j, 2), len(part), size)]
            return part[self._rng(step, j).choice(len(part), size, replace=False, shuffle=False)]
        epoch, first = divmod(step * size, len(part))
        head = self._order(epoch, j)[first : first + size]
        rest = size - len(head)
        return np.concatenate([head, self._order(epoch + 1, j)[:rest]]) if rest else head

    def batch(self, step: int, j: int) -> Fetched:
        """Read the batch now. Seeds the global generators; raises ReadError."""
        began = perf_counter()
        indices = self.samples(step, j)
        reading: list[int] = []
        try:
            seed_generators(self.seed, DATA, step, j)
            batch = fetch(self.task, indices.tolist(), reading)
        except Exception as error:
            text = story(error, step, j, indices, reading[0] if reading else None)
            raise ReadError(indices, text) from error
        return Fetched(indices, batch, perf_counter() - began)

    def _order(self, epoch: int, j: int) -> I64:
        """The samples of partition ``j`` in the order of ``epoch``."""
        orders = self._orders.setdefault(j, {})
        if epoch not in orders:
            while len(orders) >= ORDERS_KEPT:
                del orders[max(orders, key=lambda kept: abs(kept - epoch))]
            orders[epoch] = self._parts[j][self._rng(epoch, j).permutation(len(self._parts[j]))]
        return orders[epoch]

    def _rng(self, number: int, j: int) -> np.random.Generator:
        """Of one step's draw, or of one epoch's order: a run uses one of them."""
        return self._drawer.begin(self.seed, SAMPLING, number, j)
