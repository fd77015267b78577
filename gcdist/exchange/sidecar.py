"""The sidecar of a payload: losses, metrics, energies, times and buffers of one row, in a fixed binary form."""

from __future__ import annotations

import struct
from dataclasses import field
from itertools import chain
from math import isfinite
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gcdist.model.buffer_updates import BufferUpdate
from gcdist.records import record_by_identity
from gcdist.types import F64, METRICS_MOST, U8, Mask, WorkTimes, check_metric_name

SHARE_MOST = 1 + 1e-6  # sums of shares are rounded
_FIXED = struct.Struct("<IIIIIIIddddddddddddd")
_PART = struct.Struct("<dddd")  # a line of parts_P4
_HELD = struct.Struct("<d")  # the last of them


def _no_buffers() -> BufferUpdate:
    return BufferUpdate(np.zeros(0), np.zeros(0, np.float32), np.zeros(0, np.uint8))


def _no_parameters() -> Mask:
    return np.zeros(0, bool)


@record_by_identity
class Sidecar:
    """Of one row of one step.

    A share of 0: the batch had nothing to train on, its loss does not count. ``metrics_P`` are the numbers that the loss
    function gave beside the loss, by name, for each line of ``parts_P4``; () stands for none anywhere.

    ``parts_P4`` has one line a partition that is in the message, in the order of computing: (partition, batch-mean loss,
    share N_j/N, seconds from the round's receipt until it was done).
    """

    parts_P4: F64
    energy: float = 0.0  # |y - h|^2
    error: float = 0.0  # |Q(y - h) - (y - h)|^2
    parts_energy: float = 0.0  # sum over the partitions of |a_j g_j|^2
    sum_energy: float = 0.0  # |sum of a_j g_j|^2, before it is scaled to the whole row
    change: float = -1.0  # S^2 of a_j (g_j - h_j), h_j the newest gradients before, over that of a_j g_j; -1: unknown
    row_change: float = -1.0  # |y - sum a_j h_j|^2 over |y|^2
    change_age: float = -1.0  # mean steps since the h_j were computed
    memory: float = 0.0  # of partitions, where it is a choice: 0 there is no room, 1 there is, 2 the message uses it
    row_seconds: float = 0.0  # from the round's receipt until the row was complete or cut
    compute_seconds: float = 0.0
    data_seconds: float = 0.0
    cpu_seconds: float = 0.0
    buffers: BufferUpdate = field(default_factory=_no_buffers)
    used: Mask = field(default_factory=_no_parameters)  # one entry a parameter: the losses depend on it
    metrics_P: tuple[dict[str, float], ...] = ()
    held_seconds: float = 0.0  # from the round's arrival at the worker to this message: `stamp_held` writes it

    def __len__(self) -> int:
        """Bytes of `pack`, where there are no metrics."""
        update = self.buffers
        numbers = 4 * len(self.parts_P4) + len(update.shares_B)
        return _FIXED.size + 8 * numbers + 4 * len(update.floats) + len(update.ints) + len(self.used)

    def check(self) -> None:
        """ValueError if `unpack` would refuse it for a number that is not finite."""
        work = self.row_seconds + self.compute_seconds + self.data_seconds + self.cpu_seconds + self.held_seconds
        if not isfinite(self.energy + self.error + self.parts_energy + self.sum_energy + work):
            raise ValueError("sidecar: a number is not finite")

    def pack(self) -> U8:
        """As bytes, (n,) uint8."""
        names = sorted({name for metrics in self.metrics_P for name in metrics})  # none: the usual case
        table = "\n".join(names).encode()
        values = np.array([[metrics.get(name, np.nan) for name in names] for metrics in self.metrics_P], "<f8")
        fixed = _FIXED.pack(
            len(self.parts_P4),
            len(self.buffers.shares_B),
            len(self.buffers.floats),
            len(self.buffers.ints),
            len(self.used),
            len(names),
            len(table),
            self.energy,
            self.error,
            self.parts_energy,
            self.sum_energy,
            self.change,
            self.row_change,
            self.change_age,
            self.memory,
            self.row_seconds,
            self.compute_seconds,
            self.data_seconds,
            self.cpu_seconds,
            self.held_seconds,
        )
        parts = (
            self.parts_P4.astype("<f8"),
            values,
            self.buffers.shares_B.astype("<f8"),
            self.buffers.floats.astype("<f4"),
            self.buffers.ints,
            self.used,
        )
        raw = b"".join([fixed, *(part.tobytes() for part in parts), table])
        return np.frombuffer(bytearray(raw), np.uint8)

    @staticmethod
    def unpack(raw: Carried) -> Sidecar:
        """The reverse of ``pack``; one that is not packed stays as it is.

        Raises:
            ValueError: the length does not fit its own counts, a number is not finite, or a metric has no good name.
        """
        if isinstance(raw, Sidecar):
            return raw
        if len(raw) < _FIXED.size:
            raise ValueError(f"sidecar: {len(raw)} bytes, must be {_FIXED.size} or more")
        parts, buffers, floats, ints, masks, metrics, text, *numbers = _FIXED.unpack(raw[: _FIXED.size].tobytes())
        if metrics > METRICS_MOST:
            raise ValueError(f"sidecar: {metrics} metrics, at most {METRICS_MOST} are allowed")
        need = _FIXED.size + 8 * (4 * parts + metrics * parts + buffers) + 4 * floats + ints + masks + text
        if len(raw) != need:
            raise ValueError(f"sidecar: {len(raw)} bytes, its counts ask for {need}")
        rest, at = raw[_FIXED.size :].tobytes(), 0

        def take(dtype: str, count: int) -> NDArray[Any]:
            nonlocal at
            begin, at = at, at + np.dtype(dtype).itemsize * count
            return np.frombuffer(rest, dtype, count, begin)

        parts_P4 = take("<f8", 4 * parts).reshape(parts, 4)
        values_PM = take("<f8", metrics * parts).reshape(parts, metrics)
        shares_B = take("<f8", buffers)
        update = BufferUpdate(shares_B, take("<f4", floats), take("u1", ints))
        used = take("u1", masks) != 0
        # most messages have a few partitions: python looks at so many numbers faster than numpy
        lines, shares = parts_P4.tolist(), shares_B.tolist()
        if not all(map(isfinite, chain(numbers, chain.from_iterable(lines), shares))):
            raise ValueError("sidecar: a number is not finite")
        shares += [line[2] for line in lines]
        if shares and not (min(shares) >= 0 and max(shares) <= SHARE_MOST):
            raise ValueError("sidecar: a share is not from 0 to 1")
        if not all(line[0].is_integer() and 0 <= line[0] <= 2**31 for line in lines):
            raise ValueError("sidecar: a partition has no whole number")
        found: tuple[dict[str, float], ...] = ()
        if metrics or text:
            names = _names(rest[at:], metrics)
            found = tuple(
                {name: value for name, value in zip(names, line, strict=True) if value == value}  # NaN: not given
                for line in values_PM.tolist()
            )
        energy, error, parts_energy, sum_energy, change, row_change, age, memory, row, compute, data, cpu, held = (
            numbers
        )
        energies = (energy, error, parts_energy, sum_energy, change, row_change, age, memory)
        return Sidecar(parts_P4, *energies, row, compute, data, cpu, update, used, found, held)

    @property
    def times(self) -> WorkTimes:
        """When the row's partitions were done."""
        return WorkTimes(tuple(self.parts_P4[:, 3].tolist()), self.row_seconds)

    @property
    def spread(self) -> float:
        """``s^2``: an estimate of S_i^2, how much the row's terms a_j g_j differ (math section 10); nan below two."""
        m = len(self.parts_P4)
        return max(0.0, self.parts_energy - self.sum_energy / m) / (m - 1) if m > 1 else float("nan")

    @property
    def remembers(self) -> bool:
        """Whether the message's terms are differences to a memory that was chosen."""
        return self.memory == 2.0

    @property
    def plain_spread(self) -> float:
        """``s^2`` of the terms a_j g_j also where differences were sent; nan: not known."""
        if not self.remembers:
            return self.spread
        return self.spread / self.change if self.change > 0 else float("nan")


