"""Shift vectors h_row (math section 6): one rule that both ends apply, bit for bit.

Product, then sum, each rounded to float32 by itself: a fused multiply-add at one end would be a permanent bias.
"""

from __future__ import annotations

import numpy as np

from gcdist.quantize import decode
from gcdist.types import F32, U8, Key, Layout, Quantizer


def move(h: F32, message: F32, beta: float, scratch: F32) -> None:
    """``h += beta * message`` in two rounded operations; all (d,), ``scratch`` is overwritten."""
    np.multiply(message, np.float32(beta), out=scratch)
    np.add(h, scratch, out=h)


def payload_nbytes(quantizer: Quantizer, layout: Layout, bits_S: tuple[int, ...]) -> int:
    """Length of one row's payload: its segments' payloads, in order."""
    sizes = layout.sizes()
    return sum(quantizer.nbytes(int(d), b) for d, b in zip(sizes, bits_S, strict=True) if b)


def segments(quantizer: Quantizer, layout: Layout, bits_S: tuple[int, ...]) -> list[tuple[int, slice, slice, int]]:
    """(segment, coordinates, payload bytes, bits) of every segment that carries bits."""
    out, at = [], 0
    for s, bits in enumerate(bits_S):
        lo, hi = int(layout.edges[s]), int(layout.edges[s + 1])
        size = quantizer.nbytes(hi - lo, bits) if bits else 0
        if bits:
            out.append((s, slice(lo, hi), slice(at, at + size), bits))
        at += size
    return out


def decode_row(
    quantizer: Quantizer, layout: Layout, payload: U8, bits_S: tuple[int, ...], seed: int, step: int, row: int, out: F32
) -> None:
    """Write Q(x) of one row's payload into ``out`` (d,); coordinates without bits become 0."""
    out.fill(0.0)
    for s, coordinates, where, bits in segments(quantizer, layout, bits_S):
        size = coordinates.stop - coordinates.start
        decode(quantizer, payload[where], size, bits, Key(seed, step, row, s), out[coordinates])
