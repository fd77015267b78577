"""The worker's arithmetic of a round: coded sums of partition gradients, the shift, and the packed message."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import isfinite
from typing import Protocol

import numpy as np

from gcdist.exchange.message import Message
from gcdist.exchange.shift import decode_row, move, row_bits, segments_of
from gcdist.exchange.sidecar import Sidecar
from gcdist.memory import free_bytes, recycler
from gcdist.model.buffer_updates import BufferUpdate, merged, no_update
from gcdist.model.gradients import PartitionResult, UserCodeError
from gcdist.model.vector_format import Shape
from gcdist.protocol.messages import Round
from gcdist.protocol.order import Part
from gcdist.quantize.floats import add_scaled
from gcdist.quantize.grid import measure
from gcdist.records import record_by_identity
from gcdist.types import F32, U8, Encoded, Layout, Mask, NonFiniteError, Quantizer
from gcdist.worker.change_watch import Change, ChangeWatch
from gcdist.worker.partition_memory import PartitionMemory
from gcdist.worker.ready_row import ReadyRow


class Gradients(Protocol):
    """Where partition gradients come from: the model in a worker, a shared cache in the simulator."""

    def load(self, sent: Round, raw: U8) -> None:
        """Take a round's parameters and buffers into the model; ReplicaError if they do not fit what is here."""
        ...

    def take(self, sent: Round, raw: U8) -> None:
        """The same for a round that nothing will be computed of."""
        ...

    def compute(self, step: int, partition: int) -> PartitionResult:
        """The scaled gradient of one partition; raises UserCodeError."""
        ...


@dataclass(slots=True, eq=False)
class _Row:
    """One row in the making."""

    y: F32
    base: F32 | None = None  # sum of a_j h_j as the row began, where partitions are remembered
    parts: list[tuple[float, float, float, float]] = field(default_factory=list)
    parts_energy: float = 0.0
    compute_seconds: float = 0.0
    data_seconds: float = 0.0
    cpu_seconds: float = 0.0
    buffers: BufferUpdate | None = None
    used: Mask | None = None
    metrics: list[dict[str, float]] = field(default_factory=list)

    def merge(self, result: PartitionResult, shape: Shape) -> None:
        """Take in one partition. A batch with nothing to train on has a loss without a share."""
        if self.used is None:
            self.used = result.used
        elif result.used is not self.used:
            self.used = result.used | self.used
        if self.buffers is None:
            self.buffers = merged([result.buffers], shape)
        elif shape.buffers:
            self.buffers = merged([self.buffers, result.buffers], shape)
        self.metrics.append(dict(result.metrics))


@record_by_identity
class _Pending:
    """A sent message that awaits the master's verdict."""

    payload: U8
    bits: tuple[int, ...]
    step: int
    layout: Layout


def _add_scaled(result: PartitionResult, coefficient: float, first: bool, y: F32) -> float:
    """``y += coefficient * g`` (``=`` if ``first``) of one partition, (d,); ``|g|^2``, or UserCodeError."""
    energy, at, factor = 0.0, 0, np.float32(coefficient)
    for size, grad in zip(result.sizes, result.grads, strict=True):
        part = y[at : at + size]
        at += size
        if grad is not None:
            energy += add_scaled(grad, result.scale, factor, first, part)
        elif first:
            part.fill(0.0)
    return energy if isfinite(energy) else float(np.sum(np.square(result.gradient, dtype=np.float64)))


def _add_term(term: F32, coefficient: float, first: bool, y: F32) -> float:
    """The same of a difference to what is remembered, (d,), which is finite."""
    scaled = term * np.float32(coefficient)
    if first:
        np.copyto(y, scaled)
    else:
        np.add(y, scaled, out=y)
    return measure(term)[1]


