"""The rotations over many segments, a piece at a time, so that it stays in the first cache from copy to codes.

A piece has 4096 coordinates (the last of a segment up to 8191). Each kernel reads the vector once, and writes it once
at most.
"""

from __future__ import annotations

import numpy as np
from numba import boolean, float32, int64, types, uint64

from gcdist.quantize.counter import stream_of
from gcdist.quantize.floats import halves_of, sum_halves
from gcdist.quantize.grid import LIMIT_BITS, add_part, encode_part, first_outside
from gcdist.quantize.hadamard import rotate_part
from gcdist.quantize.jit import (
    BYTES_IN,
    BYTES_OUT,
    ENCODED,
    FLOATS_IN,
    FLOATS_OUT,
    HALVES_IN,
    HALVES_OUT,
    SCRATCH,
    WORDS_IN,
    WORDS_OUT,
    inlined,
    kernel,
)
from gcdist.quantize.lanes import LANES, U16, U32, bits_of, fill_words, greatest_unsigned, load, store, unsigned_max
from gcdist.quantize.packing import clear
from gcdist.quantize.pieces import BLOCK_AT, HALF, HI, LO, SCALE, SEGMENT, SIZE_N, TABLE, TAIL, TRANSFORM_AT, WORD
from gcdist.types import F32, I64, U8

_MAGNITUDE = np.uint32(0x7FFFFFFF)


@inlined
def copy_finite(x: F32, y: F32) -> int:
    """``y[:] = x``; the first coordinate that counts as not finite (`LIMIT`), or -1."""
    top, magnitude = fill_words(np.uint32(0)), fill_words(_MAGNITUDE)
    even = len(x) // LANES * LANES
    for i in range(0, even, LANES):
        v = load(x, i)
        store(y, i, v)
        top = unsigned_max(top, bits_of(v) & magnitude)
    for i in range(even, len(x)):
        y[i] = x[i]
    if np.uint32(greatest_unsigned(top)) >= LIMIT_BITS or even < len(x):
        return first_outside(x)
    return -1


@inlined
def add_to(out: F32, y: F32) -> None:
    """``out += y``."""
    even = len(out) // LANES * LANES
    for i in range(0, even, LANES):
        store(out, i, load(out, i) + load(y, i))
    for i in range(even, len(out)):
        out[i] += y[i]


@inlined
def greatest(x: F32) -> int:
    """Index of the largest magnitude."""
    at = 0
    for i in range(len(x)):
        if abs(x[i]) > abs(x[at]):
            at = i
    return at


@kernel(
    ENCODED,
    FLOATS_IN,
    TABLE,
    int64,
    uint64,
    uint64,
    int64,
    boolean,
    FLOATS_OUT,
    WORDS_OUT,
    HALVES_OUT,
    BYTES_OUT,
    SCRATCH,
    SCRATCH,
)
def encode_rotated(
    x: F32,
    piece: I64,
    bits: int,
    start: np.uint64,
    shared: np.uint64,
    row: int,
    dithered: bool,
    scale_S: F32,
    words: U32,
    half: U16,
    tail: U8,
    y: F32,
    scratch: F32,
) -> tuple[int, float, float]:
    """`encode_pieces` of the rotated vector; ``y`` is scratch of the longest piece.

    The rotation can enlarge a finite coordinate 64 times, beyond the limit; then the largest of the piece is returned.
    """
    return rotated_of(x, piece, bits, start, shared, row, dithered, scale_S, words, half, tail, y, scratch)


@inlined
def rotated_of(
    x: F32,
    piece: I64,
    bits: int,
    start: np.uint64,
    shared: np.uint64,
    row: int,
    dithered: bool,
    scale_S: F32,
    words: U32,
    half: U16,
    tail: U8,
    y: F32,
    scratch: F32,
) -> tuple[int, float, float]:
    """See `encode_rotated`."""
    energy, error = 0.0, 0.0
    for p in range(len(piece)):
        lo, hi = piece[p, LO], piece[p, HI]
        key_bits = stream_of(start, piece[p, SEGMENT], row)
        if piece[p, HALF] >= 0:
            bad, a, b = halves_of(x[lo:hi], key_bits, half[piece[p, HALF] :])
            if bad >= 0:
                return lo + bad, 0.0, 0.0
        else:
            part = y[: hi - lo]
            bad = copy_finite(x[lo:hi], part)
            if bad >= 0:
                return lo + bad, 0.0, 0.0
            rotate_part(
                part, piece[p, SIZE_N], stream_of(shared, piece[p, SEGMENT], -1), piece[p, TRANSFORM_AT], False, scratch
            )
            scales, codes, rest = scale_S[piece[p, SCALE] :], words[piece[p, WORD] :], tail[piece[p, TAIL] :]
            at = piece[p, BLOCK_AT]
            bad, a, b = encode_part(part, at, bits, key_bits, dithered, True, scales, codes, rest, scratch)
            if bad >= 0:
                return lo + greatest(x[lo:hi]), 0.0, 0.0
        energy += a
        error += b
    return -1, energy, error


@kernel(
    types.void,
    FLOATS_IN,
    WORDS_IN,
    HALVES_IN,
    BYTES_IN,
    TABLE,
    int64,
    uint64,
    uint64,
    int64,
    boolean,
    float32,
    FLOATS_OUT,
    SCRATCH,
    SCRATCH,
)
def add_rotated_back(
    scale_S: F32,
    words: U32,
    half: U16,
    tail: U8,
    piece: I64,
    bits: int,
    start: np.uint64,
    shared: np.uint64,
    row: int,
    dithered: bool,
    weight: np.float32,
    out: F32,
    y: F32,
    scratch: F32,
) -> None:
    """``out += weight * Q(x)`` of one payload, rotated back; ``y`` is scratch of the longest piece."""
    for p in range(len(piece)):
        lo, hi = piece[p, LO], piece[p, HI]
        if piece[p, HALF] >= 0:
            sum_halves(half[piece[p, HALF] :], weight, out[lo:hi])
            continue
        part = y[: hi - lo]
        clear(part, hi - lo)
        scales, codes, rest = scale_S[piece[p, SCALE] :], words[piece[p, WORD] :], tail[piece[p, TAIL] :]
        key_bits, at = stream_of(start, piece[p, SEGMENT], row), piece[p, BLOCK_AT]
        add_part(scales, at, True, codes, rest, bits, dithered, key_bits, weight, part, scratch)
        rotate_part(
            part, piece[p, SIZE_N], stream_of(shared, piece[p, SEGMENT], -1), piece[p, TRANSFORM_AT], True, scratch
        )
        add_to(out[lo:hi], part)
