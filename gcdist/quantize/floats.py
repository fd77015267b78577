"""`float32`: the vector as it is."""

from __future__ import annotations

import numpy as np
from numba import float32, types

from gcdist.quantize.base import Direct, first_nonfinite
from gcdist.quantize.jit import FLOATS_IN, FLOATS_OUT, kernel
from gcdist.types import F32, U8, Key


@kernel(types.void, FLOATS_IN, float32, FLOATS_OUT)
def add_floats(x: F32, weight: np.float32, out: F32) -> None:
    """``out += weight * x``."""
    for i in range(len(out)):
        out[i] += weight * x[i]


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
        return first_nonfinite(x), float(np.dot(x.astype(np.float64), x)), 0.0

    def _check(self, payload: U8, d: int, bits: int) -> None:
        bad = first_nonfinite(payload.view(np.float32))
        if bad >= 0:
            raise ValueError(f"corrupt payload: coordinate {bad} is not finite")

    def add_to(self, out: F32, payload: U8, bits: int, key: Key, weight: float) -> None:
        """See `Direct.add_to`."""
        add_floats(payload.view(np.float32), np.float32(weight), out)
