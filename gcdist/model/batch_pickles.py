"""Batches on their way from the loader process: large tensors in shared memory, small ones by value.

A shared tensor costs a descriptor at both ends, and /dev/shm has an end (64 MB in Docker, unless told otherwise): a batch
that is a list of small tensors would run out of either. By value nothing can run out; copying is cheap beside reading.
"""

from __future__ import annotations

import io
from math import inf
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
import torch.multiprocessing  # from here on tensors go through pipes in shared memory

SHARED_BYTES = 1 << 20  # a tensor of so many bytes is shared: below, copying it costs less than a descriptor


def pickled(batch: Any) -> bytes:
    """The batch as bytes for a pipe; all by value where large tensors cannot be shared.

    Raises:
        Exception: whatever the batch's own pickling raises.
    """
    try:
        return _dumps(batch, SHARED_BYTES)
    except (OSError, RuntimeError):  # no descriptor, or no room, is left
        return _dumps(batch, inf)


def _dumps(batch: Any, shared: float) -> bytes:
    out = io.BytesIO()
    _Pickler(out, shared).dump(batch)
    return out.getvalue()


class _Pickler(ForkingPickler):
    """torch's own way for tensors of ``shared`` bytes or more and for those that are more than their values."""

    def __init__(self, file: io.BytesIO, shared: float) -> None:
        super().__init__(file, 5)  # the protocol of python 3.8 and later
        self._shared = shared

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is not torch.Tensor or obj.numel() * obj.element_size() >= self._shared:
            return NotImplemented
        if obj.layout != torch.strided or obj.device.type != "cpu" or obj.is_quantized or obj.requires_grad:
            return NotImplemented
        plain = obj.resolve_conj().resolve_neg().contiguous()
        raw = plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b""
        return _tensor, (raw, obj.dtype, tuple(obj.shape))


def _tensor(raw: bytes, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    if not raw:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(bytearray(raw), dtype=dtype).reshape(shape)
