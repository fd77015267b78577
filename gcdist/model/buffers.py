"""A model's buffers as bytes, in and out."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gcdist.types import F32, U8


class Buffers:
    """All buffers of a model, shared ones once, found again where user code puts new tensors in their place.

    Float buffers of any dtype are float32 here (float64 ones lose digits); integer and bool buffers keep their dtype.

    Raises:
        ValueError: a buffer of a kind that is not supported, named.
    """

    def __init__(self, model: nn.Module) -> None:
        self.names: list[str] = []
        self._homes: list[tuple[dict[str, Tensor | None], str]] = []
        self._tensors: list[Tensor] = []
        for prefix, module in model.named_modules():
            for key, tensor in module._buffers.items():
                if tensor is None or any(tensor is seen for seen in self._tensors):
                    continue
                name = (f"{prefix}." if prefix else "").replace("_orig_mod.", "") + key
                _check(name, tensor)
                self.names.append(name)
                self._homes.append((module._buffers, key))
                self._tensors.append(tensor)
        devices = {tensor.device for tensor in self._tensors}
        self._device = devices.pop() if len(devices) == 1 else torch.device("cpu")
        every = range(len(self._tensors))
        # wide ones first: each begins at a multiple of its size
        dtypes = sorted(
            {t.dtype for t in self._tensors if not t.is_floating_point()}, key=lambda d: (-d.itemsize, str(d))
        )
        self._floats = [i for i in every if self._tensors[i].is_floating_point()]
        self._ints = [(dtype, [i for i in every if self._tensors[i].dtype == dtype]) for dtype in dtypes]
        self.floats, self.ints = self.read()
        self.kinds: tuple[tuple[np.dtype[Any], int], ...] = tuple(
            (torch.empty(0, dtype=dtype).numpy().dtype, sum(self._tensors[i].numel() for i in group))
            for dtype, group in self._ints
        )
        self._values: list[Tensor] = []  # what `restore` goes back to; made by `write`

    def named(self) -> list[tuple[str, Tensor]]:
        """The buffers by name, in the order of ``named_buffers``."""
        return list(zip(self.names, self._tensors, strict=True))

    def read(self) -> tuple[F32, U8]:
        """The values now, as new arrays: float buffers as float32, then integer and bool ones by dtype, as bytes.

        Raises:
            ValueError: a buffer has changed its shape or dtype.
        """
        for name, (home, key), tensor in zip(self.names, self._homes, self._tensors, strict=True):
            now = home[key]
            if now is None or now.shape != tensor.shape or now.dtype != tensor.dtype:
                found = "None" if now is None else f"{now.dtype} of shape {tuple(now.shape)}"
                raise ValueError(
                    f"buffer {name!r} was {tensor.dtype} of shape {tuple(tensor.shape)} and has become {found}"
                )
        ints = [self._flat(group, dtype).view(np.uint8) for dtype, group in self._ints]
        return self._flat(self._floats, torch.float32), np.concatenate(ints) if ints else np.zeros(0, np.uint8)

    def write(self, floats: F32, ints: U8) -> None:
        """Take these values; they are the ones that `restore` goes back to."""
        self.floats[:], self.ints[:] = floats, ints
        self._values = self._views()
        self.restore()

    def restore(self) -> None:
        """Give the buffers the values of the last `write` (of the start, if there was none)."""
        if not self._tensors:
            return
        self._values = self._values or self._views()
        for i, (home, key) in enumerate(self._homes):
            now, tensor = home[key], self._tensors[i]
            if now is not None and now.device != tensor.device:  # the user moved the model
                self._tensors[i] = now
            elif now is not tensor:
                home[key] = tensor
        with torch.no_grad():
            torch._foreach_copy_(self._tensors, self._values)

    def _flat(self, group: list[int], dtype: torch.dtype) -> Any:
        """The values now of these buffers in one new array."""
        if not group:
            return torch.empty(0, dtype=dtype).numpy()
        homes = (self._homes[i] for i in group)
        return torch.cat([home[key].detach().reshape(-1).to(self._device, dtype) for home, key in homes]).cpu().numpy()  # type: ignore[union-attr]

    def _views(self) -> list[Tensor]:
        """Views of ``floats`` and ``ints`` in the buffers' order and shapes, on their device."""
        views: dict[int, Tensor] = {}

        def cut(flat: Tensor, group: list[int]) -> None:
            pieces = torch.split(flat, [self._tensors[i].numel() for i in group])
            views.update((i, piece.view(self._tensors[i].shape)) for i, piece in zip(group, pieces, strict=True))

        if self._floats:
            cut(torch.from_numpy(self.floats).to(self._device), self._floats)
        ints, at = torch.from_numpy(self.ints).to(self._device), 0
        for (dtype, group), (_, count) in zip(self._ints, self.kinds, strict=True):
            end = at + dtype.itemsize * count
            cut(ints[at:end].view(dtype), group)
            at = end
        return [views[i] for i in range(len(views))]


def _check(name: str, tensor: Tensor) -> None:
    if tensor.is_complex() or tensor.is_quantized or tensor.layout is not torch.strided or tensor.device.type == "meta":
        raise ValueError(
            f"buffer {name!r} is {tensor.dtype} ({tensor.layout}, {tensor.device.type}): only dense real ones can travel"
        )
