"""`float32`, the vector as it is, and `bfloat16`, its upper halves rounded at random."""

from __future__ import annotations

import numpy as np
from numba import boolean, float32, float64, types, uint64

from gcdist.quantize.base import Direct
from gcdist.quantize.counter import block_lanes, hashed, stream
from gcdist.quantize.grid import LIMIT, as_float, find_scale, first_outside, measure
from gcdist.quantize.jit import ENCODED, FLOATS_IN, FLOATS_OUT, HALVES_IN, HALVES_OUT, inlined, kernel
from gcdist.quantize.lanes import (
    LANES,
    U16,
    bits_of,
    fill,
    fill_words,
    first,
    first_word,
    floats_of,
    load,
    load_halves,
    store,
    store_halves,
    total,
)
from gcdist.quantize.packing import BLOCK
from gcdist.types import F32, U8, Key

LIMIT_HALF = int(np.float32(LIMIT).view(np.uint32)) >> 16


@kernel(types.void, FLOATS_IN, float32, FLOATS_OUT)
def add_floats(x: F32, weight: np.float32, out: F32) -> None:
    """``out += weight * x``."""
    for i in range(len(out)):
        out[i] += weight * x[i]


@kernel(float64, FLOATS_IN, float32, float32, boolean, FLOATS_OUT)
def add_scaled(x: F32, scale: np.float32, factor: np.float32, first: bool, out: F32) -> float:
    """``out += factor * (scale * x)``, or ``=`` if ``first``, each product rounded; returns ``|scale * x|^2``.

    The result is finite only if all of ``scale * x`` is finite; terms beyond 1e19 make it infinite, too.
    """
    return scaled_into(x, scale, factor, first, out)


@inlined
def scaled_into(x: F32, scale: np.float32, factor: np.float32, first: bool, out: F32) -> float:
    """See `add_scaled`."""
    energy, a, b = 0.0, fill(scale), fill(factor)
    even = len(x) // LANES * LANES
    for start in range(0, even, BLOCK):
        part = fill(np.float32(0))
        for i in range(start, min(start + BLOCK, even), LANES):
            v = load(x, i) * a
            part = part + v * v
            store(out, i, v * b if first else load(out, i) + v * b)
        energy += np.float64(total(part))
    for i in range(even, len(x)):
        w = scale * x[i]
        energy += np.float64(w) * np.float64(w)
        out[i] = factor * w if first else out[i] + factor * w
    return energy


class Float32(Direct):
    """Little-endian float32, lossless.

    >>> Float32().nbytes(3, 32)
    12
    """

    name = "float32"
    bits_allowed = (32,)

    def nbytes(self, d: int, bits: int) -> int:
        """``4 d``."""
        self._allowed(bits)
        return 4 * d

    def noise(self, bits: int, d: int) -> float:
        """0."""
        self._allowed(bits)
        return 0.0

    def bound(self, bits: int, d: int) -> float:
        """0: nothing is lost."""
        return self.noise(bits, d)

    def _encode(self, x: F32, bits: int, key: Key, out: U8) -> tuple[int, float, float]:
        out[:] = x.view(np.uint8)
        bad, energy, _ = measure(x)
        return bad, energy, 0.0

    def _check(self, payload: U8, d: int, bits: int) -> None:
        bad = measure(payload.view(np.float32))[0]
        if bad >= 0:
            raise ValueError(f"corrupt payload: coordinate {bad} is not finite")

    def add_to(self, out: F32, payload: U8, bits: int, key: Key, weight: float) -> None:
        """See `Direct.add_to`."""
        add_floats(payload.view(np.float32), np.float32(weight), out)


