"""Partition gradients of the user's model: one forward and backward per partition."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import perf_counter, thread_time
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gcdist.model.batches import Batches, BatchSource, ReadError, Sampling, story
from gcdist.model.buffer_updates import BufferUpdate
from gcdist.model.buffers import ModelChangedError
from gcdist.model.device import CPU, device_generator_kept, moved, seed_device
from gcdist.model.randomness import COMPUTE, generators_kept, seed_generators
from gcdist.model.state import ModelState
from gcdist.model.vector_format import Shape
from gcdist.tasks import Task
from gcdist.types import F32, I64, Mask


class UserCodeError(Exception):
    """The user's data set, model or loss raised, or gave numbers that are not finite; ``text``: the whole report."""

    def __init__(self, step: int, partition: int, indices: I64, text: str, *, of_model: bool = False) -> None:
        super().__init__(text)
        self.step = step
        self.partition = partition
        self.indices = indices  # of the samples that were being read or trained on
        self.text = text
        self.of_model = of_model  # it would come with every batch: the model cannot be trained as it is


class _Made(NamedTuple):
    """Results of a forward and a backward pass; ``trained``: the batch had something to train on."""

    value: float
    metrics: Mapping[str, float]
    trained: bool


@dataclass(frozen=True, slots=True, eq=False)
class PartitionResult:
    """One partition's share of one step's gradient, and what came with it."""

    partition: int
    shape: Shape  # of the vector
    loss: float  # mean over the batch; 0 if it had nothing to train on
    gradient: F32  # (d,) N_j/N times the batch mean's gradient; valid until the next compute
    used: Mask  # one entry a parameter: the loss depends on it
    share: float  # N_j/N
    samples: int  # in the batch; 0 if it had nothing to train on: the gradient is zero and the loss does not count
    data_seconds: float  # waiting for the batch: reading and collating, unless a loader reads ahead
    compute_seconds: float  # forward and backward
    cpu_seconds: float  # processor time of this thread for all of it
    buffers: BufferUpdate  # that the forward pass changed
    metrics: Mapping[str, float] = field(default_factory=dict)  # of the batch, by name


class PartitionGradients:
    """The gradients g_j of all partitions, scaled so that they sum to the gradient of the mean loss (math section 1).

    ``g_j`` at step t is a function of (seed, t, j) and of what `ModelState.load` brought: not of what was computed before,
    in which order or where. For this, python's, numpy's and torch's global generators are seeded before the batch is read
    and again before the forward pass; afterwards they are as they were.

    Args:
        task: data set, loss, batch size and partitioner.
        state: the model to compute with (``own=True`` is faster).
        k: number of partitions.
        seed: >= 0; of everything random.
        sampling: see `Batches`.

    Raises:
        ValueError: the task cannot be cut into ``k`` partitions, or a bad seed.
    """

    def __init__(self, task: Task, state: ModelState, k: int, seed: int, sampling: Sampling = "independent") -> None:
        self.task = task
        self.state = state
        self.seed = seed
        self.batches = Batches(task, k, seed, sampling)
        self.source: BatchSource = self.batches  # a worker may put a loader in its place
        self.sizes_K = self.batches.sizes_K
        self._shares = list(torch.from_numpy(self.sizes_K.astype(np.float32)))  # 0-dim tensors: cheaper than floats
        self._shape: Shape | None = None  # that the vectors below were made for
        self._flat = torch.empty(0)  # where the model is
        self._views: list[Tensor] = []
        self._gradient: F32 = self._flat.numpy()  # on the CPU

    def compute(self, step: int, j: int) -> PartitionResult:
        """Forward and backward of partition ``j`` in ``step``, in training mode, with the round's buffers.

        Raises:
            UserCodeError: the user's code raised, or the loss or the gradient is not finite.
        """
        state, began = self.state, thread_time()
        state.restore_buffers()
        try:
            with generators_kept(), device_generator_kept(state.device):
                indices, batch, waited = self.source.batch(step, j)
                read = perf_counter()
                seed_generators(self.seed, COMPUTE, step, j)
                seed_device(state.device, self.seed, COMPUTE, step, j)
                made = self._backward(batch if state.device == CPU else moved(batch, state.device), step)
                done = perf_counter()
            used = self._collect(j)
            buffers = state.buffer_update(float(self.sizes_K[j]))
        except ReadError as error:
            raise UserCodeError(step, j, error.indices, error.text) from error
        except Exception as error:
            indices = self.batches.samples(step, j)
            told = isinstance(error, _NotFiniteError | ModelChangedError)
            text = story(error, step, j, indices, trace=not told)
            raise UserCodeError(step, j, indices, text, of_model=isinstance(error, ModelChangedError)) from error
        return PartitionResult(
            partition=j,
            shape=state.shape,
            loss=made.value,
            gradient=self._gradient,
            used=used,
            share=float(self.sizes_K[j]),
            samples=len(indices) if made.trained else 0,
            data_seconds=waited,
            compute_seconds=done - read,
            cpu_seconds=thread_time() - began,
            buffers=buffers,
            metrics=made.metrics,
        )

    def _backward(self, batch: Any, step: int) -> _Made:
        model = self.state.model
        if not model.training:
            model.train()
        for p in self.state.parameters:
            p.grad = None
        with torch.enable_grad():
            made = self.task.losses(model, batch, step)
            if made.loss is None:
                return _Made(0.0, made.metrics, trained=False)
            value = float(made.loss.detach())
            if not math.isfinite(value):
                raise _NotFiniteError(f"the loss is {value}")
            if not made.loss.requires_grad:
                if value == 0.0:
                    return _Made(0.0, made.metrics, trained=False)
                raise ValueError(
                    f"the loss is {value:g} and depends on no parameter (detached, or computed under no_grad): return None "
                    "for a batch that has nothing to train on"
                )
            made.loss.backward()  # type: ignore[no-untyped-call]
        return _Made(value, made.metrics, trained=True)

    def _collect(self, j: int) -> Mask:
        """Move the parameters' gradients, times N_j/N, into the flat vector; which of them there are."""
        if self._shape is not self.state.shape:
            self._resize()
        used = np.ones(len(self._views), np.bool_)
        share = self._shares[j]
        for i, (p, view) in enumerate(zip(self.state.parameters, self._views, strict=True)):
            grad, p.grad = p.grad, None
            if grad is None:
                used[i] = False
                view.zero_()
                continue
            dense = grad if grad.layout is torch.strided else grad.to_dense()
            if dense.dtype is view.dtype:
                torch.mul(dense, share, out=view)
            else:
                view.copy_(dense).mul_(share)  # a product in bfloat16 would be rounded to it
        if self._flat.device != CPU:
            torch.from_numpy(self._gradient).copy_(self._flat)
        # a sum is one pass at memory speed, and not finite if any term is; overflow of finite terms is looked at closely
        if not math.isfinite(float(self._flat.sum())):
            finite = np.isfinite(self._gradient)
            if not finite.all():
                index = int(finite.argmin())
                raise _NotFiniteError(
                    f"the gradient of parameter {self.state.name_at(index)!r} is not finite ({self._gradient[index]})"
                )
        return used

    def _resize(self) -> None:
        """Vectors for the parameters as they are now."""
        state = self.state
        self._shape = state.shape
        self._flat = torch.empty(state.layout.d, device=state.device)
        self._views = state.split(self._flat)
        self._gradient = self._flat.numpy() if state.device == CPU else np.empty(state.layout.d, np.float32)


class _NotFiniteError(ValueError):
    """The user's loss or gradient is NaN or infinite."""
