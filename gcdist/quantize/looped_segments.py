"""Any quantizer on segments: one call a segment."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from gcdist.quantize.base import require
from gcdist.quantize.registry import decode
from gcdist.quantize.segments_base import HALVES, WIDE, Segments, Sums, segments_noise, zeros
from gcdist.types import F32, F64, I64, U8, Accumulator, Encoded, Key, Layout, NonFiniteError, Quantizer


class _Part(NamedTuple):
    segment: int
    where: slice  # coordinates
    there: slice  # bytes of the payload
    quantizer: Quantizer
    bits: int


@dataclass(frozen=True, slots=True, eq=False)
class LoopedSegments:
    """Any quantizer, one call a segment: a payload is its segments' payloads, in order."""

    quantizer: Quantizer
    layout: Layout
    _made: dict[int, list[_Part]] = field(default_factory=dict)

    def _parts(self, bits: int) -> list[_Part]:
        """The segments at a width, built once."""
        if bits not in self._made:
            self._made[bits] = self._make(bits)
        return self._made[bits]

    def _make(self, bits: int) -> list[_Part]:
        found: list[_Part] = []
        at = 0
        for s, (lo, hi) in enumerate(zip(self.layout.edges[:-1].tolist(), self.layout.edges[1:].tolist(), strict=True)):
            mine: tuple[Quantizer, int] = (HALVES, WIDE) if self.layout.wide_S[s] else (self.quantizer, bits)
            size = mine[0].nbytes(hi - lo, mine[1])
            found.append(_Part(s, slice(lo, hi), slice(at, at + size), *mine))
            at += size
        return found

    def nbytes(self, bits: int) -> int:
        """See `Segments.nbytes`."""
        return self._parts(bits)[-1][2].stop if bits and self.layout.d else 0

    def noise(self, bits_most: int = 32) -> F64:
        """See `Segments.noise`."""
        return segments_noise(self.quantizer, self.layout, bits_most)

    def encode(self, x: F32, bits: int, seed: int, step: int, row: int, out: U8) -> Encoded:
        """See `Segments.encode`."""
        energy = error = 0.0
        for s, where, there, quantizer, width in self._parts(bits):
            try:
                done = quantizer.encode(x[where], width, Key(seed, step, row, s), out[there])
            except NonFiniteError as fault:
                raise NonFiniteError(where.start + fault.index) from None
            energy += done.energy
            error += done.error
        return Encoded(energy, error)

    def encode_many(self, x_RD: F32, at_M: I64, bits: int, seed: int, step: int, row_M: I64) -> tuple[U8, F64]:
        """See `Segments.encode_many`."""
        return _each_encoded(self, x_RD, at_M, bits, seed, step, row_M)

    def check(self, payload: U8, bits: int) -> None:
        """See `Segments.check`."""
        require("payload", payload, np.uint8, self.nbytes(bits))
        for _, where, there, quantizer, width in self._parts(bits) if bits else ():
            quantizer.check(payload[there], where.stop - where.start, width)

    def sums(self, seed: int, step: int, room: F32 | None = None) -> Sums:
        """See `Segments.sums`."""
        accumulators = [
            (HALVES if wide else self.quantizer).accumulator(int(size), Key(seed, step, 0, s))
            for s, (size, wide) in enumerate(zip(self.layout.sizes(), self.layout.wide_S, strict=True))
        ]
        return LoopedSums(self, accumulators, room)

    def decode(self, payload: U8, bits: int, seed: int, step: int, row: int, out: F32) -> None:
        """See `Segments.decode`."""
        if not bits:
            out[:] = 0
            return
        for s, where, there, quantizer, width in self._parts(bits):
            decode(quantizer, payload[there], where.stop - where.start, width, Key(seed, step, row, s), out[where])

    def add_decoded(self, out: F32, payload: U8, bits: int, seed: int, step: int, row: int, weight: float) -> None:
        """See `Segments.add_decoded`."""
        sums = self.sums(seed, step)
        sums.add(payload, bits, row, weight)
        sums.finish(out)


@dataclass(frozen=True, slots=True, eq=False)
class LoopedSums:
    """One accumulator a segment."""

    segments: LoopedSegments
    accumulators: list[Accumulator]
    room: F32 | None  # of the result

    def add(self, payload: U8, bits: int, row: int, weight: float) -> None:
        """See `Sums.add`."""
        for s, _, there, _, width in self.segments._parts(bits) if bits else ():
            self.accumulators[s].add(payload[there], width, row, weight)

    def finish(self, out: F32, scale: float = 1.0) -> None:
        """See `Sums.finish`."""
        edges = self.segments.layout.edges
        for s, accumulator in enumerate(self.accumulators):
            accumulator.finish(out[int(edges[s]) : int(edges[s + 1])], scale)

    def result(self, scale: float = 1.0) -> F32:
        """See `Sums.result`."""
        out = zeros(self.room, self.segments.layout.d)
        self.finish(out, scale)
        return out


def _each_encoded(
    segments: Segments, x_RD: F32, at_M: I64, bits: int, seed: int, step: int, row_M: I64
) -> tuple[U8, F64]:
    """`Segments.encode_many`, one after another."""
    out_MB, done_M3 = np.empty((len(at_M), segments.nbytes(bits)), np.uint8), np.empty((len(at_M), 3))
    for m, (at, row) in enumerate(zip(at_M.tolist(), row_M.tolist(), strict=True)):
        try:
            done = segments.encode(x_RD[at], bits, seed, step, row, out_MB[m])
        except NonFiniteError as fault:
            done_M3[m] = fault.index, 0.0, 0.0
        else:
            done_M3[m] = -1, done.energy, done.error
    return out_MB, done_M3
