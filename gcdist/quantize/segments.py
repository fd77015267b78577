"""A vector in segments: no scale and no rotation crosses from one parameter to the next, and small ones are bfloat16."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np

from gcdist.quantize.base import HIGHEST, Base, blocks, drain, require
from gcdist.quantize.bucket import Bucket
from gcdist.quantize.counter import prefix
from gcdist.quantize.dither import Dither
from gcdist.quantize.eden import Eden
from gcdist.quantize.floats import Bfloat16
from gcdist.quantize.grid import scratch
from gcdist.quantize.hadamard import block_size, chunks
from gcdist.quantize.lanes import LANES, U16, U32
from gcdist.quantize.many_rows import add_rows, encode_rotated_rows, encode_rows
from gcdist.quantize.packing import BLOCK, packed_bytes
from gcdist.quantize.pieces import COLUMNS, add_pieces, encode_pieces, first_wrong, rotate_pieces
from gcdist.quantize.registry import bits_allowed, decode, noise_table
from gcdist.quantize.rotated import Rotated
from gcdist.quantize.rotated_pieces import add_rotated_back, encode_rotated
from gcdist.types import F32, F64, I64, U8, Accumulator, Encoded, Key, Layout, Mask, NonFiniteError, Quantizer

_HALVES = Bfloat16()
_WIDE = 16
SMALL = 1024  # bytes of a payload; a larger one is added at once, beside the wait for the next
TOGETHER = 64  # small payloads that are added in one call


class Sums(Protocol):
    """Weighted sum of the payloads of one step."""

    def add(self, payload: U8, bits: int, row: int, weight: float) -> None:
        """``sum += weight * Q(x)``; cannot fail after ``check``."""
        ...

    def finish(self, out: F32, scale: float = 1.0) -> None:
        """``out += scale * sum`` (d,), then empty."""
        ...

    def result(self, scale: float = 1.0) -> F32:
        """``scale * sum`` (d,), in memory that the caller owns from then on; the sum accepts no more messages."""
        ...


class Segments(Protocol):
    """A quantizer over the segments of one layout; ``bits`` are the row's; wide segments always have 16."""

    def nbytes(self, bits: int) -> int:
        """Length of a row's payload; 0 for no bits (a probe)."""
        ...

    def noise(self, bits_most: int = 32) -> F64:
        """omega by packed bits, (bits_most + 1,), if all coordinates have about the same energy; see `noise_table`."""
        ...

    def encode(self, x: F32, bits: int, seed: int, step: int, row: int, out: U8) -> Encoded:
        """Pack ``x`` (d,) into ``out`` (nbytes,); NonFiniteError."""
        ...

    def encode_many(self, x_RD: F32, at_M: I64, bits: int, seed: int, step: int, row_M: I64) -> tuple[U8, F64]:
        """`encode` of the vectors ``x_RD[at_M]``, numbers ``row_M``.

        Returns:
            Payloads (M, nbytes); and (M, 3) the first coordinate that is not finite or -1, energy, error.
        """
        ...

    def check(self, payload: U8, bits: int) -> None:
        """ValueError unless ``payload`` is a well-formed row of ``bits``."""
        ...

    def sums(self, seed: int, step: int, room: F32 | None = None) -> Sums:
        """An empty sum of one step; ``room`` (d,), of any content, is memory for it."""
        ...

    def decode(self, payload: U8, bits: int, seed: int, step: int, row: int, out: F32) -> None:
        """Write Q(x) into ``out`` (d,): the bits that a sum with weight 1 adds to zeros; zeros for no bits."""
        ...

    def add_decoded(self, out: F32, payload: U8, bits: int, seed: int, step: int, row: int, weight: float) -> None:
        """``out += weight * Q(x)`` (d,): the bits that a sum of this one payload adds."""
        ...


def get_segments(quantizer: Quantizer, layout: Layout) -> Segments:
    """``quantizer`` on the segments of ``layout``.

    `qsgd` has one norm of the whole vector, as in its papers, and `float32` and `bfloat16` have no scales: they are not cut.
    A layout of one segment gives the quantizer's own bytes under ``Key(seed, step, row, 0)``.
    """
    if isinstance(quantizer, (Bucket, Dither, Rotated)):
        return GridSegments(quantizer, layout)
    if isinstance(quantizer, Eden):
        return LoopedSegments(quantizer, layout)
    return LoopedSegments(quantizer, Layout.flat(layout.d))


