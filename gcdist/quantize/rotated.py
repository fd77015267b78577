"""`rotated`: a rotation shared by all rows of a step, then `bucket`'s or `dither`'s rounding; rotated back once a step."""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import ClassVar

import numpy as np

from gcdist.quantize.base import Base, blocks, check_codes, cut, drain, require
from gcdist.quantize.bucket import Bucket
from gcdist.quantize.counter import advanced, stream
from gcdist.quantize.dither import Dither
from gcdist.quantize.grid import add_grid, encode_grid, levels, measure, scratch
from gcdist.quantize.hadamard import block_size, chunks, rotate_rounds, widest
from gcdist.quantize.lanes import LANES
from gcdist.quantize.laws import blockwise, dither_noise, grid_noise
from gcdist.quantize.packing import BLOCK, packed_bytes
from gcdist.types import F32, U8, Accumulator, Key


def _shared_rotation(key: Key) -> tuple[np.uint64]:
    return (stream(key, 1, shared=True),)


class Rotated(Base):
    """One round of signs and Hadamard on blocks of 4096 (`hadamard`), then the grid of `bucket` on the rotated vector.

    Every vector becomes about normal, so that sparse and heavy-tailed ones have the noise of dense ones. The signs depend on
    the key without its row: the master adds in the rotated domain and rotates back once.

    >>> Rotated().nbytes(1024, 4)
    520
    """

    name = "rotated"
    dithered: ClassVar[bool] = False

    def nbytes(self, d: int, bits: int) -> int:
        """``ceil(d bits / 8) + 4 ceil(d / 512)``."""
        self._allowed(bits)
        return packed_bytes(d, bits) + 4 * blocks(d)

    def noise(self, bits: int, d: int) -> float:
        """That of `bucket` (or `dither`) on normal data, on every vector not concentrated on a few coordinates."""
        self._allowed(bits)
        return blockwise(dither_noise if self.dithered else grid_noise, bits, d)

    def bound(self, bits: int, d: int) -> float:
        """``k G/(4 L^2)`` (or `bucket`'s, if less), 1 bit ``k G - 1``; ``G = 2 ln(2N) + 2``, ``N = min(512, d)``.

        Proof: a rotated coordinate is a sum of independent signs, sub-Gaussian with variance v, the mean square of its
        block. So ``P(|y_i| > t) <= 2 exp(-t^2/2v)``, and the largest of N has ``E m^2 <= G v``. A bucket's noise is at most
        ``N m^2/(4 L^2)`` (1 bit: ``N m^2 - |y|^2``; dithered: ``N m^2/(3 (2^b-1)^2)``), and ``N v`` sums to ``|x|^2``. Where
        the last transform (size n) overlaps the block before, one bucket may hold two variances, and ``N (v + v')`` is at
        most ``N |x|^2/n`` more:
        k = 1 + N/n, else 1.
        """
        self._allowed(bits)
        if d == 0:
            return 0.0
        size, n = min(BLOCK, d), block_size(d)
        most = 2 * (log(2 * size) + 1) * (1 + size / n if d % n else 1.0)
        if self.dithered:
            return min(most / (3 * ((1 << bits) - 1) ** 2), Dither().bound(bits, d))
        proven = most - 1 if bits == 1 else most / (4 * levels(bits) ** 2)
        return min(proven, Bucket().bound(bits, d))

    def _encode(self, x: F32, bits: int, key: Key, out: U8) -> tuple[int, float, float]:
        scale_S, words, tail = cut(out, len(x), bits, blocks(len(x)))
        n, energy, error = block_size(len(x)), 0.0, 0.0
        cuts = chunks(len(x), n)
        buffer = np.empty(widest(cuts), np.float32)
        for lo, hi in cuts:
            bad, _, _ = measure(x[lo:hi])
            if bad >= 0:
                return lo + bad, 0.0, 0.0
            y, first = buffer[: hi - lo], lo // BLOCK
            y[:] = x[lo:hi]
            rotate_rounds(y, n, _shared_rotation(key), lo // n, inverse=False)
            parts = scale_S[first:], words[first * LANES * bits :], tail
            bad, a, b = encode_grid(y, bits, advanced(stream(key), first), self.dithered, True, *parts, scratch())
            if bad >= 0:  # finite before the rotation, which can make one coordinate 64 times as large
                return lo + int(np.argmax(np.abs(x[lo:hi]))), 0.0, 0.0
            energy, error = energy + a, error + b
        return -1, energy, error

    def _check(self, payload: U8, d: int, bits: int) -> None:
        check_codes(payload, d, bits, blocks(d), 2.0 ** (bits - 1), signed=bits > 1 and not self.dithered)

    def accumulator(self, d: int, key: Key) -> Accumulator:
        """See `Base.accumulator`."""
        return RotatedAccumulator(self.dithered, np.zeros(d, np.float32), key)


class RotatedDither(Rotated):
    """`rotated` with subtractive dither in place of stochastic rounding: half its noise, on every vector."""

    name = "rotated-dither"
    dithered = True


@dataclass(frozen=True, slots=True, eq=False)
class RotatedAccumulator:
    """The weighted sum in the rotated domain of one step: 4 d bytes."""

    dithered: bool
    sum_D: F32
    key: Key

    def add(self, payload: U8, bits: int, row: int, weight: float) -> None:
        """``sum += weight * R Q(x)``, R the step's rotation."""
        scale_S, words, tail = cut(payload, len(self.sum_D), bits, blocks(len(self.sum_D)))
        bits64 = stream(Key(self.key.seed, self.key.step, row, self.key.segment))
        add_grid(scale_S, True, words, tail, bits, self.dithered, bits64, np.float32(weight), self.sum_D, scratch())

    def finish(self, out: F32, scale: float = 1.0) -> None:
        """``out += scale * R^-1 sum``, then empty."""
        require("out", out, np.float32, len(self.sum_D))
        n = block_size(len(out))
        for lo, hi in chunks(len(out), n):
            part_D = self.sum_D[lo:hi]
            rotate_rounds(part_D, n, _shared_rotation(self.key), lo // n, inverse=True)
            drain(part_D, np.float32(scale), out[lo:hi])
