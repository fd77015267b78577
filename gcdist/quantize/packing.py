"""Codes of 1 to 8 bits packed into words: b bits a coordinate and nothing else.

A block of 512 codes becomes 16 b words of 32 bits. Lane j of 16 holds the codes of coordinates 16 m + j, m = 0..31, one
after the other, so that one vector instruction works on 16 neighbouring coordinates at any b. The last, shorter block
is packed little-endian, coordinate after coordinate, and padded with zero bits to a byte.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from gcdist.quantize.jit import inlined
from gcdist.types import U8

U32: TypeAlias = NDArray[np.uint32]

BLOCK = 512
_LANES = 16


def packed_bytes(d: int, bits: int) -> int:
    """Length of ``d`` packed codes.

    >>> packed_bytes(513, 3)
    193
    """
    return (d * bits + 7) // 8


@inlined
def pack_block(code: U32, words: U32, at: int, bits: int) -> None:
    """Pack ``code`` (512,) uint32 into ``words[at : at + 16 bits]``."""
    for w in range(at, at + _LANES * bits):
        words[w] = 0
    for m in range(32):
        word = at + ((m * bits) >> 5) * _LANES
        shift = np.uint32((m * bits) & 31)
        for j in range(_LANES):
            words[word + j] |= np.uint32(code[m * _LANES + j] << shift)
        if shift + bits > 32:
            rest = np.uint32(np.uint32(32) - shift)
            for j in range(_LANES):
                words[word + _LANES + j] = np.uint32(code[m * _LANES + j] >> rest)


@inlined
def unpack_block(words: U32, at: int, bits: int, code: U32) -> None:
    """The inverse of `pack_block`."""
    mask = np.uint32((1 << bits) - 1)
    for m in range(32):
        word = at + ((m * bits) >> 5) * _LANES
        shift = np.uint32((m * bits) & 31)
        if shift + bits > 32:
            rest = np.uint32(np.uint32(32) - shift)
            for j in range(_LANES):
                both = np.uint32(words[word + j] >> shift) | np.uint32(words[word + _LANES + j] << rest)
                code[m * _LANES + j] = np.uint32(both) & mask
        else:
            for j in range(_LANES):
                code[m * _LANES + j] = np.uint32(words[word + j] >> shift) & mask


@inlined
def pack_tail(code: U32, count: int, tail: U8, bits: int) -> None:
    """Pack ``code[:count]`` into the bytes ``tail``."""
    held, full, at = 0, 0, 0
    for i in range(count):
        held |= int(code[i]) << full
        full += bits
        while full >= 8:
            tail[at] = np.uint8(held & 255)
            held >>= 8
            full -= 8
            at += 1
    if full > 0:
        tail[at] = np.uint8(held)


@inlined
def unpack_tail(tail: U8, bits: int, code: U32, count: int) -> None:
    """The inverse of `pack_tail`."""
    held, full, at = 0, 0, 0
    mask = (1 << bits) - 1
    for i in range(count):
        if full < bits:
            held |= int(tail[at]) << full
            full += 8
            at += 1
        code[i] = np.uint32(held & mask)
        held >>= bits
        full -= bits


def check_padding(tail: U8, count: int, bits: int) -> None:
    """ValueError if the bits after the last of ``count`` codes are not zero."""
    used = count * bits % 8
    if used and int(tail[-1]) >> used:
        raise ValueError("corrupt payload: bits after the last coordinate are not zero")