class RowMaker:
    """All rows of one worker.

    Memory: one float32 vector (d,) for the sum in the making, and one for h_row of every row that has been shifted; one of
    each partition with a ``memory`` of them. Partitions are added as their backward passes left them. Without ``packed``
    sidecars stay as they are, for a master in the same process. ``ready`` gives a row, by its number and the seconds of its
    partitions, that was made together with those of other workers.
    """

    def __init__(
        self,
        quantizer: Quantizer,
        seed: int,
        gradients: Gradients,
        memory: PartitionMemory | None = None,
        packed: bool = True,
        ready: Callable[[int, list[float]], ReadyRow | None] | None = None,
    ) -> None:
        self._shape = Shape(Layout.flat(0))  # until the first round
        self._quantizer = quantizer
        self._seed = seed
        self._gradients = gradients
        self._packed = packed
        self._ready = ready
        self._row: _Row | None = None
        self._row_id: tuple[int, int] | None = None
        self._h: dict[int, F32] = {}
        self._pending: dict[int, _Pending] = {}
        self._bits: dict[int, tuple[int, ...]] = {}
        self._partial = False
        self._memory = memory
        self._parts: dict[int, tuple[Part, ...]] = {}
        self._plan_id = -1
        self._fits = memory is None  # the plan's partitions can be remembered
        self._remember = False  # the plan wants it
        self._room = 0.0  # `Sidecar.memory` of the plan, once it is known

    def begin(self, sent: Round) -> None:
        """A new round: the bits of its plan; what was in the making is dropped."""
        assert sent.assignment is not None
        self._bits = dict(zip(sent.assignment.rows, sent.assignment.bits, strict=True))
        self._partial = sent.assignment.partial
        self._row = self._row_id = None
        if self._memory is not None and sent.plan_id != self._plan_id:
            self._plan_id, self._fits = sent.plan_id, False
            self._parts = dict(zip(sent.assignment.rows, sent.assignment.parts, strict=True))
            watch = self._memory.watch
            self._remember = watch is None or sent.assignment.remember
            self._memory.keep(self._partitions if self._remember else ())
            if watch is not None:
                watch.keep(self._partitions)

    def load(self, sent: Round, raw: U8) -> None:
        """Take a round's parameters into the model, where the user's code runs; ReplicaError: only whole ones help."""
        self._gradients.load(sent, raw)

    def take(self, sent: Round, raw: U8) -> None:
        """Take the parameters of a round that nothing will be computed of; ReplicaError."""
        self._gradients.take(sent, raw)

    @property
    def _layout(self) -> Layout:
        return self._shape.layout

    def compute(self, step: int, partition: int) -> PartitionResult:
        """The scaled gradient of one partition, where the user's code runs; raises UserCodeError."""
        result = self._gradients.compute(step, partition)
        if self._memory is not None and not self._fits:
            self._see_room(self._memory, result.shape.layout.d)
        if self._memory is not None and not self._fits:
            try:
                self._memory.check_room(self._partitions, result.shape.layout.d, free_bytes())
            except ValueError as error:
                raise UserCodeError(step, partition, np.zeros(0, np.int64), str(error), of_model=True) from None
            self._fits = True
        return result

    def _watch_of(self, step: int) -> ChangeWatch | None:
        """The watch, in steps that it looks at."""
        watch = None if self._memory is None else self._memory.watch
        return watch if watch is not None and (self._remember or watch.looks(step)) else None

    def _see_room(self, memory: PartitionMemory, d: int) -> None:
        """Where remembering is a choice it is dropped where there is no room; twice as much must be free to begin."""
        if memory.watch is not None:
            free, self._fits = free_bytes(), True
            self._remember = self._remember and memory.fits(self._partitions, d, free)
            self._room = 2.0 if self._remember else float(memory.fits(self._partitions, d, free, times=2))

    @property
    def _partitions(self) -> set[int]:
        """Of the plan."""
        return {j for parts in self._parts.values() for j, _ in parts}

    def add(self, step: int, row: int, coefficient: float, result: PartitionResult, seconds: float) -> None:
        """``y += coefficient * g_partition``, in one pass; ``seconds``: since the round's receipt, when it was done.

        Raises:
            UserCodeError: the gradient is not finite; the row cannot be used any more.
        """
        first = self._row is None or self._row_id != (step, row)
        if self._row is None or first:
            self._shape = result.shape
            self._row = _Row(recycler.take(4 * self._layout.d).view(np.float32))
            self._row_id = step, row
            if self._memory is not None:
                if self._memory.watch is not None:
                    self._memory.watch.begin()
                if self._remember:
                    self._row.base = self._memory.total(self._parts[row], self._layout.d)
        made = self._row
        if (watch := self._watch_of(step)) is not None:
            watch.add(step, coefficient, result)
        if self._memory is None or made.base is None:
            energy = _add_scaled(result, coefficient, first, made.y)
        else:
            energy = _add_term(self._memory.exchange(result.partition, result.gradient), coefficient, first, made.y)
        made.parts_energy += coefficient**2 * energy
        made.parts.append((float(result.partition), result.loss, result.share if result.samples else 0.0, seconds))
        made.compute_seconds += result.compute_seconds
        made.data_seconds += result.data_seconds
        made.cpu_seconds += result.cpu_seconds
        made.merge(result, self._shape)

    def encode(self, step: int, row: int, parts: int, seconds: float, name_of: Callable[[int], str] = str) -> Message:
        """Scale what is done of the row to all of it (math section 10), subtract the shift, quantize, pack.

        Args:
            step: of the round.
            row: in the making.
            parts: partitions of the whole row, l; with m of them done the sum is scaled by l/m.
            seconds: since the round's receipt.
            name_of: names the parameter of a coordinate.

        Raises:
            ValueError: the coded sum is not finite; the line names the parameter.
        """
        if self._row is None or self._row_id != (step, row):
            raise ValueError(f"row {row} of step {step} has nothing to encode")
        made, bits_S, m = self._row, self._bits[row], len(self._row.parts)
        h = self._h.get(row)
        plain, sum_energy = h is None and made.base is None, made.parts_energy
        if m > 1 and not (plain and row_bits(bits_S)):
            sum_energy = measure(made.y)[1]
        if m < parts:
            np.multiply(made.y, np.float32(parts / m), out=made.y)
        if made.base is not None:
            np.add(made.y, made.base, out=made.y)
        if h is not None:
            np.subtract(made.y, h, out=made.y)
        segments, bits = segments_of(self._quantizer, self._layout), row_bits(bits_S)
        payload = recycler.take(segments.nbytes(bits))
        done = Encoded(0.0, 0.0)
        if bits:
            try:
                done = segments.encode(made.y, bits, self._seed, step, row, payload)
            except NonFiniteError as fault:
                raise ValueError(f"the coded gradient is not finite in {name_of(fault.index)}") from None
            if m > 1 and plain:
                sum_energy = done.energy * (m / parts) ** 2  # what was encoded is the sum, scaled
        watch = self._watch_of(step)
        change = Change() if watch is None else watch.change(step, self._parts[row])
        sidecar = Sidecar(
            np.array(made.parts, np.float64).reshape(-1, 4),
            done.energy,
            done.error,
            made.parts_energy,
            sum_energy,
            *change,
            self._room,
            seconds,
            made.compute_seconds,
            made.data_seconds,
            made.cpu_seconds,
            made.buffers if made.buffers is not None else no_update(self._shape),
            made.used if made.used is not None else np.zeros(0, bool),
            tuple(made.metrics),
        )
        self._pending[row] = _Pending(payload, bits_S, step, self._layout)
        self._row = self._row_id = None
        return Message(payload, sidecar.pack() if self._packed or any(made.metrics) else sidecar)

    def ready_message(self, step: int, row: int, done: list[float], seconds: float) -> Message | None:
        """The message of a row that is ready, as `add` and `encode` would make it; None: it is not, or has a shift.

        Args:
            step: of the round.
            row: of it.
            done: seconds since the round's receipt of each partition in it.
            seconds: since then, until it was complete or cut.
        """
        if self._ready is None or row in self._h or (made := self._ready(row, done)) is None:
            return None
        sidecar = Sidecar(
            made.parts_P4,
            made.energy,
            made.error,
            made.parts_energy,
            made.sum_energy,
            row_seconds=seconds,
            compute_seconds=made.compute_seconds,
            cpu_seconds=made.compute_seconds,
            buffers=made.buffers,
            used=made.used,
        )
        self._shape = made.shape
        self._pending[row] = _Pending(made.payload, self._bits[row], step, self._layout)
        return Message(made.payload, sidecar)

    def commit(self, row: int, beta: float) -> None:
        """The master took the pending message: ``h_row += beta*m``, with the same bits as there."""
        sent = self._pending.pop(row)
        message, scratch = np.zeros((2, sent.layout.d), np.float32)
        decode_row(self._quantizer, sent.layout, sent.payload, sent.bits, self._seed, sent.step, row, message)
        h = self._h.setdefault(row, np.zeros(sent.layout.d, np.float32))
        move(h, message, beta, scratch)

    def discard(self, row: int) -> None:
        """The master did not take the pending message."""
        self._pending.pop(row, None)

    def zero(self, row: int) -> None:
        """h_row is zero, nothing is pending."""
        self._pending.pop(row, None)
        self._h.pop(row, None)

    def restore(self, shifts: dict[int, F32], remembered: dict[int, F32]) -> None:
        """Hold these h_row (d,) and h_j of partitions (a simulated worker, when a checkpoint was read)."""
        self._h = {row: h.copy() for row, h in shifts.items()}
        if self._memory is not None:
            self._memory.restore(remembered)

    def remembered(self) -> dict[int, F32]:
        """Copies of h_j (d,) by partition, for a checkpoint; empty where partitions are not remembered."""
        return {} if self._memory is None else self._memory.vectors()

    def shift_of(self, row: int) -> F32 | None:
        """h_row (d,), or None while it is zero; for tests."""
        return self._h.get(row)

    def awaits_verdict(self, row: int) -> bool:
        """Whether a sent message of this row has neither been committed nor discarded; for tests."""
        return row in self._pending
