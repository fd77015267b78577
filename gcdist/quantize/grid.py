"""Grids of 2^b equally spaced levels over each bucket of 512: the arithmetic of `bucket`, `dither`, `qsgd` and `rotated`.

In steps of a scale s (float32, signed) the codes stand for q = -L, ..., L + 1 with ``L = 2^(b-1) - 1``.

- Stochastic rounding, b >= 2: the level q s. Zero is a level. The grid has one step more on one side; a negative s turns it
  around, so that the longer side covers the larger extreme of the bucket at no cost.
- Stochastic rounding, 1 bit: no room for a zero; the levels are -s and s.
- Subtractive dither: ``q = floor(x/s + u + 1/2)`` with u in [0, 1) that both ends draw from the key; the value is
  ``(q - u) s``.

Magnitudes from `LIMIT` on count as infinite, so that no level, sum of a block or rotation overflows.
"""

from __future__ import annotations

import numpy as np
from numba import boolean, float32, int64, types, uint64

from gcdist.quantize.counter import block_lanes, hashed
from gcdist.quantize.jit import (
    BYTES_IN,
    BYTES_OUT,
    ENCODED,
    FLOATS_IN,
    FLOATS_OUT,
    SCRATCH,
    WORDS_IN,
    WORDS_OUT,
    inlined,
    kernel,
)
from gcdist.quantize.lanes import (
    LANES,
    U32,
    bits_of,
    fill,
    fill_words,
    first,
    floats_of,
    greatest_signed,
    greatest_unsigned,
    load,
    rounded,
    shifted_signed,
    signed_max,
    signed_min,
    store,
    to_floats,
    total,
    unsigned_max,
)
from gcdist.quantize.packing import BLOCK, clear, copy, get, get_tail, put, put_tail
from gcdist.types import F32, U8

LIMIT = 2.0**115
LIMIT_BITS = np.uint32(np.float32(LIMIT).view(np.uint32))
_SIGN = np.uint32(0x80000000)
_SMALL = 2.0**-100  # a scale s below this could make 1/s overflow: x is scaled up first
_LIFT = np.float32(2.0**64)
_UNIT = np.float32(2.0**-23)
_TINY = 2.0**-149  # the spacing of denormals


def scratch() -> F32:
    """Scratch memory of the kernels: two blocks and the words of one."""
    return np.empty(2 * BLOCK + 8 * LANES, np.float32)


def levels(bits: int) -> int:
    """Steps of the shorter side of the grid with a zero, L; 1 for one bit.

    >>> [levels(bits) for bits in range(1, 9)]
    [1, 1, 3, 7, 15, 31, 63, 127]
    """
    return max(1, (1 << (bits - 1)) - 1)


@inlined
def fitted_scale(high: float, low: float, bits: int, dithered: bool) -> np.float32:
    """The smallest scale whose grid covers [-low, high]; 0 for zeros."""
    big, small = max(high, low), min(high, low)
    if dithered:
        wanted = 2 * big / ((1 << bits) - 1)
    elif bits == 1:
        wanted = big
    else:
        short = (1 << (bits - 1)) - 1
        wanted = max(big / (short + 1), small / short)
    if wanted < _SMALL:  # denormal scales are coarse: round up, to cover the bucket still
        wanted = np.ceil(wanted / _TINY) * _TINY
    return np.float32(-wanted if low > high and bits > 1 and not dithered else wanted)


@inlined
def as_float(raw: np.uint32) -> np.float32:
    """The float32 of these bits."""
    return first(floats_of(fill_words(raw)))