@inlined
def halves_of(x: F32, key_bits: np.uint64, half: U16) -> tuple[int, float, float]:
    """Round to upper halves, up in magnitude with probability (lower half)/2^16: exactly unbiased."""
    sixteen = fill_words(np.uint32(16))
    energy, error = 0.0, 0.0
    done = 0
    for start in range(0, len(x) // BLOCK * BLOCK, BLOCK):
        top = find_scale(x, start, 1, False)
        if np.isnan(top):
            return start + first_outside(x[start:]), 0.0, 0.0
        unit = max(top, np.float32(2.0**-100))
        inverse = fill(np.float32(1) / unit)
        k0, k1 = block_lanes(key_bits, start // BLOCK)
        a, b = fill(np.float32(0)), fill(np.float32(0))
        for i in range(0, BLOCK, LANES):
            value = load(x, start + i)
            upper = (bits_of(value) + (hashed(i, k0, k1) >> sixteen)) >> sixteen
            store_halves(half, start + i, upper)
            wrong = (floats_of(upper << sixteen) - value) * inverse
            value = value * inverse
            a, b = a + value * value, b + wrong * wrong
        square = np.float64(unit) * np.float64(unit)
        energy += np.float64(total(a)) * square
        error += np.float64(total(b)) * square
        done = start + BLOCK
    k0, k1 = block_lanes(key_bits, done // BLOCK)
    for i in range(done, len(x)):
        if not abs(x[i]) < LIMIT:
            return i, 0.0, 0.0
        upper = (bits_of(fill(x[i])) + (hashed(i - done, k0, k1) >> sixteen)) >> sixteen
        half[i] = np.uint16(first_word(upper))
        gap = np.float64(first(floats_of(upper << sixteen))) - np.float64(x[i])
        energy += np.float64(x[i]) * np.float64(x[i])
        error += gap * gap
    return -1, energy, error


@kernel(ENCODED, FLOATS_IN, uint64, HALVES_OUT)
def encode_halves(x: F32, key_bits: np.uint64, half: U16) -> tuple[int, float, float]:
    """See `halves_of`."""
    return halves_of(x, key_bits, half)


@kernel(types.void, HALVES_IN, float32, FLOATS_OUT)
def add_halves(half: U16, weight: np.float32, out: F32) -> None:
    """``out += weight * x``."""
    sum_halves(half, weight, out)


@inlined
def sum_halves(half: U16, weight: np.float32, out: F32) -> None:
    """``out += weight * x``."""
    scale, sixteen = fill(weight), fill_words(np.uint32(16))
    even = len(out) // LANES * LANES
    for i in range(0, even, LANES):
        store(out, i, load(out, i) + scale * floats_of(load_halves(half, i) << sixteen))
    for i in range(even, len(out)):
        out[i] += weight * as_float(np.uint32(np.uint32(half[i]) << np.uint32(16)))


class Bfloat16(Direct):
    """bfloat16 with stochastic rounding; a payload is a little-endian bfloat16 vector.

    >>> Bfloat16().nbytes(3, 16)
    6
    """

    name = "bfloat16"
    bits_allowed = (16,)

    def nbytes(self, d: int, bits: int) -> int:
        """``2 d``."""
        self._allowed(bits)
        return 2 * d

    def noise(self, bits: int, d: int) -> float:
        """``2^-14/6 sum_e 4^e P(2^e <= |x_i| < 2^(e+1))`` for normal x_i: f(1-f) averages 1/6."""
        self._allowed(bits)
        return 2.0**-14 / 6 * 0.5431

    def bound(self, bits: int, d: int) -> float:
        """``2^-16``: the spacing is at most ``2^-7 |x_i|`` and f(1-f) at most 1/4.

        Below 2^-126 bfloat16 itself is denormal; such coordinates add up to ``2^-268`` each, which is left out here.
        """
        self._allowed(bits)
        return 2.0**-16

    def _encode(self, x: F32, bits: int, key: Key, out: U8) -> tuple[int, float, float]:
        return encode_halves(x, stream(key), out.view(np.uint16))

    def _check(self, payload: U8, d: int, bits: int) -> None:
        wrong = (
            payload.view(np.uint16) & 0x7FFF
        ) > LIMIT_HALF  # a coordinate just below `LIMIT` may be rounded up to it
        if wrong.any():
            raise ValueError(f"corrupt payload: coordinate {int(np.argmax(wrong))} is not finite")

    def add_to(self, out: F32, payload: U8, bits: int, key: Key, weight: float) -> None:
        """See `Direct.add_to`; needs no randomness."""
        add_halves(payload.view(np.uint16), np.float32(weight), out)
