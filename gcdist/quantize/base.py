"""What all quantizers share: checked arguments, the cut of a payload into scales and codes, and the plain accumulator."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numba import float32, types

from gcdist.quantize.jit import FLOATS_OUT, kernel
from gcdist.quantize.lanes import U32
from gcdist.quantize.packing import BLOCK, check_padding, packed_bytes
from gcdist.types import F32, U8, Accumulator, Encoded, Key, NonFiniteError

# The largest level that `encode` can send, with room for a grid's longer side. Decoding and the rotation back enlarge it by
# 64 at most, by 91 where two transforms overlap. The result is a finite float32, so that no message that passes `check`
# decodes to NaN.
HIGHEST = 2.0**120
PACKED = (1, 2, 3, 4, 5, 6, 7, 8)


class Base(ABC):
    """A quantizer without its arithmetic; subclasses give ``_encode``, ``_check`` and an accumulator."""

    name: ClassVar[str]
    unbiased: ClassVar[bool] = True
    bits_allowed: ClassVar[tuple[int, ...]] = PACKED

    def _allowed(self, bits: int) -> None:
        if bits not in self.bits_allowed:
            allowed = ", ".join(map(str, self.bits_allowed))
            raise ValueError(f"quantizer {self.name!r} takes bits {allowed}; got {bits}")

    @abstractmethod
    def nbytes(self, d: int, bits: int) -> int:
        """Exact payload length of ``d`` coordinates at ``bits`` packed bits."""

    @abstractmethod
    def noise(self, bits: int, d: int) -> float:
        """``E|Q(x)-x|^2/|x|^2`` expected on dense data."""

    @abstractmethod
    def bound(self, bits: int, d: int) -> float:
        """A proven upper bound of ``E|Q(x)-x|^2/|x|^2`` for every x; inf if there is none."""

    def encode(self, x: F32, bits: int, key: Key, out: U8) -> Encoded:
        """Pack ``x`` (d,) float32 into ``out`` (nbytes,) uint8; NonFiniteError with the first NaN or infinite coordinate."""
        self._allowed(bits)
        require("x", x, np.float32, None)
        require("out", out, np.uint8, self.nbytes(len(x), bits))
        bad, energy, error = self._encode(x, bits, key, out)
        if bad >= 0:
            raise NonFiniteError(int(bad))
        return Encoded(float(energy), float(error))

    @abstractmethod
    def _encode(self, x: F32, bits: int, key: Key, out: U8) -> tuple[int, float, float]:
        """Fill ``out``; returns the first non-finite coordinate (or -1), ``|x|^2`` and ``|Q(x)-x|^2``."""

    def check(self, payload: U8, d: int, bits: int) -> None:
        """ValueError if ``payload`` is not a well-formed message of (d, bits); ``add`` takes every accepted one."""
        self._allowed(bits)
        require("payload", payload, np.uint8, self.nbytes(d, bits))
        self._check(payload, d, bits)

    @abstractmethod
    def _check(self, payload: U8, d: int, bits: int) -> None:
        """ValueError if the values in a payload of the right length cannot come from ``encode``."""

    @abstractmethod
    def accumulator(self, d: int, key: Key) -> Accumulator:
        """An empty accumulator of one (step, segment); ``key.row`` is ignored."""

    def decode(self, payload: U8, d: int, bits: int, key: Key, out: F32) -> None:
        """Write Q(x) into ``out`` (d,): the bits that an accumulator with weight 1 adds to zeros."""
        out[:] = 0
        sums = self.accumulator(d, key)
        sums.add(payload, bits, key.row, 1.0)
        sums.finish(out)


class Direct(Base):
    """A quantizer whose messages are added coordinate by coordinate, without a rotation shared by the rows of a step."""

    @abstractmethod
    def add_to(self, out: F32, payload: U8, bits: int, key: Key, weight: float) -> None:
        """``out += weight * Q(x)`` for a checked payload."""

    def accumulator(self, d: int, key: Key) -> Accumulator:
        """See `Base.accumulator`."""
        return DirectAccumulator(self, np.zeros(d, np.float32), key)

    def decode(self, payload: U8, d: int, bits: int, key: Key, out: F32) -> None:
        """See `Base.decode`; needs no second vector."""
        require("out", out, np.float32, d)
        out[:] = 0
        self.add_to(out, payload, bits, key, 1.0)


@dataclass(frozen=True, slots=True, eq=False)
class DirectAccumulator:
    """The weighted sum itself, in float32: 4 d bytes."""

    quantizer: Direct
    sum_D: F32
    key: Key

    def add(self, payload: U8, bits: int, row: int, weight: float) -> None:
        """``sum += weight * Q(x)``."""
        key = Key(self.key.seed, self.key.step, row, self.key.segment)
        self.quantizer.add_to(self.sum_D, payload, bits, key, weight)

    def finish(self, out: F32, scale: float = 1.0) -> None:
        """``out += scale * sum``, then empty."""
        require("out", out, np.float32, len(self.sum_D))
        drain(self.sum_D, np.float32(scale), out)


@kernel(types.void, FLOATS_OUT, float32, FLOATS_OUT)
def drain(sum_D: F32, scale: np.float32, out: F32) -> None:
    """``out += scale * sum``; ``sum = 0``."""
    for i in range(len(sum_D)):
        out[i] += scale * sum_D[i]
        sum_D[i] = 0


def require(what: str, array: Any, dtype: type, length: int | None) -> None:
    """ValueError unless ``array`` is a contiguous vector of ``dtype`` and ``length``."""
    if not (isinstance(array, np.ndarray) and array.ndim == 1 and array.dtype == dtype and array.flags.c_contiguous):
        found = f"{array.dtype} of shape {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        raise ValueError(f"{what} must be a contiguous vector of {np.dtype(dtype)}; got {found}")
    if length is not None and len(array) != length:
        raise ValueError(f"{what} has {len(array)} entries; {length} are needed")


def blocks(d: int, size: int = BLOCK) -> int:
    """Number of blocks that cover ``d`` coordinates."""
    return -(-d // size)


def cut(payload: U8, d: int, bits: int, scales: int) -> tuple[F32, U32, U8]:
    """Views of a payload: its float32 scales, the words of full blocks, the bytes of the last block."""
    first = 4 * scales
    last = first + packed_bytes(d // BLOCK * BLOCK, bits)
    return payload[:first].view(np.float32), payload[first:last].view(np.uint32), payload[last:]


def check_codes(payload: U8, d: int, bits: int, scales: int, levels: float, *, signed: bool) -> None:
    """ValueError if a scale is NaN, beyond `HIGHEST` at ``levels``, negative (unless ``signed``), or padding is set."""
    scale_S, _, tail = cut(payload, d, bits, scales)
    right_S = (np.abs(scale_S).astype(np.float64) * levels <= HIGHEST) & ((scale_S >= 0) | signed)
    if not right_S.all():
        bad = int(np.argmin(right_S))
        raise ValueError(f"corrupt payload: scale {bad} is {scale_S[bad]}")
    check_padding(tail, d % BLOCK, bits)
