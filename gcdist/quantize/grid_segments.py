"""Grid quantizers on segments: one kernel call for all of them, or for many vectors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from gcdist.quantize.base import HIGHEST, Base, blocks, drain, require
from gcdist.quantize.counter import prefix
from gcdist.quantize.dither import Dither
from gcdist.quantize.grid import scratch
from gcdist.quantize.hadamard import block_size, chunks
from gcdist.quantize.lanes import LANES, U16, U32
from gcdist.quantize.many_rows import add_rows, encode_rotated_rows, encode_rows
from gcdist.quantize.packing import BLOCK, packed_bytes
from gcdist.quantize.pieces import COLUMNS, add_pieces, encode_pieces, first_wrong, rotate_pieces
from gcdist.quantize.rotated import Rotated
from gcdist.quantize.rotated_pieces import add_rotated_back, encode_rotated
from gcdist.quantize.segments_base import Sums, segments_noise, zeros
from gcdist.types import F32, F64, I64, U8, Encoded, Layout, Mask, NonFiniteError

SMALL = 1024  # bytes of a payload; a larger one is added at once, beside the wait for the next
TOGETHER = 64  # small payloads that are added in one call


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
        return segments_noise(self.quantizer, self.layout, bits_most)

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
        return GridSums(self, zeros(room, self.layout.d), seed, step)

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
class GridSums:
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
