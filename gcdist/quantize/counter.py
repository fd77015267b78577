"""Counter-based randomness: any coordinate's random number from a `Key`, at either end, in any order.

A key becomes 64 bits by splitmix64; each block of 512 coordinates draws its own 64 bits from them; a coordinate's 32 bits
are a two-multiplication mix of its place in the block, with half of the block's bits entering before each multiplication.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from gcdist.quantize.jit import inlined
from gcdist.quantize.lanes import Words, fill_words, numbered
from gcdist.types import Key

_MASK = (1 << 64) - 1
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_A = np.uint64(0xBF58476D1CE4E5B9)
_MIX_B = np.uint64(0x94D049BB133111EB)
_LOW = np.uint64(0xFFFFFFFF)
_MUL_A = np.uint32(0x7FEB352D)
_MUL_B = np.uint32(0x846CA68B)
_15, _16 = np.uint32(15), np.uint32(16)


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


@lru_cache(64)
def prefix(seed: int, step: int, purpose: int = 0) -> np.uint64:
    """The common part of `stream` for all segments and rows of a step; `stream_of` completes it in a kernel."""
    z = _mix(seed & _MASK)
    for word in (purpose, step):
        z = _mix(z ^ (word & _MASK))
    return np.uint64(z)


@inlined
def mixed(z: np.uint64) -> np.uint64:
    """`_mix` in kernels."""
    z = z + _GOLDEN
    z = (z ^ (z >> np.uint64(30))) * _MIX_A
    z = (z ^ (z >> np.uint64(27))) * _MIX_B
    return z ^ (z >> np.uint64(31))


@inlined
def stream_of(start: np.uint64, segment: int, row: int) -> np.uint64:
    """`stream` of one segment and row; ``row`` -1: shared by all."""
    return mixed(mixed(start ^ np.uint64(segment)) ^ np.uint64(row))


def advanced(bits: np.uint64, blocks: int) -> np.uint64:
    """The stream from block number ``blocks`` on."""
    return np.uint64((int(bits) + blocks * int(_GOLDEN)) & _MASK)


@inlined
def block_bits(bits: np.uint64, block: int) -> np.uint64:
    """The 64 bits of block number ``block`` of a stream."""
    z = bits + (np.uint64(block) + np.uint64(1)) * _GOLDEN
    z = (z ^ (z >> np.uint64(30))) * _MIX_A
    z = (z ^ (z >> np.uint64(27))) * _MIX_B
    return z ^ (z >> np.uint64(31))


@inlined
def block_lanes(bits: np.uint64, block: int) -> tuple[Words, Words]:
    """The two halves of a block's bits, in all lanes."""
    z = block_bits(bits, block)
    return fill_words(np.uint32(z & _LOW)), fill_words(np.uint32(z >> np.uint64(32)))


@inlined
def hashed(i: int, low: Words, high: Words) -> Words:
    """32 random bits of each of the places ``i`` to ``i + 15`` of a block; the upper ones are the best mixed."""
    x = numbered(np.uint32(i)) ^ low
    x = (x ^ (x >> fill_words(_16))) * fill_words(_MUL_A)
    x = x ^ (x >> fill_words(_15)) ^ high
    return x * fill_words(_MUL_B)
