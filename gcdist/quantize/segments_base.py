"""What all quantizers on segments share: their interface, the noise law, vectors of zeros."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from gcdist.quantize.base import require
from gcdist.quantize.floats import Bfloat16
from gcdist.quantize.registry import noise_table
from gcdist.types import F32, F64, I64, U8, Encoded, Layout, Quantizer

HALVES = Bfloat16()  # of wide segments
WIDE = 16


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


def segments_noise(quantizer: Quantizer, layout: Layout, bits_most: int) -> F64:
    """See `Segments.noise`."""
    sizes, counts = np.unique(layout.sizes()[~layout.wide_S], return_counts=True)
    if not sizes.size:
        return noise_table(quantizer, layout.d, bits_most)
    tables = [noise_table(quantizer, int(size), bits_most) for size in sizes]
    share = sizes * counts / max(layout.d, 1)
    finite = np.isfinite(tables[0])
    found = np.full(bits_most + 1, np.inf)
    found[finite] = sum(part * table[finite] for part, table in zip(share, tables, strict=True))
    return found


def zeros(room: F32 | None, d: int) -> F32:
    """A vector of zeros (d,), in ``room`` if given."""
    if room is None:
        return np.zeros(d, np.float32)
    require("room", room, np.float32, d)
    room.fill(0.0)
    return room
