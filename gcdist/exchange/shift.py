"""Shift vectors h_row (math section 6): one rule that both ends apply, bit for bit.

Product, then sum, each rounded to float32 by itself: a fused multiply-add at one end would be a permanent bias.
"""

from __future__ import annotations

from collections.abc import Hashable
from functools import lru_cache
from typing import cast

import numpy as np

from gcdist.quantize import Segments, get_segments
from gcdist.types import F32, U8, Layout, Quantizer


def move(h: F32, message: F32, beta: float, scratch: F32) -> None:
    """``h += beta * message`` in two rounded operations; all (d,), ``scratch`` is overwritten."""
    np.multiply(message, np.float32(beta), out=scratch)
    np.add(h, scratch, out=h)


_made = lru_cache(32)(get_segments)


def segments_of(quantizer: Quantizer, layout: Layout) -> Segments:
    """`get_segments`, made once for a quantizer and a layout: ten thousand simulated workers share it."""
    return _made(cast(Hashable, quantizer), cast(Hashable, layout))


def row_bits(bits_S: tuple[int, ...]) -> int:
    """The packed bits of a row: all of its segments that are not wide have them.

    Raises:
        ValueError: segments of different bits, which no plan of this version has.
    """
    if len(set(bits_S)) != 1:
        raise ValueError(f"the segments of a row have the same bits, found {bits_S}")
    return bits_S[0]


def payload_nbytes(quantizer: Quantizer, layout: Layout, bits_S: tuple[int, ...]) -> int:
    """Length of one row's payload."""
    return segments_of(quantizer, layout).nbytes(row_bits(bits_S))


def decode_row(
    quantizer: Quantizer, layout: Layout, payload: U8, bits_S: tuple[int, ...], seed: int, step: int, row: int, out: F32
) -> None:
    """Write Q(x) of one row's payload into ``out`` (d,); without bits it is 0."""
    segments_of(quantizer, layout).decode(payload, row_bits(bits_S), seed, step, row, out)