def _noise(quantizer: Quantizer, layout: Layout, bits_most: int) -> F64:
    sizes, counts = np.unique(layout.sizes()[~layout.wide_S], return_counts=True)
    if not sizes.size:
        return noise_table(quantizer, layout.d, bits_most)
    tables = [noise_table(quantizer, int(size), bits_most) for size in sizes]
    share = sizes * counts / max(layout.d, 1)
    finite = np.isfinite(tables[0])
    found = np.full(bits_most + 1, np.inf)
    found[finite] = sum(part * table[finite] for part, table in zip(share, tables, strict=True))
    return found


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
            mine: tuple[Quantizer, int] = (_HALVES, _WIDE) if self.layout.wide_S[s] else (self.quantizer, bits)
            size = mine[0].nbytes(hi - lo, mine[1])
            found.append(_Part(s, slice(lo, hi), slice(at, at + size), *mine))
            at += size
        return found

    def nbytes(self, bits: int) -> int:
        """See `Segments.nbytes`."""
        return self._parts(bits)[-1][2].stop if bits and self.layout.d else 0

    def noise(self, bits_most: int = 32) -> F64:
        """See `Segments.noise`."""
        return _noise(self.quantizer, self.layout, bits_most)

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
            (_HALVES if wide else self.quantizer).accumulator(int(size), Key(seed, step, 0, s))
            for s, (size, wide) in enumerate(zip(self.layout.sizes(), self.layout.wide_S, strict=True))
        ]
        return _LoopedSums(self, accumulators, room)

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
class _LoopedSums:
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
        out = _zeros(self.room, self.segments.layout.d)
        self.finish(out, scale)
        return out


class _Table(NamedTuple):
    """Pieces at one width, and how a payload is divided: scales, words of full blocks, halves, bytes of last blocks."""

    piece: I64  # (pieces, COLUMNS)
    longest: int  # piece, in coordinates
    ends: tuple[int, int, int, int]  # bytes
    last: I64  # of each segment whose last byte has bits to spare: where that byte is among the tails
    used: U8  # bits used in it


