"""A model's parameters and buffers as bytes, in and out: the same at master and worker."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gcdist.types import F32, I64, U8, Layout, Mask

BufferUpdate = tuple[float, F32, I64]  # share of the samples, float buffers, integer buffers


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
