"""The master's arithmetic of a step: check messages, add them as they land, move the shifts, form the estimate."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gcdist.exchange.message import CheckedMessage, Message
from gcdist.exchange.shift import decode_row, move, payload_nbytes, row_bits, segments_of
from gcdist.exchange.sidecar import Sidecar
from gcdist.memory import recycler
from gcdist.model.vector_format import Shape
from gcdist.protocol.master_io import Accumulate, Keep
from gcdist.protocol.messages import Head
from gcdist.quantize import Sums
from gcdist.records import record_by_identity
from gcdist.types import F32, F64, Closing, Layout, Quantizer, Use


@record_by_identity
class Counted:
    """One counted row: how it was used and what its sidecar said."""

    row: int
    use: Use
    sidecar: Sidecar


PREDICTOR_GAIN = 0.3  # weight of the newest estimate in the predictor, an exponential mean


class Aggregator:
    """Weighted sum of one open step, the shift vectors of all rows, and the predictor.

    The predictor m0 (math section 5) is the exponential mean of the estimates before this step, so it is fixed before the
    round, as unbiasedness needs.

    Memory: d float32 for the sum; for shifted codes R*d float32 for every h_row plus d float64 for H = sum h_row (so that
    taking a row out again leaves no drift worth naming); for decoding with a predictor d float32.
    """

    def __init__(self, shape: Shape, quantizer: Quantizer, seed: int) -> None:
        self.shape = shape
        self.layout = shape.layout
        self._quantizer = quantizer
        self._seed = seed
        self._sums: Sums | None = None  # of the open step
        self._h: dict[int, F32] = {}
        self._H: F64 | None = None
        self._H_open: F64 | None = None
        self._kept: dict[int, CheckedMessage] = {}
        self._counted: dict[int, Counted] = {}
        self._predictor: F32 | None = None  # from the first step that asks for one
        self._message = np.zeros(0, np.float32)
        self._scratch = np.zeros(0, np.float32)
        self._lengths: tuple[Layout, dict[tuple[int, ...], int]] = self.layout, {}  # by bits, of the newest layout

    def reshape(self, shape: Shape) -> None:
        """From the next step on the vector has this shape; if it is another one, shifts and predictor begin anew."""
        if shape is self.shape:
            return
        self.shape, self.layout = shape, shape.layout
        self._h.clear()
        self._H = self._H_open = self._predictor = None

    def open(self, step: int) -> None:
        """Begin a step; H is remembered as it is now, so rows that leave with the step must be out."""
        room = recycler.take(4 * self.layout.d).view(np.float32)  # fresh memory costs a page fault every 4 KiB
        self._sums = segments_of(self._quantizer, self.layout).sums(self._seed, step, room)
        self._H_open = None if self._H is None else self._H.copy()
        self._kept.clear()
        self._counted.clear()

    def checked(
        self, head: Head, body: Message, bits: tuple[int, ...], shape: Shape, partitions: Sequence[int]
    ) -> CheckedMessage:
        """A message whose bytes are in order: nothing that passes can fail to be added.

        Args:
            head: the message's head.
            body: its bytes.
            bits: packed bits of each segment that its sender's plan asks for.
            shape: of the vector in its sender's plan: a late one may be of an older one.
            partitions: that it must hold, in this order; of a sidecar that never left the process they are not looked at.

        Raises:
            ValueError: one line that says what is wrong.
        """
        need = self._nbytes(shape.layout, bits)
        if head.nbytes != len(body.payload) or need != len(body.payload):
            raise ValueError(f"payload of row {head.row} has {len(body.payload)} bytes, must have {need}")
        try:
            if isinstance(body.sidecar, Sidecar):
                sidecar = body.sidecar
                sidecar.check()
                return CheckedMessage(body.payload, sidecar, bits)
            sidecar = Sidecar.unpack(body.sidecar)
            segments_of(self._quantizer, shape.layout).check(body.payload, row_bits(bits))
        except ValueError as error:
            raise ValueError(f"message of row {head.row}: {error}") from None
        buffers = sidecar.buffers
        if (len(buffers.shares_B), len(sidecar.used)) != (shape.buffers, shape.parameters) or (
            len(buffers.floats),
            len(buffers.ints),
        ) != shape.update_sizes(buffers.shares_B):
            raise ValueError(f"message of row {head.row}: its buffers and parameters are not this model's")
        if sidecar.parts_P4[:, 0].tolist() != list(partitions):
            named = [int(j) for j in sidecar.parts_P4[:, 0]]
            raise ValueError(f"message of row {head.row}: it holds partitions {named}, must hold {list(partitions)}")
        return CheckedMessage(body.payload, sidecar, bits)

    def _nbytes(self, layout: Layout, bits: tuple[int, ...]) -> int:
        """Length of a payload: asked for with each message, looked up once."""
        if layout is not self._lengths[0]:
            self._lengths = layout, {}
        lengths = self._lengths[1]
        if bits not in lengths:
            lengths[bits] = payload_nbytes(self._quantizer, layout, bits)
        return lengths[bits]

    def accumulate(self, told: Accumulate) -> None:
        """``added += weight*m`` unless late, and ``h_row += beta*m``."""
        body: CheckedMessage = told.body
        if not told.late:
            self._counted[told.row] = Counted(told.row, told.use, body.sidecar)
            assert told.use.weight is not None
            self._add(body, told.row, told.use.weight)
        self._move(told.row, told.step, body, told.use.beta)

    def keep(self, told: Keep) -> None:
        """Hold the payload until the closing gives its weight."""
        body: CheckedMessage = told.body
        self._counted[told.row] = Counted(told.row, told.use, body.sidecar)
        self._kept[told.row] = body
        self._move(told.row, told.step, body, told.use.beta)

    def take_out(self, row: int) -> None:
        """h_row leaves H; it is zero from now on."""
        h = self._h.pop(row, None)
        if h is not None and self._H is not None:
            self._H = self._H - h if self._h else None  # without the rest that rounding leaves

    def close(self, closing: Closing) -> F32 | None:
        """The estimate (d,) in float32, or None if nothing at all is known (no arrival and no shift)."""
        for row, weight in closing.kept:
            if weight:
                self._add(self._kept[row], row, weight)
        predicts = closing.predicted != 0.0 or self._predictor is not None
        if not self._counted and self._H_open is None and not predicts:
            return None
        assert self._sums is not None
        out, self._sums = self._sums.result(closing.scale), None
        if self._H_open is not None:
            out += self._H_open.astype(np.float32)
        self._kept.clear()
        if predicts:
            if self._predictor is None:
                self._predictor = np.zeros(self.layout.d, np.float32)
            out += np.float32(closing.predicted) * self._predictor
            self._predictor += np.float32(PREDICTOR_GAIN) * (out - self._predictor)
        return out

    @property
    def remembers(self) -> bool:
        """Whether an estimate also holds what earlier steps told: a shift or a predictor."""
        return self._H_open is not None or self._predictor is not None

    @property
    def counted(self) -> list[Counted]:
        """The rows counted in the step so far, in order of arrival."""
        return list(self._counted.values())

    def _add(self, body: CheckedMessage, row: int, weight: float) -> None:
        assert self._sums is not None
        self._sums.add(body.payload, row_bits(body.bits), row, weight)

    def _move(self, row: int, step: int, body: CheckedMessage, beta: float) -> None:
        if beta == 0.0:
            return
        if self._H is None:
            self._H = np.zeros(self.layout.d, np.float64)
        if len(self._message) != self.layout.d:
            self._message, self._scratch = np.zeros((2, self.layout.d), np.float32)
        h = self._h.setdefault(row, np.zeros(self.layout.d, np.float32))
        self._H -= h
        decode_row(self._quantizer, self.layout, body.payload, body.bits, self._seed, step, row, self._message)
        move(h, self._message, beta, self._scratch)
        self._H += h

    def shift_of(self, row: int) -> F32 | None:
        """h_row (d,), or None while it is zero; for tests."""
        return self._h.get(row)

    def shifts(self) -> dict[int, F32]:
        """Copies, for a checkpoint, of h_row (d,) of every row that has one."""
        return {row: h.copy() for row, h in self._h.items()}

    def predictor(self) -> F32 | None:
        """A copy, for a checkpoint, of the predictor (d,); None: there is none."""
        return None if self._predictor is None else self._predictor.copy()

    def restore(self, shifts: dict[int, F32], predictor: F32 | None) -> None:
        """Take what `shifts` and `predictor` gave, between two steps; H is their sum.

        Raises:
            ValueError: a vector that does not fit the model.
        """
        for what, vector in [*((f"h of row {row}", h) for row, h in shifts.items()), ("predictor", predictor)]:
            if vector is not None and vector.shape != (self.layout.d,):
                raise ValueError(f"{what} has shape {vector.shape}, must have ({self.layout.d},)")
        self._h = {row: np.array(h, np.float32) for row, h in shifts.items()}
        self._H = np.sum([h.astype(np.float64) for h in shifts.values()], axis=0) if shifts else None
        self._predictor = None if predictor is None else np.array(predictor, np.float32)
