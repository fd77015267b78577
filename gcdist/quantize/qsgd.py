"""`qsgd`: stochastic rounding on one grid of the whole vector's l2 norm, as in the papers; for comparison."""

from __future__ import annotations

from math import sqrt

import numpy as np

from gcdist.quantize.base import Direct, check_codes, cut
from gcdist.quantize.counter import stream
from gcdist.quantize.grid import LIMIT, add_grid, encode_grid, levels, measure, scratch
from gcdist.quantize.laws import qsgd_noise
from gcdist.quantize.packing import packed_bytes
from gcdist.types import F32, U8, Key


class Qsgd(Direct):
    """Alistarh et al., 2017: ``s = |x|_2 / L``, ``L = 2^(b-1) - 1`` magnitude levels and a sign in b packed bits.

    The papers' b magnitude bits are ``b + 1`` here. One float32 of overhead a vector.

    >>> Qsgd().nbytes(1024, 4)
    516
    """

    name = "qsgd"
    bits_allowed = (2, 3, 4, 5, 6, 7, 8)

    def nbytes(self, d: int, bits: int) -> int:
        """``ceil(d bits / 8) + 4``; 0 for d = 0."""
        self._allowed(bits)
        return packed_bytes(d, bits) + 4 * min(d, 1)

    def noise(self, bits: int, d: int) -> float:
        """See `laws.qsgd_noise`."""
        self._allowed(bits)
        return qsgd_noise(levels(bits), d)

    def bound(self, bits: int, d: int) -> float:
        """``min(d/(4 L^2), sqrt(d)/L)``.

        Proof, x in steps t of ``s = |x|_2/L``: at fraction f of a step the noise is ``f(1-f) <= 1/4``, and at most ``|t|``;
        the sums are d/4 and ``|t|_1 <= sqrt(d) |t|_2``, and the energy is ``|t|_2^2 = L^2``.
        """
        self._allowed(bits)
        return min(d / (4 * levels(bits) ** 2), sqrt(d) / levels(bits))

    def _encode(self, x: F32, bits: int, key: Key, out: U8) -> tuple[int, float, float]:
        scale_S, words, tail = cut(out, len(x), bits, min(len(x), 1))
        bad, energy, top = measure(x)
        if bad >= 0:
            return bad, 0.0, 0.0
        scale_S[:] = np.float32(min(sqrt(energy) / levels(bits), LIMIT))  # covers every coordinate
        if len(x):  # norms of denormals round down
            scale_S[0] = max(scale_S[0], np.float32(np.ceil(top / levels(bits) / 2.0**-149) * 2.0**-149))
        return encode_grid(x, bits, stream(key), False, False, scale_S, words, tail, scratch())

    def _check(self, payload: U8, d: int, bits: int) -> None:
        check_codes(payload, d, bits, min(d, 1), 1.0, signed=False)  # at most 128 steps of it, and no rotation

    def add_to(self, out: F32, payload: U8, bits: int, key: Key, weight: float) -> None:
        """See `Direct.add_to`; needs no randomness."""
        scale_S, words, tail = cut(payload, len(out), bits, min(len(out), 1))
        add_grid(scale_S, False, words, tail, bits, False, stream(key), np.float32(weight), out, scratch())
