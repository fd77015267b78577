"""Stochastic rounding onto a grid with an exact zero: the arithmetic of `bucket`, `qsgd` and `rotated`.

With b >= 2 bits a scale s has the levels ``-L s, ..., 0, ..., L s, (L+1) s``, ``L = 2^(b-1) - 1``: all 2^b codes are used. A
negative s turns the grid around, so that the longer side covers the larger extreme of the block at no cost. With 1 bit
there is no room for a zero and the levels are -s and s.
"""

from __future__ import annotations

import numpy as np
from numba import boolean, float32, int64, types, uint64

from gcdist.quantize.counter import block_bits, high_word, low_word, uniform
from gcdist.quantize.jit import (
    BYTES_IN,
    BYTES_OUT,
    ENCODED,
    FLOATS_IN,
    FLOATS_OUT,
    WORDS_IN,
    WORDS_OUT,
    inlined,
    kernel,
    reassociated,
)
from gcdist.quantize.packing import BLOCK, U32, pack_block, pack_tail, unpack_block, unpack_tail
from gcdist.types import F32, U8

_INF = np.uint32(0x7F800000)
_SIGN = np.uint32(0x80000000)
_SMALL = np.float32(2.0**-100)  # below it 1/s could overflow, so x is scaled up first
_LIFT = np.float32(2.0**64)
_TINY = 2.0**-149  # the denormal spacing
_FLOAT_MAX = np.float32(np.finfo(np.float32).max)


def levels(bits: int) -> int:
    """Levels on the shorter side of zero, L; 1 for one bit."""
    return max(1, (1 << (bits - 1)) - 1)


@inlined
def fitted_scale(high: np.float32, low: np.float32, bits: int) -> np.float32:
    """The smallest scale (float32, signed) whose grid covers [-low, high]; 0 for a block of zeros."""
    if bits == 1:
        return max(high, low)
    short = 2 ** (bits - 1) - 1
    small, big = min(high, low), max(high, low)
    scale = np.float32(max(np.float64(big) / (short + 1), np.float64(small) / short))
    if scale < _SMALL:  # denormal scales are coarse: round them up to cover the block
        wanted = max(np.float64(big) / (short + 1), np.float64(small) / short)
        scale = np.float32(np.ceil(wanted / _TINY) * _TINY)
    elif (
        scale * np.float32(short + 1) > _FLOAT_MAX
    ):  # rounded up at the top of float32: the outer level must stay finite
        scale = np.nextafter(scale, np.float32(0))
    return -scale if low > high else scale


@reassociated
def sums(value: F32, error: F32, count: int) -> tuple[np.float64, np.float64]:
    """Sums of squares of two float32 vectors (at most 512 entries of moderate size)."""
    a, b = np.float32(0), np.float32(0)
    for i in range(count):
        a += value[i] * value[i]
        b += error[i] * error[i]
    return np.float64(a), np.float64(b)


@kernel(ENCODED, FLOATS_IN, int64, uint64, boolean, FLOATS_OUT, WORDS_OUT, BYTES_OUT)
def encode_grid(
    x: F32, bits: int, key_bits: np.uint64, fit: bool, scale_S: F32, words: U32, tail: U8
) -> tuple[int, float, float]:
    """Quantize ``x``; scales are fitted to each block of 512, or (``fit`` False) ``scale_S[0]`` holds for all.

    Returns the first coordinate that is not finite (or -1), ``|x|^2``, ``|Q(x)-x|^2``. A coordinate goes to its two
    neighbouring levels with the probabilities that make it unbiased, to 2^-24; on a level it stays.
    """
    code, value, wrong = np.empty(BLOCK, np.uint32), np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    raw = x.view(np.uint32)
    short = np.int32(2 ** (bits - 1) - 1)
    half = np.float32(0.5) if bits == 1 else np.float32(0)
    energy, error = 0.0, 0.0
    for block in range((len(x) + BLOCK - 1) // BLOCK):
        start = block * BLOCK
        count = min(BLOCK, len(x) - start)
        top, bottom = np.int32(0), np.uint32(0)
        for i in range(start, start + count):  # floats of one sign are ordered as integers, NaN and infinity above all
            top = max(top, np.int32(raw[i]))
            bottom = max(bottom, raw[i])
        low = np.uint32(bottom ^ _SIGN) if bottom >= _SIGN else np.uint32(0)
        if np.uint32(top) >= _INF or low >= _INF:
            for i in range(start, start + count):
                if not np.isfinite(x[i]):
                    return i, 0.0, 0.0
        if fit:
            code[0], code[1] = np.uint32(top), low
            extremes = code[:2].view(np.float32)
            scale_S[block] = fitted_scale(extremes[0], extremes[1], bits)
        scale = scale_S[block if fit else 0]
        if scale == 0:
            code[:count] = 0 if bits == 1 else short
        else:
            lift = _LIFT if abs(scale) < _SMALL else np.float32(1)
            inverse = np.float32(1) / (scale * lift)
            if bits == 1:
                inverse *= np.float32(0.5)
            bits64 = block_bits(key_bits, block)
            k0, k1 = low_word(bits64), high_word(bits64)
            for i in range(count):
                t = x[start + i] * lift * inverse
                value[i] = t
                t += half
                q = np.int32(t)
                q -= np.int32(np.float32(q) > t)
                q += np.int32(uniform(i, k0, k1) < t - np.float32(q))
                q = min(max(q, -short), np.int32(short + 1))
                wrong[i] = np.float32(q) - t
                code[i] = np.uint32(q + short)
            step = 2.0 * np.float64(scale) if bits == 1 else np.float64(scale)
            a, b = sums(value, wrong, count)
            energy += a * step * step
            error += b * step * step
        if count == BLOCK:
            pack_block(code, words, block * 16 * bits, bits)
        else:
            pack_tail(code, count, tail, bits)
    return -1, energy, error


@kernel(types.void, FLOATS_IN, boolean, WORDS_IN, BYTES_IN, int64, float32, FLOATS_OUT)
def add_grid(scale_S: F32, fit: bool, words: U32, tail: U8, bits: int, weight: np.float32, out: F32) -> None:
    """``out += weight * Q(x)``: one rounded product of ``weight * scale`` and the level, then one addition."""
    code = np.empty(BLOCK, np.uint32)
    double = np.uint32(1 if bits == 1 else 0)
    zero = np.int32(1 if bits == 1 else 2 ** (bits - 1) - 1)
    for block in range((len(out) + BLOCK - 1) // BLOCK):
        start = block * BLOCK
        count = min(BLOCK, len(out) - start)
        factor = weight * scale_S[block if fit else 0]
        if count == BLOCK:
            unpack_block(words, block * 16 * bits, bits, code)
        else:
            unpack_tail(tail, bits, code, count)
        for i in range(count):
            out[start + i] += factor * np.float32(np.int32(code[i] << double) - zero)