@inlined
def find_scale(x: F32, start: int, bits: int, dithered: bool) -> np.float32:
    """The scale of ``x[start : start + 512]``; NaN if a coordinate is not finite."""
    top, bottom = fill_words(np.uint32(0)), fill_words(np.uint32(0))
    for m in range(BLOCK // LANES):  # floats of one sign are ordered as integers, infinity and NaN above all
        raw = bits_of(load(x, start + m * LANES))
        top, bottom = signed_max(top, raw), unsigned_max(bottom, raw)
    high, low = np.uint32(greatest_signed(top)), np.uint32(greatest_unsigned(bottom))
    low = np.uint32(low ^ _SIGN) if low >= _SIGN else np.uint32(0)
    if high >= LIMIT_BITS or low >= LIMIT_BITS:
        return np.float32(np.nan)
    return fitted_scale(np.float64(as_float(high)), np.float64(as_float(low)), bits, dithered)


@inlined
def encode_block(
    x: F32,
    start: int,
    scale: np.float32,
    bits: int,
    dithered: bool,
    key_bits: np.uint64,
    block: int,
    words: U32,
    at: int,
) -> tuple[float, float]:
    """Pack 512 coordinates; their ``|x|^2`` and ``|Q(x)-x|^2``.

    All is done in units of 2^-23 of a step: ``q = (t + u + c) >> 23`` rounds at random to the neighbours of ``t - c``.
    """
    paired = bits == 1 and not dithered  # the two levels -s and s: a step is 2 s
    unit = np.float32(scale * np.float32(2 if paired else 1)) * _UNIT
    inverse = fill(np.float32(1) / unit if unit != 0 else np.float32(0))
    middle = fill_words(np.uint32(1 << 22 if dithered or paired else 0))
    short = (1 << (bits - 1)) - 1
    lowest, highest = fill_words(np.uint32(-short)), fill_words(np.uint32(short + 1))
    point, spare = fill_words(np.uint32(23)), fill_words(np.uint32(9))
    k0, k1 = block_lanes(key_bits, block)
    energy, error = fill(np.float32(0)), fill(np.float32(0))
    for m in range(BLOCK // LANES):
        t = load(x, start + m * LANES) * inverse
        energy = energy + t * t
        whole, u = rounded(t), hashed(m * LANES, k0, k1) >> spare
        q = signed_min(signed_max(shifted_signed(whole + u + middle, point), lowest), highest)
        wrong = to_floats((q << point) - whole - (u if dithered else middle))
        error = error + wrong * wrong
        put(words, at, m, bits, q - lowest)
    square = np.float64(unit) * np.float64(unit)
    return np.float64(total(energy)) * square, np.float64(total(error)) * square


@inlined
def add_block(
    factor: np.float32,
    words: U32,
    at: int,
    bits: int,
    dithered: bool,
    key_bits: np.uint64,
    block: int,
    out: F32,
    start: int,
) -> None:
    """Add ``factor`` times the levels of 512 codes: one rounded product, then one addition."""
    paired = bits == 1 and not dithered
    double = fill_words(np.uint32(1 if paired else 0))
    zero = fill_words(np.uint32(1 if paired else (1 << (bits - 1)) - 1))
    point, spare = fill_words(np.uint32(23)), fill_words(np.uint32(9))
    scale = fill(factor)
    k0, k1 = block_lanes(key_bits, block)
    for m in range(BLOCK // LANES):
        q = (get(words, at, m, bits) << double) - zero
        level = to_floats(q)
        if dithered:
            level = to_floats((q << point) - (hashed(m * LANES, k0, k1) >> spare)) * fill(_UNIT)
        store(out, start + m * LANES, load(out, start + m * LANES) + scale * level)


@inlined
def encode_odd(
    x: F32, count: int, scale: np.float32, bits: int, dithered: bool, key_bits: np.uint64, block: int, scratch: F32
) -> tuple[float, float]:
    """`encode_block` of the last ``count`` <= 512 coordinates, or of tiny ones, lifted; the words stay in ``scratch``."""
    padded, value, words = scratch[:BLOCK], scratch[BLOCK : 2 * BLOCK], scratch[2 * BLOCK :].view(np.uint32)
    lift = _LIFT if abs(scale) < _SMALL else np.float32(1)
    clear(scratch, 2 * BLOCK)
    for i in range(count):
        padded[i] = x[i] * lift
    encode_block(padded, 0, scale * lift, bits, dithered, key_bits, block, words, 0)
    add_block(scale * lift, words, 0, bits, dithered, key_bits, block, value, 0)
    energy, error, square = 0.0, 0.0, np.float64(lift) * np.float64(lift)
    for i in range(count):  # rounding of the padding is no error of x
        wrong = np.float64(value[i]) - np.float64(padded[i])
        energy += np.float64(padded[i]) * np.float64(padded[i])
        error += wrong * wrong
    return energy / square, error / square


@inlined
def encode_part(
    x: F32,
    begin: int,
    bits: int,
    key_bits: np.uint64,
    dithered: bool,
    fit: bool,
    scale_S: F32,
    words: U32,
    tail: U8,
    scratch: F32,
) -> tuple[int, float, float]:
    """`encode_grid` of a vector whose first block is number ``begin`` of its stream."""
    energy, error = 0.0, 0.0
    size = LANES * bits
    for block in range((len(x) + BLOCK - 1) // BLOCK):
        start = block * BLOCK
        count = min(BLOCK, len(x) - start)
        if fit and count == BLOCK:
            scale_S[block] = find_scale(x, start, bits, dithered)
        elif fit:
            clear(scratch, BLOCK)
            copy(x, start, scratch, 0, count)
            scale_S[block] = find_scale(scratch, 0, bits, dithered)
        scale = scale_S[block if fit else 0]
        if np.isnan(scale):
            return start + first_outside(x[start:]), 0.0, 0.0
        if count == BLOCK and (scale == 0 or abs(scale) >= _SMALL):
            a, b = encode_block(x, start, scale, bits, dithered, key_bits, begin + block, words, block * size)
        else:
            a, b = encode_odd(x[start:], count, scale, bits, dithered, key_bits, begin + block, scratch)
            packed = scratch[2 * BLOCK :].view(np.uint32)
            if count == BLOCK:
                copy(packed, 0, words, block * size, size)
            else:
                put_tail(packed, bits, count, tail)
        energy += a
        error += b
    return -1, energy, error


@kernel(ENCODED, FLOATS_IN, int64, uint64, boolean, boolean, FLOATS_OUT, WORDS_OUT, BYTES_OUT, SCRATCH)
def encode_grid(
    x: F32, bits: int, key_bits: np.uint64, dithered: bool, fit: bool, scale_S: F32, words: U32, tail: U8, scratch: F32
) -> tuple[int, float, float]:
    """Quantize ``x`` with a scale fitted to each bucket of 512, or (``fit`` False) with ``scale_S[0]`` for all.

    Returns the first coordinate that is not finite (or -1), ``|x|^2``, ``|Q(x)-x|^2``. Rounding probabilities are multiples
    of 2^-23; a coordinate on a level of stochastic rounding stays there.
    """
    return encode_part(x, 0, bits, key_bits, dithered, fit, scale_S, words, tail, scratch)


@inlined
def first_outside(x: F32) -> int:
    """Index of the first coordinate that is NaN or at least `LIMIT` in magnitude."""
    for i in range(len(x)):
        if not abs(x[i]) < LIMIT:
            return i
    return -1


@kernel(ENCODED, FLOATS_IN)
def measure(x: F32) -> tuple[int, float, float]:
    """The first coordinate that is not finite (or -1), ``|x|^2`` and ``max |x|``."""
    energy, largest = 0.0, np.float32(0)
    full = len(x) // BLOCK * BLOCK
    for start in range(0, full, BLOCK):
        top = find_scale(x, start, 1, False)
        if np.isnan(top):
            return start + first_outside(x[start:]), 0.0, 0.0
        largest = max(largest, top)
        unit = max(top, np.float32(_SMALL))
        inverse, part = fill(np.float32(1) / unit), fill(np.float32(0))
        for i in range(start, start + BLOCK, LANES):
            value = load(x, i) * inverse
            part = part + value * value
        energy += np.float64(total(part)) * np.float64(unit) * np.float64(unit)
    for i in range(full, len(x)):
        if not abs(x[i]) < LIMIT:
            return i, 0.0, 0.0
        largest = max(largest, abs(x[i]))
        energy += np.float64(x[i]) * np.float64(x[i])
    return -1, energy, np.float64(largest)


@inlined
def add_part(
    scale_S: F32,
    begin: int,
    fit: bool,
    words: U32,
    tail: U8,
    bits: int,
    dithered: bool,
    key_bits: np.uint64,
    weight: np.float32,
    out: F32,
    scratch: F32,
) -> None:
    """`add_grid` of a vector whose first block is number ``begin`` of its stream."""
    full = len(out) // BLOCK
    for block in range(full):
        factor = weight * scale_S[block if fit else 0]
        add_block(factor, words, block * LANES * bits, bits, dithered, key_bits, begin + block, out, block * BLOCK)
    count = len(out) - full * BLOCK
    if count > 0:
        padded, packed = scratch[:BLOCK], scratch[2 * BLOCK :].view(np.uint32)
        copy(out, full * BLOCK, padded, 0, count)
        get_tail(tail, bits, count, packed)
        factor = weight * scale_S[full if fit else 0]
        add_block(factor, packed, 0, bits, dithered, key_bits, begin + full, padded, 0)
        copy(padded, 0, out, full * BLOCK, count)


@kernel(types.void, FLOATS_IN, boolean, WORDS_IN, BYTES_IN, int64, boolean, uint64, float32, FLOATS_OUT, SCRATCH)
def add_grid(
    scale_S: F32,
    fit: bool,
    words: U32,
    tail: U8,
    bits: int,
    dithered: bool,
    key_bits: np.uint64,
    weight: np.float32,
    out: F32,
    scratch: F32,
) -> None:
    """``out += weight * Q(x)``."""
    add_part(scale_S, 0, fit, words, tail, bits, dithered, key_bits, weight, out, scratch)
