"""`dither`: subtractive dither on a max-norm grid, half the noise of stochastic rounding at the same bits."""

from __future__ import annotations

import numpy as np

from gcdist.quantize.base import Direct, blocks, check_codes, cut
from gcdist.quantize.counter import stream
from gcdist.quantize.grid import add_grid, encode_grid, scratch
from gcdist.quantize.laws import blockwise, dither_noise
from gcdist.quantize.packing import BLOCK, packed_bytes
from gcdist.types import F32, U8, Key


class Dither(Direct):
    """Both ends draw u from the key; ``q = floor(x/s + u + 1/2)`` is sent and ``(q - u) s`` is the value (`grid`).

    The error is uniform on ``(-s/2, s/2]`` whatever x is: exactly unbiased, variance ``s^2/12``. The price: zeros do
    not stay zero in a bucket with other values. ``s = 2 max|x| / (2^b - 1)`` per bucket of 512, which costs one float32.

    >>> Dither().nbytes(1024, 4)  # 1024 half bytes and two scales
    520
    """

    name = "dither"

    def nbytes(self, d: int, bits: int) -> int:
        """``ceil(d bits / 8) + 4 ceil(d / 512)``."""
        self._allowed(bits)
        return packed_bytes(d, bits) + 4 * blocks(d)

    def noise(self, bits: int, d: int) -> float:
        """See `laws.dither_noise`."""
        self._allowed(bits)
        return blockwise(dither_noise, bits, d)

    def bound(self, bits: int, d: int) -> float:
        """``min(512, d) / (3 (2^b - 1)^2)``: the variance is ``s^2/12`` each, and ``|x| >= max|x| = (2^b - 1) s / 2``."""
        self._allowed(bits)
        return min(BLOCK, d) / (3 * ((1 << bits) - 1) ** 2)

    def _encode(self, x: F32, bits: int, key: Key, out: U8) -> tuple[int, float, float]:
        parts = cut(out, len(x), bits, blocks(len(x)))
        return encode_grid(x, bits, stream(key), True, True, *parts, scratch())

    def _check(self, payload: U8, d: int, bits: int) -> None:
        check_codes(payload, d, bits, blocks(d), 2.0 ** (bits - 1), signed=False)

    def add_to(self, out: F32, payload: U8, bits: int, key: Key, weight: float) -> None:
        """See `Direct.add_to`; draws the sender's u again."""
        scale_S, words, tail = cut(payload, len(out), bits, blocks(len(out)))
        add_grid(scale_S, True, words, tail, bits, True, stream(key), np.float32(weight), out, scratch())
