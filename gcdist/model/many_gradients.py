"""Gradients of many partitions at once, of data sets that can: the simulator's, where one model computes for thousands."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from torch import Tensor, nn

from gcdist.model.buffer_updates import BufferUpdate, no_update
from gcdist.model.device import CPU
from gcdist.model.gradients import PartitionGradients, PartitionResult
from gcdist.model.vector_format import Shape
from gcdist.types import F32, F64, I64, Mask

MOST_VALUES = 1 << 20  # numbers of the samples that are computed at once: 4 MB, and some times as much in between
_NO_METRICS: Mapping[str, float] = {}


@runtime_checkable
class ManyGradients(Protocol):
    """A data set that gives the gradients of many batches of its own loss, to the last bit those of a backward pass each.

    Its model has one float32 parameter and no buffers, and draws nothing at random.
    """

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """The task's ``loss_fn``."""
        ...

    def many_gradients(self, model: nn.Module, samples_PB: I64) -> tuple[F32, F32]:
        """Losses (P,) and gradients (P, d) of P batches, by the numbers of their B samples each."""
        ...


class _Block(NamedTuple):
    """Neighbouring partitions of one step."""

    first: int
    losses: list[float]
    grads_PD: F32
    samples: list[I64]


class BlockGradients:
    """Partition gradients in blocks of neighbours: `PartitionGradients.compute` for whoever is asked for, bit for bit.

    Args:
        gradients: of the same task, model and seed.
        source: its data set.
        seconds: of computing, that results claim.
    """

    def __init__(self, gradients: PartitionGradients, source: ManyGradients, seconds: float) -> None:
        self._gradients, self._source, self._seconds = gradients, source, seconds
        state, batch = gradients.state, gradients.task.batch_size
        self._k = len(gradients.sizes_K)
        self._width = max(1, min(self._k, MOST_VALUES // max(1, batch * state.layout.d)))
        self._scales, self._sizes = gradients.sizes_K.astype(np.float32), gradients.sizes_K.tolist()
        self._used: Mask = np.ones(1, np.bool_)
        self._buffers: BufferUpdate = no_update(state.shape)
        self._blocks: dict[tuple[int, int, int], _Block] = {}

    @staticmethod
    def of(gradients: PartitionGradients, seconds: float) -> BlockGradients | None:
        """None: the task's gradients are computed one by one."""
        task, state = gradients.task, gradients.state
        source = task.dataset
        if not isinstance(source, ManyGradients) or task.loss_fn != source.loss or state.device != CPU:
            return None
        return BlockGradients(gradients, source, seconds)

    def forget(self, version: int) -> None:
        """Drop the blocks of parameters older than this version."""
        self._blocks = {key: block for key, block in self._blocks.items() if key[0] >= version}

    def compute(self, version: int, step: int, j: int) -> PartitionResult:
        """See `PartitionGradients.compute`; ``version`` names the parameters in the model."""
        key = version, step, j // self._width
        block = self._blocks.get(key)
        if block is None:
            block = self._blocks[key] = self._make(step, key[2] * self._width)
        at, state = j - block.first, self._gradients.state
        loss = block.losses[at]
        if not isfinite(loss):  # the usual way raises, with its line
            return self._gradients.compute(step, j)
        samples = block.samples[at]
        return PartitionResult(
            step,
            j,
            state.shape,
            loss,
            (block.grads_PD[at],),
            state.sizes,
            self._scales[j],
            self._used,
            self._sizes[j],
            samples,
            len(samples),
            0.0,
            self._seconds,
            self._seconds,
            self._buffers,
            state.name_at,
            _NO_METRICS,
        )

    def many(self, version: int, step: int, j_T: I64) -> tuple[F32, I64, list[float]]:
        """Of T partitions: gradients (P, d), unscaled, which of them each has (T,), and the losses."""
        of_T = j_T // self._width
        numbers = np.unique(of_T).tolist()
        blocks = []
        for number in numbers:
            key = version, step, number
            if key not in self._blocks:
                self._blocks[key] = self._make(step, number * self._width)
            blocks.append(self._blocks[key])
        if len(blocks) == 1:
            block = blocks[0]
            at_T, losses = j_T - block.first, block.losses
            return block.grads_PD, at_T, [losses[at] for at in at_T.tolist()]
        grads_TD, losses = np.empty((len(j_T), self._gradients.state.layout.d), np.float32), [0.0] * len(j_T)
        for number, block in zip(numbers, blocks, strict=True):
            mine = np.flatnonzero(of_T == number)
            at_T = j_T[mine] - block.first
            grads_TD[mine] = block.grads_PD[at_T]
            for t, at in zip(mine.tolist(), at_T.tolist(), strict=True):
                losses[t] = block.losses[at]
        return grads_TD, np.arange(len(j_T)), losses

    @property
    def scale_K(self) -> F32:
        """(K,) what a partition's gradient is multiplied with: its share."""
        return self._scales

    @property
    def share_K(self) -> F64:
        """(K,) N_j/N."""
        return self._gradients.sizes_K

    @property
    def shape(self) -> Shape:
        """Of the vector."""
        return self._gradients.state.shape

    @property
    def used(self) -> Mask:
        """Parameters that a loss depends on: the one that there is."""
        return self._used

    def _make(self, step: int, first: int) -> _Block:
        model, batches = self._gradients.state.model, self._gradients.batches
        samples = [batches.samples(step, j) for j in range(first, min(self._k, first + self._width))]
        length = np.array([len(each) for each in samples])
        losses = np.empty(len(samples), np.float32)
        grads_PD = np.empty((len(samples), self._gradients.state.layout.d), np.float32)
        for size in np.unique(length):
            of_size = np.flatnonzero(length == size)
            found = self._source.many_gradients(model, np.stack([samples[i] for i in of_size]))
            losses[of_size], grads_PD[of_size] = found
        return _Block(first, losses.tolist(), grads_PD, samples)