class GridSegments:
    """`bucket`, `dither`, `rotated` or `rotated-dither`, all segments in one call.

    A payload holds the scales of all segments, then the words of their full blocks of 512, then the wide ones' bfloat16,
    then the bytes of the last blocks, each in the order of the segments.
    """

    def __init__(self, quantizer: Base, layout: Layout) -> None:
        self.quantizer, self.layout = quantizer, layout
        self.rotated = isinstance(quantizer, Rotated)
        self.dithered = isinstance(quantizer, Dither) or getattr(quantizer, "dithered", False)
        self._tables: dict[int, _Table] = {}

    def table(self, bits: int) -> _Table:
        """The pieces at ``bits``, made once."""
        if bits not in self._tables:
            self.quantizer._allowed(bits)
            self._tables[bits] = _make_table(self.layout.edges, self.layout.wide_S, bits)
        return self._tables[bits]

    def nbytes(self, bits: int) -> int:
        """See `Segments.nbytes`."""
        return self.table(bits).ends[-1] if bits else 0

    def noise(self, bits_most: int = 32) -> F64:
        """See `Segments.noise`."""
        return _noise(self.quantizer, self.layout, bits_most)

    def encode(self, x: F32, bits: int, seed: int, step: int, row: int, out: U8) -> Encoded:
        """See `Segments.encode`."""
        table = self.table(bits)
        require("x", x, np.float32, self.layout.d)
        require("out", out, np.uint8, table.ends[-1])
        start, parts, spare = prefix(seed, step), _divided(out, table.ends), scratch()
        if self.rotated:
            shared, y = prefix(seed, step, 1), np.empty(table.longest, np.float32)
            bad, energy, error = encode_rotated(
                x, table.piece, bits, start, shared, row, self.dithered, *parts, y, spare
            )
        else:
            bad, energy, error = encode_pieces(x, table.piece, bits, start, row, self.dithered, *parts, spare)
        if bad >= 0:
            raise NonFiniteError(int(bad))
        return Encoded(float(energy), float(error))

    def encode_many(self, x_RD: F32, at_M: I64, bits: int, seed: int, step: int, row_M: I64) -> tuple[U8, F64]:
        """See `Segments.encode_many`."""
        table, size = self.table(bits), self.nbytes(bits)
        line = -(-size // 16) * 16  # the kernel reads and writes floats and words at the beginning of a line
        out_MB, done_M3 = np.empty((len(at_M), line), np.uint8), np.empty((len(at_M), 3))
        start, dithered, spare = prefix(seed, step), self.dithered, scratch()
        places = table.ends, out_MB, done_M3
        if self.rotated:
            shared, y = prefix(seed, step, 1), np.empty(table.longest, np.float32)
            encode_rotated_rows(x_RD, at_M, row_M, table.piece, bits, start, shared, dithered, *places, y, spare)
        else:
            encode_rows(x_RD, at_M, row_M, table.piece, bits, start, dithered, *places, spare)
        return out_MB[:, :size], done_M3

    def check(self, payload: U8, bits: int) -> None:
        """See `Segments.check`."""
        if not bits:
            require("payload", payload, np.uint8, 0)
            return
        table = self.table(bits)
        require("payload", payload, np.uint8, table.ends[-1])
        scale_S, _, half, tail = _divided(payload, table.ends)
        signed, most = bits > 1 and not self.dithered, np.float32(HIGHEST / 2.0 ** (bits - 1))
        what, where = first_wrong(scale_S, half, tail, table.last, table.used, most, signed)
        if what == 1:
            raise ValueError(f"corrupt payload: scale {where} is {scale_S[where]}")
        if what == 2:
            raise ValueError(f"corrupt payload: coordinate {where} is not finite")
        if what == 3:
            raise ValueError("corrupt payload: bits after the last coordinate of a segment are not zero")

    def sums(self, seed: int, step: int, room: F32 | None = None) -> Sums:
        """See `Segments.sums`."""
        return _GridSums(self, _zeros(room, self.layout.d), seed, step)

    def decode(self, payload: U8, bits: int, seed: int, step: int, row: int, out: F32) -> None:
        """See `Segments.decode`; needs no second vector."""
        out[:] = 0
        self.add_decoded(out, payload, bits, seed, step, row, 1.0)

    def add_decoded(self, out: F32, payload: U8, bits: int, seed: int, step: int, row: int, weight: float) -> None:
        """See `Segments.add_decoded`; one pass over ``out``, and no second vector."""
        require("out", out, np.float32, self.layout.d)
        if not self.rotated:
            self.add_to(out, payload, bits, seed, step, row, weight)
        elif bits:
            table, factor = self.table(bits), np.float32(weight)
            start, shared, y = prefix(seed, step), prefix(seed, step, 1), np.empty(table.longest, np.float32)
            parts, piece = _divided(payload, table.ends), table.piece
            add_rotated_back(*parts, piece, bits, start, shared, row, self.dithered, factor, out, y, scratch())

    def add_to(self, out: F32, payload: U8, bits: int, seed: int, step: int, row: int, weight: float) -> None:
        """``out += weight * Q(x)``, in the rotated domain where there is one."""
        if not bits:
            return
        table = self.table(bits)
        scale_S, words, half, tail = _divided(payload, table.ends)
        start, factor = prefix(seed, step), np.float32(weight)
        add_pieces(scale_S, words, half, tail, table.piece, bits, start, row, self.dithered, factor, out, scratch())

    def add_many(self, out: F32, messages: list[tuple[U8, int, int, float]], seed: int, step: int) -> None:
        """`add_to` of messages (payload, bits, row, weight) with bits, in order."""
        widths = sorted({bits for _, bits, _, _ in messages})
        tables = [self.table(bits) for bits in widths]
        line = -(-max(table.ends[-1] for table in tables) // 16) * 16  # lines begin where floats and words may
        payload_MB = np.empty((len(messages), line), np.uint8)
        for raw, (payload, *_) in zip(payload_MB, messages, strict=True):
            raw[: len(payload)] = payload
        bits_M, row_M = np.array([[bits, row] for _, bits, row, _ in messages], np.int64).T.copy()
        weight_M = np.array([weight for *_, weight in messages]).astype(np.float32)
        table_M, piece_T = np.searchsorted(widths, bits_M), np.stack([table.piece for table in tables])
        ends_T4, start = np.array([table.ends for table in tables], np.int64), prefix(seed, step)
        add_rows(payload_MB, table_M, bits_M, row_M, weight_M, piece_T, ends_T4, start, self.dithered, out, scratch())

    def rotate_back(self, sum_D: F32, seed: int, step: int) -> None:
        """Undo the step's rotation, in place."""
        if self.rotated:
            table = self._tables.get(4) or self.table(4)  # widths differ in where bits are, not in the pieces
            rotate_pieces(sum_D, table.piece, prefix(seed, step, 1), True, np.empty(LANES, np.float32))


@dataclass(frozen=True, slots=True, eq=False)
class _GridSums:
    """Small payloads wait for each other: one call a payload costs more than adding it."""

    segments: GridSegments
    sum_D: F32
    seed: int
    step: int
    _waiting: list[tuple[U8, int, int, float]] = field(default_factory=list)  # payload, bits, row, weight

    def add(self, payload: U8, bits: int, row: int, weight: float) -> None:
        """See `Sums.add`."""
        if bits and len(payload) <= SMALL:
            self._waiting.append((payload, bits, row, weight))
            if len(self._waiting) >= TOGETHER:
                self._add_waiting()
            return
        self._add_waiting()
        self.segments.add_to(self.sum_D, payload, bits, self.seed, self.step, row, weight)

    def _add_waiting(self) -> None:
        if self._waiting:
            self.segments.add_many(self.sum_D, self._waiting, self.seed, self.step)
            self._waiting.clear()

    def finish(self, out: F32, scale: float = 1.0) -> None:
        """See `Sums.finish`."""
        require("out", out, np.float32, len(self.sum_D))
        self._add_waiting()
        self.segments.rotate_back(self.sum_D, self.seed, self.step)
        drain(self.sum_D, np.float32(scale), out)

    def result(self, scale: float = 1.0) -> F32:
        """See `Sums.result`."""
        self._add_waiting()
        self.segments.rotate_back(self.sum_D, self.seed, self.step)
        if scale != 1.0:
            np.multiply(self.sum_D, np.float32(scale), out=self.sum_D)
        return self.sum_D


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


def _zeros(room: F32 | None, d: int) -> F32:
    """A vector of zeros (d,), in ``room`` if given."""
    if room is None:
        return np.zeros(d, np.float32)
    require("room", room, np.float32, d)
    room.fill(0.0)
    return room


def _divided(payload: U8, ends: tuple[int, int, int, int]) -> tuple[F32, U32, U16, U8]:
    """Views of a payload: scales (float32), words (uint32), halves (uint16), last bytes."""
    a, b, c, d = ends
    return payload[:a].view(np.float32), payload[a:b].view(np.uint32), payload[b:c].view(np.uint16), payload[c:d]


def _make_table(edges: I64, wide_S: Mask, bits: int) -> _Table:
    lines, last, used = [], [], []
    scale = word = half = tail = 0
    for s, (lo, hi) in enumerate(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)):
        size = hi - lo
        if not size:
            continue
        if wide_S[s]:
            lines.append((lo, hi, s, 0, 0, 1, 0, 0, half, 0))
            half += size
            continue
        n = block_size(size)
        for a, b in chunks(size, n, per=1):
            first = a // BLOCK
            lines.append((lo + a, lo + b, s, first, a // n, n, scale + first, word + first * LANES * bits, -1, tail))
        scale, word = scale + blocks(size), word + size // BLOCK * LANES * bits
        tail += packed_bytes(size % BLOCK, bits)
        if size % BLOCK * bits % 8:
            last.append(tail - 1)
            used.append(size % BLOCK * bits % 8)
    piece = np.array(lines, np.int64).reshape(-1, COLUMNS)
    piece.flags.writeable = False
    longest = max((hi - lo for lo, hi, *_ in lines), default=0)
    sizes = np.cumsum([4 * scale, 4 * word, 2 * half, tail]).tolist()
    return _Table(piece, longest, tuple(sizes), np.array(last, np.int64), np.array(used, np.uint8))


def warm_segments(quantizer: Quantizer) -> None:
    """Compile or load the kernels that a run of ``quantizer`` uses now (before a clock runs), for all bits at once."""
    segments = get_segments(quantizer, Layout.by_parameter([513, 2]))
    bits = bits_allowed(quantizer)[0]
    x, out = np.ones(515, np.float32), np.empty(segments.nbytes(bits), np.uint8)
    segments.encode(x, bits, 0, 0, 0, out)
    segments.check(out, bits)
    segments.decode(out, bits, 0, 0, 0, x)
    sums = segments.sums(0, 0)
    sums.add(out, bits, 0, 1.0)  # a small payload
    sums.finish(x)
    if isinstance(segments, GridSegments):
        segments.add_to(x, out, bits, 0, 0, 0, 1.0)  # a large one