def _names(raw: bytes, count: int) -> list[str]:
    """The metrics' names; ValueError."""
    if count == 0 and not raw:
        return []
    try:
        names = raw.decode().split("\n")
    except UnicodeDecodeError:
        raise ValueError("sidecar: the metrics' names are not text") from None
    if len(names) != count or len(set(names)) != count:
        raise ValueError(f"sidecar: {len(set(names))} names for {count} metrics")
    for name in names:
        check_metric_name(name)
    return names


Carried: TypeAlias = U8 | Sidecar
"""A sidecar on its way: packed, or as it is between the two ends of a simulated link."""


def stamp_held(raw: Carried, seconds: float) -> None:
    """Write ``held_seconds`` into a sidecar, in place: it is known only when the message leaves."""
    if isinstance(raw, Sidecar):
        object.__setattr__(raw, "held_seconds", seconds)
        return
    _HELD.pack_into(raw.data, _FIXED.size - _HELD.size, seconds)


def times_of(raw: Carried) -> tuple[float, float, float]:
    """(compute_seconds, data_seconds, held_seconds) of a sidecar, without its arrays; zeros if it is none."""
    if isinstance(raw, Sidecar):
        return raw.compute_seconds, raw.data_seconds, raw.held_seconds
    if len(raw) < _FIXED.size:
        return 0.0, 0.0, 0.0
    compute, data, _, held = _FIXED.unpack_from(raw.data)[-4:]
    good = all(0 <= seconds < np.inf for seconds in (compute, data, held))
    return (compute, data, held) if good else (0.0, 0.0, 0.0)


def ends_of(raw: Carried) -> tuple[tuple[tuple[int, float], ...], float]:
    """((partition, seconds), ...) and ``row_seconds`` of a sidecar; (), 0.0 if they are not good: anybody sent it.

    The seconds are those from the round's receipt until the partition was done.
    """
    if isinstance(raw, Sidecar):
        return tuple([(int(line[0]), line[3]) for line in raw.parts_P4.tolist()]), raw.row_seconds
    parts = parts_of(raw)
    if len(raw) < _FIXED.size + _PART.size * parts:
        return (), 0.0
    lines = _PART.iter_unpack(raw[_FIXED.size : _FIXED.size + _PART.size * parts].tobytes())
    ends = [(number, seconds) for number, _, _, seconds in lines]
    row = float(_FIXED.unpack_from(raw.data)[-5])
    if not (0 <= row < np.inf and all(0 <= number < 2**31 and 0 <= seconds < np.inf for number, seconds in ends)):
        return (), 0.0
    return tuple((int(number), seconds) for number, seconds in ends), row


def parts_of(raw: Carried) -> int:
    """How many partitions a sidecar tells of, without its arrays; 0 if it is none."""
    if isinstance(raw, Sidecar):
        return len(raw.parts_P4)
    return int(_FIXED.unpack_from(raw.data)[0]) if len(raw) >= _FIXED.size else 0
