"""The kernels of `bucket`, `dither` and the rotations over many segments in one call, to save Python time.

A piece is a run of coordinates of one segment, one line of an int64 table. A segment of the grid has its own scales, its own
rotation and its own stream; a wide one is bfloat16.
"""

from __future__ import annotations

import numpy as np
from numba import boolean, float32, int64, types, uint64

from gcdist.quantize.counter import stream_of
from gcdist.quantize.floats import LIMIT_HALF, halves_of, sum_halves
from gcdist.quantize.grid import add_part, encode_part
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
from gcdist.quantize.lanes import U16, U32
from gcdist.types import F32, I64, U8

# columns: coordinates; segment; first block and first transform in the segment, its transforms' size; where its scales,
# words, halves (-1: it is not wide) and tail begin
LO, HI, SEGMENT, BLOCK_AT, TRANSFORM_AT, SIZE_N, SCALE, WORD, HALF, TAIL = range(10)
COLUMNS = 10
TABLE = types.Array(types.int64, 2, "C", readonly=True)
_INDICES, _BYTES = types.Array(types.int64, 1, "C"), types.Array(types.uint8, 1, "C")


@kernel(
    ENCODED,
    FLOATS_IN,
    TABLE,
    int64,
    uint64,
    int64,
    boolean,
    FLOATS_OUT,
    WORDS_OUT,
    HALVES_OUT,
    BYTES_OUT,
    SCRATCH,
)
def encode_pieces(
    x: F32,
    piece: I64,
    bits: int,
    start: np.uint64,
    row: int,
    dithered: bool,
    scale_S: F32,
    words: U32,
    half: U16,
    tail: U8,
    scratch: F32,
) -> tuple[int, float, float]:
    """Quantize the pieces of ``x``, which begins at the first one; see `encode_grid` for what it returns."""
    return pieces_of(x, piece, bits, start, row, dithered, scale_S, words, half, tail, scratch)


@inlined
def pieces_of(
    x: F32,
    piece: I64,
    bits: int,
    start: np.uint64,
    row: int,
    dithered: bool,
    scale_S: F32,
    words: U32,
    half: U16,
    tail: U8,
    scratch: F32,
) -> tuple[int, float, float]:
    """See `encode_pieces`."""
    energy, error = 0.0, 0.0
    for p in range(len(piece)):
        lo, hi = piece[p, LO] - piece[0, LO], piece[p, HI] - piece[0, LO]
        key_bits = stream_of(start, piece[p, SEGMENT], row)
        if piece[p, HALF] >= 0:
            bad, a, b = halves_of(x[lo:hi], key_bits, half[piece[p, HALF] :])
        else:
            scales, codes, rest = scale_S[piece[p, SCALE] :], words[piece[p, WORD] :], tail[piece[p, TAIL] :]
            at = piece[p, BLOCK_AT]
            bad, a, b = encode_part(x[lo:hi], at, bits, key_bits, dithered, True, scales, codes, rest, scratch)
        if bad >= 0:
            return lo + bad, 0.0, 0.0
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
    int64,
    boolean,
    float32,
    FLOATS_OUT,
    SCRATCH,
)
def add_pieces(
    scale_S: F32,
    words: U32,
    half: U16,
    tail: U8,
    piece: I64,
    bits: int,
    start: np.uint64,
    row: int,
    dithered: bool,
    weight: np.float32,
    out: F32,
    scratch: F32,
) -> None:
    """``out += weight * Q(x)``, in the rotated domain where there is one."""
    pieces_added(scale_S, words, half, tail, piece, bits, start, row, dithered, weight, out, scratch)


@inlined
def pieces_added(
    scale_S: F32,
    words: U32,
    half: U16,
    tail: U8,
    piece: I64,
    bits: int,
    start: np.uint64,
    row: int,
    dithered: bool,
    weight: np.float32,
    out: F32,
    scratch: F32,
) -> None:
    """See `add_pieces`."""
    for p in range(len(piece)):
        part = out[piece[p, LO] : piece[p, HI]]
        if piece[p, HALF] >= 0:
            sum_halves(half[piece[p, HALF] :], weight, part)
        else:
            scales, codes, rest = scale_S[piece[p, SCALE] :], words[piece[p, WORD] :], tail[piece[p, TAIL] :]
            key_bits, at = stream_of(start, piece[p, SEGMENT], row), piece[p, BLOCK_AT]
            add_part(scales, at, True, codes, rest, bits, dithered, key_bits, weight, part, scratch)


@kernel(types.void, FLOATS_OUT, TABLE, uint64, boolean, SCRATCH)
def rotate_pieces(y: F32, piece: I64, start: np.uint64, inverse: bool, lanes: F32) -> None:
    """Rotate the pieces of ``y``, which begins at the first one, in place, or back; wide ones stay as they are."""
    for p in range(len(piece)):
        if piece[p, HALF] < 0:
            part = y[piece[p, LO] - piece[0, LO] : piece[p, HI] - piece[0, LO]]
            key_bits = stream_of(start, piece[p, SEGMENT], -1)
            rotate_part(part, piece[p, SIZE_N], key_bits, piece[p, TRANSFORM_AT], inverse, lanes)


@kernel(types.UniTuple(int64, 2), FLOATS_IN, HALVES_IN, BYTES_IN, _INDICES, _BYTES, float32, boolean)  # type: ignore[no-untyped-call]
def first_wrong(
    scale_S: F32, half: U16, tail: U8, last: I64, used: U8, most: np.float32, signed: bool
) -> tuple[int, int]:
    """The part of a payload that no `encode` sends: (1, which scale), (2, which half), (3, which last byte), or (0, 0).

    A scale is NaN, beyond ``most`` or negative (unless ``signed``); a half is not finite or beyond `LIMIT`, to which a
    coordinate just below may be rounded up; in byte ``last`` of the tails more than the lower ``used`` bits are set.
    """
    for i in range(len(scale_S)):
        if not abs(scale_S[i]) <= most or (scale_S[i] < 0 and not signed):
            return 1, i
    for i in range(len(half)):
        if (half[i] & 0x7FFF) > LIMIT_HALF:
            return 2, i
    for i in range(len(last)):
        if tail[last[i]] >> used[i] > 0:
            return 3, i
    return 0, 0
