"""Partition gradients of the user's model: one forward and backward per partition."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import field
from time import perf_counter, thread_time
from typing import Any, NamedTuple

import numpy as np
import torch

from gcdist.model.batches import Batches, BatchSource, ReadError, Sampling, story
from gcdist.model.buffer_updates import BufferUpdate
from gcdist.model.buffers import ModelChangedError
from gcdist.model.device import CPU, device_generator_kept, moved, seed_device
from gcdist.model.randomness import COMPUTE, generators_are_kept, generators_kept, seed_generators
from gcdist.model.state import ModelState
from gcdist.model.vector_format import Shape
from gcdist.records import record_by_identity
from gcdist.tasks import Task
from gcdist.types import F32, I64, Mask

_NOTHING = nullcontext()


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


@record_by_identity
class PartitionResult:
    """One partition's share of one step's gradient, and what came with it."""

    step: int
    partition: int
    shape: Shape  # of the vector
    loss: float  # mean over the batch; 0 if it had nothing to train on
    grads: tuple[
        F32 | None, ...
    ]  # of each parameter, flat, as the backward pass left it; None: zero. Not looked at yet
    sizes: tuple[int, ...]  # of the parameters
    scale: np.float32  # ``grads`` times this is N_j/N times the batch mean's gradient
    used: Mask  # one entry a parameter: the loss depends on it
    share: float  # N_j/N
    indices: I64  # of the samples in the batch
    samples: int  # their number; 0 if it had nothing to train on: the gradient is zero and the loss does not count
    data_seconds: float  # waiting for the batch: reading and collating, unless a loader reads ahead
    compute_seconds: float  # forward and backward
    cpu_seconds: float  # processor time of this thread for all of it
    buffers: BufferUpdate  # that the forward pass changed
    name_at: Callable[[int], str]  # of the parameter of a coordinate
    metrics: Mapping[str, float] = field(default_factory=dict)  # of the batch, by name

    @property
    def gradient(self) -> F32:
        """(d,) N_j/N times the batch mean's gradient, as a new vector; UserCodeError if it is not finite."""
        out = np.zeros(self.shape.layout.d, np.float32)
        for grad, part in zip(self.grads, np.split(out, np.cumsum(self.sizes[:-1])), strict=True):
            if grad is not None:
                np.multiply(grad, self.scale, out=part)
        self.check_finite(out)
        return out

    def check_finite(self, gradient: F32) -> None:
        """UserCodeError with the first parameter whose gradient is not finite; ``gradient`` (d,) is all of it."""
        finite = np.isfinite(gradient)
        if finite.all():
            return
        index = int(finite.argmin())
        fault = _NotFiniteError(f"the gradient of parameter {self.name_at(index)!r} is not finite ({gradient[index]})")
        text = story(fault, self.step, self.partition, self.indices, trace=False)
        raise UserCodeError(self.step, self.partition, self.indices, text)


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
        processor_time: seconds of this thread's processor so far; reading a clock costs as much as a small gradient.

    Raises:
        ValueError: the task cannot be cut into ``k`` partitions, or a bad seed.
    """

    def __init__(
        self,
        task: Task,
        state: ModelState,
        k: int,
        seed: int,
        sampling: Sampling = "independent",
        processor_time: Callable[[], float] = thread_time,
    ) -> None:
        self.task = task
        self.state = state
        self.seed = seed
        self._processor_time = processor_time
        self.batches = Batches(task, k, seed, sampling)
        self.source: BatchSource = self.batches  # a worker may put a loader in its place
        self.sizes_K = self.batches.sizes_K
        self._all_used: Mask = np.ones(0, np.bool_)
        self._scales = self.sizes_K.astype(np.float32)

    def compute(self, step: int, j: int) -> PartitionResult:
        """Forward and backward of partition ``j`` in ``step``, in training mode, with the round's buffers.

        Whether the gradient is finite is seen by who adds it up, in the same pass.

        Raises:
            UserCodeError: the user's code raised, or the loss is not finite.
        """
        state, began = self.state, self._processor_time()
        state.restore_buffers()
        try:
            if state.device == CPU and generators_are_kept():
                indices, waited, made, compute_seconds = self._computed(step, j)
            else:
                with generators_kept(), device_generator_kept(state.device):
                    indices, waited, made, compute_seconds = self._computed(step, j)
            grads = self._collect()
            buffers = state.buffer_update(float(self.sizes_K[j]))
        except ReadError as error:
            raise UserCodeError(step, j, error.indices, error.text) from error
        except Exception as error:
            indices = self.batches.samples(step, j)
            told = isinstance(error, _NotFiniteError | ModelChangedError)
            text = story(error, step, j, indices, trace=not told)
            raise UserCodeError(step, j, indices, text, of_model=isinstance(error, ModelChangedError)) from error
        return PartitionResult(
            step=step,
            partition=j,
            shape=state.shape,
            loss=made.value,
            grads=grads,
            sizes=state.sizes,
            scale=self._scales[j],
            used=self._used_by(grads),
            share=float(self.sizes_K[j]),
            indices=indices,
            samples=len(indices) if made.trained else 0,
            data_seconds=waited,
            compute_seconds=compute_seconds,
            cpu_seconds=self._processor_time() - began,
            buffers=buffers,
            name_at=state.name_at,
            metrics=made.metrics,
        )

    def _computed(self, step: int, j: int) -> tuple[I64, float, _Made, float]:
        """The batch's samples, the seconds waited for it, what forward and backward gave, and their seconds."""
        state = self.state
        indices, batch, waited = self.source.batch(step, j)
        read = perf_counter()
        seed_generators(self.seed, COMPUTE, step, j)
        if state.device != CPU:
            seed_device(state.device, self.seed, COMPUTE, step, j)
            batch = moved(batch, state.device)
        made = self._backward(batch, step)
        return indices, waited, made, perf_counter() - read

    def _used_by(self, grads: tuple[F32 | None, ...]) -> Mask:
        """Which parameters have a gradient; where all have one, the same object for all partitions."""
        if any(grad is None for grad in grads):
            return np.array([grad is not None for grad in grads], np.bool_)
        if len(self._all_used) != len(grads):
            self._all_used = np.ones(len(grads), np.bool_)
        return self._all_used

    def _backward(self, batch: Any, step: int) -> _Made:
        model = self.state.model
        if not model.training:
            model.train()
        for p in self.state.parameters:
            p.grad = None
        with _NOTHING if torch.is_grad_enabled() else torch.enable_grad():
            made = self.task.losses(model, batch, step)
            if made.loss is None:
                return _Made(0.0, made.metrics, trained=False)
            value = float(made.loss.item())
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

    def _collect(self) -> tuple[F32 | None, ...]:
        """Take the parameters' gradients, flat float32 on the CPU; None where there is none."""
        found: list[F32 | None] = []
        for p in self.state.parameters:
            grad, p.grad = p.grad, None
            if grad is None:
                found.append(None)
                continue
            if grad.dtype is torch.float32 and grad.layout is torch.strided and grad.is_cpu and grad.is_contiguous():
                found.append((grad.detach() if grad.requires_grad else grad).numpy().ravel())
                continue
            dense = grad.detach() if grad.layout is torch.strided else grad.to_dense().detach()
            # product in float32 whatever it is: a product in bfloat16 would be rounded to it
            found.append(dense.to(CPU, torch.float32).contiguous().view(-1).numpy())
        return tuple(found)


class _NotFiniteError(ValueError):
    """The user's loss or gradient is NaN or infinite."""
