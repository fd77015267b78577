"""`bucket`: stochastic rounding to the extremes of each bucket of 512 coordinates."""

from __future__ import annotations

from math import sqrt

import numpy as np

from gcdist.quantize.base import Direct, blocks, check_codes, cut
from gcdist.quantize.counter import stream
from gcdist.quantize.grid import add_grid, encode_grid, levels, scratch
from gcdist.quantize.laws import blockwise, grid_noise
from gcdist.quantize.packing import BLOCK, packed_bytes
from gcdist.types import F32, U8, Key


class Bucket(Direct):
    """Max-norm per bucket of 512, an exact zero level from 2 bits up (`grid`), one float32 of overhead per bucket.

    Unbiased for every vector, to 2^-24 of a bucket's largest coordinate.

    >>> Bucket().nbytes(1024, 4)  # 1024 half bytes and two scales
    520
    """

    name = "bucket"

    def nbytes(self, d: int, bits: int) -> int:
        """``ceil(d bits / 8) + 4 ceil(d / 512)``."""
        self._allowed(bits)
        return packed_bytes(d, bits) + 4 * blocks(d)

    def noise(self, bits: int, d: int) -> float:
        """See `laws.grid_noise`."""
        self._allowed(bits)
        return blockwise(grid_noise, bits, d)

    def bound(self, bits: int, d: int) -> float:
        """``(sqrt(1 + N/A) - 1)/2``, ``N = min(512, d) - 1``, ``A = min((L+1)^2, 2 L^2)``; for 1 bit N.

        Proof, per bucket, in steps t of its scale. Either the larger extreme is on the level L + 1, without noise, with
        energy ``(L+1)^2``; or the smaller is on the level L and the larger at L + f: energy ``2 L^2`` and at least ``f^2``.
        Every other coordinate, at f beyond a level, has noise ``f(1-f)`` and energy at least ``f^2``. So
        ``omega <= max sum f(1-f) / (A + sum f^2)``: for a given ratio each f solves the same concave problem, so all are
        equal, and ``f = (sqrt(A^2 + N A) - A)/N`` gives the bound. 1 bit: the noise is ``sum m^2 - t^2``, the energy
        at least ``m^2``.
        """
        self._allowed(bits)
        others = max(min(BLOCK, d) - 1, 0)
        least = min((levels(bits) + 1) ** 2, 2 * levels(bits) ** 2)
        return float(others) if bits == 1 else (sqrt(1 + others / least) - 1) / 2

    def _encode(self, x: F32, bits: int, key: Key, out: U8) -> tuple[int, float, float]:
        return encode_grid(x, bits, stream(key), False, True, *cut(out, len(x), bits, blocks(len(x))), scratch())

    def _check(self, payload: U8, d: int, bits: int) -> None:
        check_codes(payload, d, bits, blocks(d), levels(bits) + (bits > 1), signed=bits > 1)

    def add_to(self, out: F32, payload: U8, bits: int, key: Key, weight: float) -> None:
        """See `Direct.add_to`; needs no randomness."""
        scale_S, words, tail = cut(payload, len(out), bits, blocks(len(out)))
        add_grid(scale_S, True, words, tail, bits, False, stream(key), np.float32(weight), out, scratch())
