"""A model's buffers as bytes, in and out."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gcdist.model.buffer_updates import BufferUpdate
from gcdist.types import F32, U8, Mask

_NONE = BufferUpdate(np.zeros(0), np.zeros(0, np.float32), np.zeros(0, np.uint8))  # of a model without buffers


class ModelChangedError(ValueError):
    """The forward pass changed the model in a way that no other process can follow. One line, equal for every batch."""


@dataclass(slots=True, eq=False)
class _Home:
    """Where a module keeps a buffer."""

    name: str
    module: nn.Module
    key: str

    @property
    def now(self) -> Tensor | None:
        """What is there."""
        return self.module._buffers.get(self.key)

    @property
    def persistent(self) -> bool:
        """Whether it is part of the ``state_dict``."""
        return self.key not in self.module._non_persistent_buffers_set


class Buffers:
    """All buffers of a model, shared ones once, found again where user code puts new tensors in their place.

    Float buffers of any dtype are float32 here (float64 ones lose digits); integer and bool buffers keep their dtype. Order:
    the float ones, then the others by dtype, wide ones first.

    A buffer that is not persistent and changes its shape or dtype, or comes or goes, is a cache: from then on it is its
    process's own, and nobody restores or sends it. A persistent one may not do that: ModelChangedError names it.

    Raises:
        ValueError: a buffer of a kind that is not supported, named.
    """

    def __init__(self, model: nn.Module) -> None:
        self._modules = list(model.named_modules())
        homes: list[_Home] = []
        tensors: list[Tensor] = []
        self._empty: list[_Home] = []  # None at the start
        for prefix, module in self._modules:
            for key, tensor in module._buffers.items():
                home = _Home((f"{prefix}." if prefix else "").replace("_orig_mod.", "") + key, module, key)
                if tensor is None:
                    self._empty.append(home)
                elif not any(tensor is seen for seen in tensors):
                    _check(home.name, tensor)
                    homes.append(home)
                    tensors.append(tensor)
        self._known = self._count()
        self._as_named = [(home.name, tensor) for home, tensor in zip(homes, tensors, strict=True)]
        devices = {tensor.device for tensor in tensors}
        self._device = devices.pop() if len(devices) == 1 else torch.device("cpu")
        ints = [i for i, t in enumerate(tensors) if not t.is_floating_point()]
        # wide ones first: each begins at a multiple of its size
        ints.sort(key=lambda i: (-tensors[i].dtype.itemsize, str(tensors[i].dtype), i))
        order = [i for i, t in enumerate(tensors) if t.is_floating_point()] + ints
        self._homes, self._tensors = [homes[i] for i in order], [tensors[i] for i in order]
        self._floating = len(order) - len(ints)
        self.float_sizes = tuple(tensor.numel() for tensor in self._tensors[: self._floating])
        self.kinds: tuple[tuple[np.dtype[Any], int], ...] = tuple(
            (torch.empty(0, dtype=tensor.dtype).numpy().dtype, tensor.numel())
            for tensor in self._tensors[self._floating :]
        )
        self._own: set[int] = set()  # caches: each process has its own
        self.floats, self.ints = self.read()
        self._values: list[Tensor] = []  # what `restore` goes back to; made by `write`

    def named(self) -> list[tuple[str, Tensor]]:
        """The buffers as they were at first by name, in the order of ``named_buffers``."""
        return self._as_named

    def read(self) -> tuple[F32, U8]:
        """The values now, as new arrays: float buffers as float32, then integer and bool ones by dtype, as bytes.

        Raises:
            ModelChangedError: a persistent buffer has changed its shape or dtype, or is new.
        """
        self._look()
        if not self._tensors:
            return np.zeros(0, np.float32), np.zeros(0, np.uint8)
        at = self._floating
        floats = self._flat(range(at), torch.float32)
        groups = groupby(range(at, len(self._tensors)), key=lambda i: self._tensors[i].dtype)
        ints = [self._flat(list(group), dtype).view(np.uint8) for dtype, group in groups]
        return floats, np.concatenate(ints) if ints else np.zeros(0, np.uint8)

    def update(self, share: float) -> BufferUpdate:
        """The buffers whose bits have changed since the last `write`; ``share``: the share of the samples behind the change.

        Raises:
            ModelChangedError: as `read`.
        """
        if not self._tensors:
            self._look()
            return _NONE
        floats, ints = self.read()
        changed = floats.view(np.uint32) != self.floats.view(np.uint32)
        ends = np.cumsum(self.float_sizes, dtype=np.int64).tolist()
        some = [bool(changed[end - size : end].any()) for end, size in zip(ends, self.float_sizes, strict=True)]
        taken = [floats[end - size : end] for has, end, size in zip(some, ends, self.float_sizes, strict=True) if has]
        bytes_taken, at = [], 0
        for dtype, count in self.kinds:
            where = slice(at, at + dtype.itemsize * count)
            at = where.stop
            some.append(not np.array_equal(ints[where], self.ints[where]))
            if some[-1]:
                bytes_taken.append(ints[where])
        shares_B = np.where(np.array(some, bool), share, 0.0)
        return BufferUpdate(
            shares_B,
            np.concatenate(taken) if taken else np.zeros(0, np.float32),
            np.concatenate(bytes_taken) if bytes_taken else np.zeros(0, np.uint8),
        )

    def take(self, update: BufferUpdate) -> None:
        """Master: give the buffers that changed their new values; all others stay as they are, to the last bit."""
        some: Mask = update.shares_B > 0
        floats, ints = 0, 0
        with torch.no_grad():
            for i in np.flatnonzero(some).tolist():
                tensor = self._tensors[i]
                if i < self._floating:
                    end = floats + tensor.numel()
                    value, floats = torch.from_numpy(update.floats[floats:end].copy()), end
                else:
                    end = ints + tensor.dtype.itemsize * tensor.numel()
                    value, ints = torch.from_numpy(update.ints[ints:end].copy()).view(tensor.dtype), end
                now = self._homes[i].now
                if now is not None and i not in self._own:
                    now.copy_(value.view(tensor.shape))

    def write(self, floats: F32, ints: U8) -> None:
        """Worker: take these values; they are the ones that `restore` goes back to."""
        if not self._tensors:
            return
        self.floats[:], self.ints[:] = floats, ints
        self._values = self._views()
        self.restore()

    def restore(self) -> None:
        """Give the buffers the values of the last `write` (of the start, if there was none)."""
        if not self._tensors:
            return
        self._values = self._values or self._views()
        for i, home in enumerate(self._homes):
            now, tensor = home.now, self._tensors[i]
            if i in self._own:
                continue
            if now is not None and now.device != tensor.device:  # the user moved the model
                self._tensors[i] = now
            elif now is not tensor:
                home.module._buffers[home.key] = tensor
        with torch.no_grad():
            torch._foreach_copy_(self._tensors, self._values)

    def _count(self) -> int:
        return sum(len(module._buffers) for _, module in self._modules)

    def _look(self) -> None:
        """Check that every buffer can still travel; caches become their process's own."""
        for i, (home, tensor) in enumerate(zip(self._homes, self._tensors, strict=True)):
            now = home.now
            if i in self._own or (now is not None and now.shape == tensor.shape and now.dtype == tensor.dtype):
                continue
            if home.persistent:
                found = "None" if now is None else f"{now.dtype} of shape {tuple(now.shape)}"
                raise ModelChangedError(
                    f"buffer {home.name!r} was {tensor.dtype} of shape {tuple(tensor.shape)} and has become {found}: give "
                    "it its full shape from the start; a cache may change if it is registered with persistent=False"
                )
            self._own.add(i)
        for home in self._empty:
            if home.now is not None and home.persistent:
                raise _late(home.name)
        if self._count() != self._known:
            known = {(id(home.module), home.key) for home in (*self._homes, *self._empty)}
            for prefix, module in self._modules:
                for key in module._buffers:
                    home = _Home(f"{prefix}.{key}" if prefix else key, module, key)
                    shared = module._buffers[key] is None or any(module._buffers[key] is t for t in self._tensors)
                    if home.persistent and not shared and (id(module), key) not in known:
                        raise _late(home.name)
            self._known = self._count()

    def _flat(self, group: range | list[int], dtype: torch.dtype) -> Any:
        """The values now of these buffers in one new array; of a cache, those of the start."""
        if not group:
            return torch.empty(0, dtype=dtype).numpy()
        tensors = ((self._tensors[i] if i in self._own else self._homes[i].now) for i in group)
        return torch.cat([t.detach().reshape(-1).to(self._device, dtype) for t in tensors]).cpu().numpy()  # type: ignore[union-attr]

    def _views(self) -> list[Tensor]:
        """Views of ``floats`` and ``ints`` in the buffers' order and shapes, on their device."""
        floats = torch.from_numpy(self.floats).to(self._device)
        pieces = list(torch.split(floats, list(self.float_sizes))) if self.float_sizes else []
        ints, at = torch.from_numpy(self.ints).to(self._device), 0
        for (dtype, count), tensor in zip(self.kinds, self._tensors[self._floating :], strict=True):
            end = at + dtype.itemsize * count
            pieces.append(ints[at:end].view(tensor.dtype))
            at = end
        return [piece.view(tensor.shape) for piece, tensor in zip(pieces, self._tensors, strict=True)]


def _late(name: str) -> ModelChangedError:
    return ModelChangedError(
        f"buffer {name!r} came with the forward pass: all processes must have it from the start; a cache may come later if "
        "it is registered with persistent=False"
    )


def _check(name: str, tensor: Tensor) -> None:
    if tensor.is_complex():
        raise ValueError(
            f"buffer {name!r} is {tensor.dtype}: only real ones can travel; register torch.view_as_real(...) of it and take "
            "torch.view_as_complex in forward, or keep what never changes as a plain attribute"
        )
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.device.type == "meta":
        raise ValueError(
            f"buffer {name!r} is {tensor.dtype} ({tensor.layout}, {tensor.device.type}): only dense real ones can travel; "
            "register indices and values as two dense ones, or keep what never changes as a plain attribute"
        )
