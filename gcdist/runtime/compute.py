"""Partition gradients of the user's model: parameters and buffers in and out, one forward and backward per partition."""

from __future__ import annotations

import hashlib
import math
import random
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.random import mtrand
from torch import Tensor, nn

from gcdist.tasks import Task
from gcdist.types import F32, F64, I64, U8, Layout, Mask

BufferUpdate = tuple[float, F32, I64]  # share of the samples, float buffers, integer buffers


class UserCodeError(Exception):
    """The user's data set, model or loss raised, or gave numbers that are not finite; ``text`` says all of it."""

    def __init__(self, step: int, partition: int, indices: I64, text: str) -> None:
        super().__init__(text)
        self.step = step
        self.partition = partition
        self.indices = indices  # of the samples that were being read or trained on
        self.text = text


class ModelState:
    """A model's trainable parameters as one flat float32 vector, and its buffers: the same at master and worker.

    The vector holds the parameters with ``requires_grad`` in the order of ``named_parameters`` (shared ones once). A
    snapshot is that vector, then the float buffers as float32, then (from a multiple of 8 bytes) the integer and bool
    buffers as int64. Frozen parameters never travel: their values are in the fingerprint.

    Args:
        model: the module; it stays the user's.
        own: worker: make the parameters views of one flat tensor, so that `load` is one copy. The master leaves this
            off: there, optimizers find ordinary parameters.

    Raises:
        ValueError: a parameter or buffer of a kind that is not supported, named with its dtype.
    """

    def __init__(self, model: nn.Module, own: bool = False) -> None:
        self.model = model
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        if not named:
            raise ValueError(f"{type(model).__name__} has no parameter with requires_grad: there is nothing to train")
        for name, p in named:
            _check_parameter(name, p)
        self.names = [name for name, _ in named]
        self.parameters: list[Tensor] = [p for _, p in named]
        self._sizes = [p.numel() for p in self.parameters]
        self._ends = np.cumsum(self._sizes)
        self._buffers = _Buffers(model)
        self.layout = Layout.flat(int(self._ends[-1]), _fingerprint(model, self._buffers))
        self._ints_at = -(-4 * (self.layout.d + self._buffers.floats.size) // 8) * 8
        self._flat: F32 | None = None
        if own:
            flat = torch.cat([p.detach().reshape(-1) for p in self.parameters])
            for parameter, view in zip(self.parameters, self.split(flat), strict=True):
                parameter.data = view
            self._flat = flat.numpy()

    @property
    def nbytes(self) -> int:
        """Size of a snapshot."""
        return self._ints_at + 8 * self._buffers.ints.size

    def name_at(self, coordinate: int) -> str:
        """The parameter that a coordinate of the flat vector belongs to."""
        return self.names[int(np.searchsorted(self._ends, coordinate, side="right"))]

    def snapshot(self, out: U8 | None = None) -> U8:
        """Copy parameters and buffers into ``out`` (nbytes,), a new array if None."""
        raw = np.zeros(self.nbytes, np.uint8) if out is None else out
        parameters, floats, ints = self._sections(raw)
        if self._flat is not None:
            parameters[:] = self._flat
        else:
            torch.cat([p.detach().reshape(-1) for p in self.parameters], out=torch.from_numpy(parameters))
        floats[:], ints[:] = self._buffers.read()
        return raw

    def load(self, raw: U8) -> None:
        """Take a snapshot into the model; its buffers are the ones that `restore_buffers` goes back to."""
        parameters, floats, ints = self._sections(raw)
        if self._flat is not None:
            self._flat[:] = parameters
        else:
            with torch.no_grad():
                torch._foreach_copy_(self.parameters, self.split(torch.from_numpy(parameters.copy())))
        self._buffers.write(floats, ints)

    def restore_buffers(self) -> None:
        """Give the buffers the values of the last `load`: no partition sees what another one did to them."""
        self._buffers.restore()

    def buffer_update(self) -> tuple[F32, I64]:
        """The buffers as they are now, as new arrays: float ones as float32, integer and bool ones as int64."""
        return self._buffers.read()

    def merge_buffers(self, updates: Sequence[BufferUpdate]) -> None:
        """Master: average the float buffers by sample share, take the maximum of the integer ones; nothing: no change."""
        if not updates:
            return
        total = math.fsum(share for share, _, _ in updates)
        floats = sum(((share / total) * update.astype(np.float64) for share, update, _ in updates), np.float64(0))
        ints = np.maximum.reduce([update for _, _, update in updates])
        self._buffers.write(np.asarray(floats, np.float32), ints)

    def set_grad(self, g: F32, has_grad: Mask | None = None) -> None:
        """Replace every ``.grad`` by a view of ``g`` (d,): None where ``has_grad`` (one entry a parameter) is False.

        ``g`` must not be written to before the next call: it is the user's gradient until then.
        """
        for i, (p, view) in enumerate(zip(self.parameters, self.split(torch.from_numpy(g)), strict=True)):
            p.grad = view if p.requires_grad and (has_grad is None or has_grad[i]) else None

    def split(self, flat: Tensor) -> list[Tensor]:
        """Views of a flat vector (d,) in the shapes of the parameters."""
        return [view.view(p.shape) for view, p in zip(torch.split(flat, self._sizes), self.parameters, strict=True)]

    def _sections(self, raw: U8) -> tuple[F32, F32, I64]:
        if raw.shape != (self.nbytes,):
            raise ValueError(f"a snapshot of this model has {self.nbytes} bytes, found shape {raw.shape}")
        d, floats = self.layout.d, self._buffers.floats.size
        numbers = raw[: 4 * (d + floats)].view(np.float32)
        return numbers[:d], numbers[d:], raw[self._ints_at :].view(np.int64)


class _Buffers:
    """All buffers of a model, shared ones once, found again where user code puts new tensors in their place."""

    def __init__(self, model: nn.Module) -> None:
        self.names: list[str] = []
        self._homes: list[tuple[dict[str, Tensor | None], str]] = []
        self._tensors: list[Tensor] = []
        for prefix, module in model.named_modules():
            for key, tensor in module._buffers.items():
                if tensor is None or any(tensor is seen for seen in self._tensors):
                    continue
                name = f"{prefix}.{key}" if prefix else key
                if tensor.is_complex() or tensor.device.type != "cpu":
                    raise ValueError(
                        f"buffer {name!r} is {tensor.dtype} on {tensor.device}: only real ones on cpu so far"
                    )
                self.names.append(name)
                self._homes.append((module._buffers, key))
                self._tensors.append(tensor)
        self._is_float = [tensor.is_floating_point() for tensor in self._tensors]
        self.floats, self.ints = self.read()
        self._values = self._views()

    def named(self) -> list[tuple[str, Tensor]]:
        return list(zip(self.names, self._tensors, strict=True))

    def read(self) -> tuple[F32, I64]:
        floats: list[Tensor] = []
        ints: list[Tensor] = []
        for name, (home, key), tensor, is_float in zip(
            self.names, self._homes, self._tensors, self._is_float, strict=True
        ):
            now = home[key]
            if now is None or now.shape != tensor.shape or now.dtype != tensor.dtype:
                found = "None" if now is None else f"{now.dtype} of shape {tuple(now.shape)}"
                raise ValueError(
                    f"buffer {name!r} was {tensor.dtype} of shape {tuple(tensor.shape)} and has become {found}"
                )
            (floats if is_float else ints).append(now.detach().reshape(-1))
        return _concatenate(floats, torch.float32), _concatenate(ints, torch.int64)

    def write(self, floats: F32, ints: I64) -> None:
        self.floats[:], self.ints[:] = floats, ints
        self.restore()

    def restore(self) -> None:
        if not self._tensors:
            return
        for (home, key), tensor in zip(self._homes, self._tensors, strict=True):
            if home[key] is not tensor:
                home[key] = tensor
        with torch.no_grad():
            torch._foreach_copy_(self._tensors, self._values)

    def _views(self) -> list[Tensor]:
        """Views of ``floats`` and ``ints`` in the buffers' order and shapes."""
        floats, ints = torch.from_numpy(self.floats), torch.from_numpy(self.ints)
        views = []
        f = i = 0
        for tensor, is_float in zip(self._tensors, self._is_float, strict=True):
            size = tensor.numel()
            flat = floats[f : f + size] if is_float else ints[i : i + size]
            f, i = (f + size, i) if is_float else (f, i + size)
            views.append(flat.view(tensor.shape))
        return views


@dataclass(frozen=True, slots=True, eq=False)
class PartitionResult:
    """One partition's share of one step's gradient, and what came with it."""

    loss: float  # mean over the batch
    gradient: F32  # (d,) N_j/N times the batch mean's gradient; valid until the next compute
    used: Mask  # one entry a parameter: the loss depends on it
    share: float  # N_j/N
    samples: int  # in the batch
    data_seconds: float  # reading and collating
    compute_seconds: float  # forward and backward
    float_buffers: F32  # after the forward pass: `ModelState.buffer_update`
    int_buffers: I64


class PartitionGradients:
    """The gradients g_j of all partitions, scaled so that they sum to the gradient of the mean loss (math.md section 1).

    ``g_j`` at step t is a function of (seed, t, j) and of what `ModelState.load` brought: not of what was computed before,
    in which order or where. For this, python's, numpy's and torch's global generators are seeded before the batch is read
    and again before the forward pass; afterwards they are as they were.

    Args:
        task: data set, loss, batch size and partitioner.
        state: the model to compute with (``own=True`` is faster).
        k: number of partitions.
        seed: >= 0; of everything random.

    Raises:
        ValueError: the task cannot be cut into ``k`` partitions, or a bad seed.
    """

    def __init__(self, task: Task, state: ModelState, k: int, seed: int) -> None:
        if seed < 0:
            raise ValueError(f"seed must be an integer >= 0, found {seed}")
        self.task = task
        self.state = state
        self.seed = seed
        self._parts = task.partitions(k)
        counts = np.array([len(part) for part in self._parts], np.float64)
        self.sizes_K: F64 = counts / counts.sum()
        self._shares = list(torch.from_numpy(self.sizes_K.astype(np.float32)))  # 0-dim tensors: cheaper than floats
        self._flat = torch.empty(state.layout.d)
        self._views = state.split(self._flat)
        self._gradient: F32 = self._flat.numpy()

    def samples(self, step: int, j: int) -> I64:
        """The samples of partition ``j`` in ``step``: batch_size of them without replacement, or the whole partition."""
        part = self._parts[j]
        if len(part) <= self.task.batch_size:
            return part
        rng = np.random.Generator(np.random.Philox(_sequence(self.seed, _SAMPLING, step, j)))
        return part[rng.choice(len(part), self.task.batch_size, replace=False, shuffle=False)]

    def compute(self, step: int, j: int) -> PartitionResult:
        """Forward and backward of partition ``j`` in ``step``, in training mode, with the round's buffers.

        Raises:
            UserCodeError: the user's code raised, or the loss or the gradient is not finite.
        """
        indices = self.samples(step, j)
        reading: list[int] = []  # the sample being read, for the error's text
        state = self.state
        state.restore_buffers()
        try:
            with _generators_kept():
                started = perf_counter()
                _seed_generators(self.seed, _DATA, step, j)
                batch = self._read(indices, reading)
                read = perf_counter()
                _seed_generators(self.seed, _COMPUTE, step, j)
                loss = self._backward(batch)
                done = perf_counter()
            used = self._collect(j)
            floats, ints = state.buffer_update()
        except Exception as error:
            raise UserCodeError(step, j, indices, _story(error, step, j, indices, reading)) from error
        return PartitionResult(
            loss=loss,
            gradient=self._gradient,
            used=used,
            share=float(self.sizes_K[j]),
            samples=len(indices),
            data_seconds=read - started,
            compute_seconds=done - read,
            float_buffers=floats,
            int_buffers=ints,
        )

    def _read(self, indices: I64, reading: list[int]) -> Any:
        dataset = self.task.dataset
        if hasattr(dataset, "__getitems__"):
            return self.task.batch(dataset.__getitems__(indices.tolist()))
        samples = []
        for index in indices.tolist():
            reading[:] = [index]
            samples.append(dataset[index])
        reading.clear()
        return self.task.batch(samples)

    def _backward(self, batch: Any) -> float:
        model = self.state.model
        if not model.training:
            model.train()
        for p in self.state.parameters:
            p.grad = None
        with torch.enable_grad():
            loss = self.task.loss(model, batch)
            value = float(loss.detach())
            if not math.isfinite(value):
                raise _NotFiniteError(f"the loss is {value}")
            loss.backward()  # type: ignore[no-untyped-call]
        return value

    def _collect(self, j: int) -> Mask:
        """Move the parameters' gradients, times N_j/N, into the flat vector; which of them there are."""
        used = np.ones(len(self._views), np.bool_)
        share = self._shares[j]
        for i, (p, view) in enumerate(zip(self.state.parameters, self._views, strict=True)):
            grad, p.grad = p.grad, None
            if grad is None:
                used[i] = False
                view.zero_()
            else:
                torch.mul(grad if grad.layout is torch.strided else grad.to_dense(), share, out=view)
        # a sum is one pass at memory speed, and not finite if any term is; overflow of finite terms is looked at closely
        if not math.isfinite(float(self._flat.sum())):
            finite = np.isfinite(self._gradient)
            if not finite.all():
                index = int(finite.argmin())
                raise _NotFiniteError(
                    f"the gradient of parameter {self.state.name_at(index)!r} is not finite ({self._gradient[index]})"
                )
        return used


class _NotFiniteError(ValueError):
    """The user's loss or gradient is NaN or infinite."""


def _story(error: Exception, step: int, j: int, indices: I64, reading: list[int]) -> str:
    """One line of what and where, then the traceback if it says more."""
    samples = (
        f"sample {reading[0]}" if reading else f"samples {np.array2string(indices, threshold=20)}".replace("\n", "")
    )
    where = f"(step {step}, partition {j}, {samples})"
    if isinstance(error, _NotFiniteError):
        return f"{error} {where}"
    what = "".join(traceback.format_exception_only(error)).strip()
    return f"{what} {where}\n{''.join(traceback.format_exception(error)).rstrip()}"


_SAMPLING, _DATA, _COMPUTE = range(3)  # what the randomness of (seed, step, partition) is for


def _sequence(seed: int, purpose: int, step: int, j: int) -> np.random.SeedSequence:
    return np.random.SeedSequence((seed, purpose, step, j))


def _seed_generators(seed: int, purpose: int, step: int, j: int) -> None:
    words = _sequence(seed, purpose, step, j).generate_state(3, np.uint64).tolist()
    random.seed(words[0])
    np.random.seed(words[1] >> 32)  # noqa: NPY002 (it is the user's code that draws from the global generator)
    torch.default_generator.manual_seed(words[2])  # torch.manual_seed takes 0.1 ms to look for other devices


_numpy_generator = np.random.MT19937(0)


@contextmanager
def _generators_kept() -> Iterator[None]:
    """Give python's, numpy's and torch's global generators back as they were."""
    python, numpy, pytorch = random.getstate(), mtrand.get_bit_generator(), torch.get_rng_state()
    mtrand.set_bit_generator(_numpy_generator)  # to put another one in its place is 20 times faster than to copy it
    try:
        yield
    finally:
        random.setstate(python)
        mtrand.set_bit_generator(numpy)
        torch.set_rng_state(pytorch)


def _concatenate(tensors: list[Tensor], dtype: torch.dtype) -> Any:
    return torch.cat([t.to(dtype) for t in tensors]).numpy() if tensors else torch.empty(0, dtype=dtype).numpy()


def _check_parameter(name: str, p: Tensor) -> None:
    if nn.parameter.is_lazy(p):
        raise ValueError(f"parameter {name!r} has no shape yet: run the model once before the training starts")
    if p.dtype != torch.float32:
        raise ValueError(f"parameter {name!r} is {p.dtype}: only torch.float32 can be trained so far")
    if p.device.type != "cpu":
        raise ValueError(f"parameter {name!r} is on {p.device}: only cpu so far")


def _fingerprint(model: nn.Module, buffers: _Buffers) -> str:
    """Hash of names, shapes, dtypes and requires_grad of parameters and buffers, and of the frozen parameters' values."""
    digest = hashlib.sha256()
    for name, p in model.named_parameters():
        digest.update(f"{name} {tuple(p.shape)} {p.dtype} {p.requires_grad};".encode())
        if not p.requires_grad:
            digest.update(p.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    for name, tensor in buffers.named():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype};".encode())
    return digest.hexdigest()[:16]
