"""Which samples a partition gives in a step, and reading them: batches can be addressed in any order."""

from __future__ import annotations

from typing import Any

import numpy as np

from gcdist.runtime.randomness import DATA, SAMPLING, seed_generators, sequence
from gcdist.tasks import Task
from gcdist.types import F64, I64


class Batches:
    """The batches of all partitions; batch (step, j) depends on the seed and the data set alone.

    Args:
        task: data set, batch size, collate_fn and partitioner.
        k: number of partitions.
        seed: >= 0; of everything random.

    Raises:
        ValueError: the task cannot be cut into ``k`` partitions, or a bad seed.
    """

    def __init__(self, task: Task, k: int, seed: int) -> None:
        if seed < 0:
            raise ValueError(f"seed must be an integer >= 0, found {seed}")
        self.task = task
        self.seed = seed
        self._parts = task.partitions(k)
        counts = np.array([len(part) for part in self._parts], np.float64)
        self.sizes_K: F64 = counts / counts.sum()

    def samples(self, step: int, j: int) -> I64:
        """The samples of partition ``j`` in ``step``: batch_size of them without replacement, or the whole partition."""
        part = self._parts[j]
        if len(part) <= self.task.batch_size:
            return part
        rng = np.random.Generator(np.random.Philox(sequence(self.seed, SAMPLING, step, j)))
        return part[rng.choice(len(part), self.task.batch_size, replace=False, shuffle=False)]

    def read(self, step: int, j: int, indices: I64, reading: list[int]) -> Any:
        """The batch of these samples. Seeds the global generators; ``reading`` holds the sample being read, for errors."""
        seed_generators(self.seed, DATA, step, j)
        dataset = self.task.dataset
        if hasattr(dataset, "__getitems__"):
            return self.task.batch(dataset.__getitems__(indices.tolist()))
        samples = []
        for index in indices.tolist():
            reading[:] = [index]
            samples.append(dataset[index])
        reading.clear()
        return self.task.batch(samples)
