"""What travels beside a payload: losses, energies, times and buffers of one row, in a fixed binary form."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import numpy as np

from gcdist.types import F32, F64, U8, Mask

_FIXED = struct.Struct("<IIIIdddddd")


def _no_floats() -> F32:
    return np.zeros(0, np.float32)


def _no_ints() -> U8:
    return np.zeros(0, np.uint8)


def _no_parameters() -> Mask:
    return np.zeros(0, bool)


@dataclass(frozen=True, slots=True, eq=False)
class Sidecar:
    """Of one row of one step. ``loss_P3`` has one line a partition: (partition, batch-mean loss, share N_j/N)."""

    loss_P3: F64
    energy: float = 0.0  # |y - h|^2
    error: float = 0.0  # |Q(y - h) - (y - h)|^2
    compute_seconds: float = 0.0
    data_seconds: float = 0.0
    cpu_seconds: float = 0.0
    share: float = 0.0  # weight of the buffers: share of the samples behind them
    float_buffers: F32 = field(default_factory=_no_floats)
    int_buffers: U8 = field(default_factory=_no_ints)  # each in its own dtype: `Shape.kinds`
    used: Mask = field(default_factory=_no_parameters)  # one entry a parameter: the losses depend on it

    def pack(self) -> U8:
        """As bytes, (n,) uint8."""
        fixed = _FIXED.pack(
            len(self.loss_P3),
            len(self.float_buffers),
            len(self.int_buffers),
            len(self.used),
            self.energy,
            self.error,
            self.compute_seconds,
            self.data_seconds,
            self.cpu_seconds,
            self.share,
        )
        parts = (
            self.loss_P3.astype("<f8"),
            self.float_buffers.astype("<f4"),
            self.int_buffers,
            self.used,
        )
        raw = b"".join([fixed, *(part.tobytes() for part in parts)])
        return np.frombuffer(bytearray(raw), np.uint8)

    @staticmethod
    def unpack(raw: U8) -> Sidecar:
        """The reverse of ``pack``.

        Raises:
            ValueError: the length does not fit its own counts, or a number is not finite.
        """
        if len(raw) < _FIXED.size:
            raise ValueError(f"sidecar: {len(raw)} bytes, must be {_FIXED.size} or more")
        parts, floats, ints, masks, *numbers = _FIXED.unpack(raw[: _FIXED.size].tobytes())
        need = _FIXED.size + 24 * parts + 4 * floats + ints + masks
        if len(raw) != need:
            raise ValueError(f"sidecar: {len(raw)} bytes, its counts ask for {need}")
        rest = raw[_FIXED.size :].tobytes()
        loss_P3 = np.frombuffer(rest, "<f8", 3 * parts).reshape(parts, 3)
        if not np.isfinite(numbers).all() or not np.isfinite(loss_P3).all():
            raise ValueError("sidecar: a number is not finite")
        float_buffers = np.frombuffer(rest, "<f4", floats, 24 * parts)
        int_buffers = np.frombuffer(rest, np.uint8, ints, 24 * parts + 4 * floats)
        used = np.frombuffer(rest, np.uint8, masks, 24 * parts + 4 * floats + ints) != 0
        energy, error, compute, data, cpu, share = numbers
        return Sidecar(loss_P3, energy, error, compute, data, cpu, share, float_buffers, int_buffers, used)
