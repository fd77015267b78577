"""Counter-based randomness: any coordinate's random number from a `Key`, at either end, in any order.

A key becomes 64 bits by splitmix64; each block of 512 coordinates draws its own 64 bits from them; a coordinate's 32 bits
are a two-multiplication mix of its place in the block, with half of the block's bits entering before each multiplication.
"""

from __future__ import annotations

import numpy as np

from gcdist.quantize.jit import inlined
from gcdist.types import Key

_MASK = (1 << 64) - 1
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_A = np.uint64(0xBF58476D1CE4E5B9)
_MIX_B = np.uint64(0x94D049BB133111EB)
_LOW = np.uint64(0xFFFFFFFF)
_MUL_A = np.uint32(0x7FEB352D)
_MUL_B = np.uint32(0x846CA68B)
_UNIT = np.float32(2.0**-24)


def _mix(z: int) -> int:
    """One output of splitmix64."""
    z = (z + int(_GOLDEN)) & _MASK
    z = ((z ^ (z >> 30)) * int(_MIX_A)) & _MASK
    z = ((z ^ (z >> 27)) * int(_MIX_B)) & _MASK
    return z ^ (z >> 31)


def stream(key: Key, purpose: int = 0, *, shared: bool = False) -> np.uint64:
    """The 64 bits of one use of ``key``; ``shared`` leaves out its row, so that all rows of a step agree.

    >>> a, b = Key(seed=1, step=2, row=3, segment=0), Key(seed=1, step=2, row=4, segment=0)
    >>> bool(stream(a) == stream(b)), bool(stream(a, shared=True) == stream(b, shared=True))
    (False, True)
    """
    z = _mix(key.seed & _MASK)
    for word in (purpose, key.step, key.segment, -1 if shared else key.row):
        z = _mix(z ^ (word & _MASK))
    return np.uint64(z)


@inlined
def block_bits(bits: np.uint64, block: int) -> np.uint64:
    """The 64 bits of block number ``block`` of a stream."""
    z = bits + (np.uint64(block) + np.uint64(1)) * _GOLDEN
    z = (z ^ (z >> np.uint64(30))) * _MIX_A
    z = (z ^ (z >> np.uint64(27))) * _MIX_B
    return z ^ (z >> np.uint64(31))


@inlined
def low_word(bits: np.uint64) -> np.uint32:
    """The lower 32 of a block's bits."""
    return np.uint32(bits & _LOW)


@inlined
def high_word(bits: np.uint64) -> np.uint32:
    """The upper 32 of a block's bits."""
    return np.uint32(bits >> np.uint64(32))


@inlined
def hash32(i: int, low: np.uint32, high: np.uint32) -> np.uint32:
    """32 random bits of place ``i`` in a block; the upper ones are the best mixed."""
    x = np.uint32(np.uint32(i) ^ low)
    x = np.uint32(x ^ np.uint32(x >> np.uint32(16)))
    x = np.uint32(x * _MUL_A)
    x = np.uint32(x ^ np.uint32(x >> np.uint32(15)))
    x = np.uint32(x ^ high)
    return np.uint32(x * _MUL_B)


@inlined
def uniform(i: int, low: np.uint32, high: np.uint32) -> np.float32:
    """A multiple of 2^-24 in [0, 1)."""
    return np.float32(np.int32(hash32(i, low, high) >> np.uint32(8))) * _UNIT
