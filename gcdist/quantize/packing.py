"""Codes of 1 to 8 bits packed into words: b bits a coordinate and nothing else.

A block of 512 codes becomes 16 b words of 32 bits. Lane j of 16 holds the codes of coordinates 16 m + j, m = 0..31, one
after the other, so that one vector instruction works on 16 neighbouring coordinates at any b. The last, shorter block
is packed little-endian, coordinate after coordinate, and padded with zero bits to a byte.
"""

from __future__ import annotations

import numpy as np

from gcdist.quantize.jit import inlined
from gcdist.quantize.lanes import LANES, U32, Words, fill_words, load_words, store_words
from gcdist.types import F32, U8

BLOCK = 512


def packed_bytes(d: int, bits: int) -> int:
    """Length of ``d`` packed codes.

    >>> packed_bytes(513, 3)
    193
    """
    return (d * bits + 7) // 8


@inlined
def copy(source: F32 | U32, start: int, target: F32 | U32, at: int, count: int) -> None:
    """``target[at : at + count] = source[start : start + count]``."""
    for i in range(count):
        target[at + i] = source[start + i]


@inlined
def clear(target: F32 | U32, count: int) -> None:
    """``target[:count] = 0``."""
    for i in range(count):
        target[i] = 0


@inlined
def put(words: U32, at: int, m: int, bits: int, code: Words) -> None:
    """Write the codes of coordinates ``16 m + j`` of the block at ``words[at:]``; m must rise from 0 to 31."""
    place, shift = at + ((m * bits) >> 5) * LANES, (m * bits) & 31
    if shift == 0:
        store_words(words, place, code)
        return
    store_words(words, place, load_words(words, place) | (code << fill_words(np.uint32(shift))))
    if shift + bits > 32:
        store_words(words, place + LANES, code >> fill_words(np.uint32(32 - shift)))


@inlined
def get(words: U32, at: int, m: int, bits: int) -> Words:
    """The codes that `put` wrote."""
    place, shift = at + ((m * bits) >> 5) * LANES, (m * bits) & 31
    code = load_words(words, place) >> fill_words(np.uint32(shift))
    if shift + bits > 32:
        code = code | (load_words(words, place + LANES) << fill_words(np.uint32(32 - shift)))
    return code & fill_words(np.uint32((1 << bits) - 1))


@inlined
def put_tail(words: U32, bits: int, count: int, tail: U8) -> None:
    """Repack the first ``count`` codes of the block ``words`` into the bytes ``tail``."""
    held, full, at = 0, 0, 0
    for i in range(count):
        held |= _one_code(words, i, bits) << full
        full += bits
        while full >= 8:
            tail[at] = np.uint8(held & 255)
            held >>= 8
            full -= 8
            at += 1
    if full > 0:
        tail[at] = np.uint8(held)


@inlined
def get_tail(tail: U8, bits: int, count: int, words: U32) -> None:
    """The inverse of `put_tail`: the block ``words``, with codes 0 after the first ``count``."""
    clear(words, LANES * bits)
    held, full, at = 0, 0, 0
    for i in range(count):
        if full < bits:
            held |= int(tail[at]) << full
            full += 8
            at += 1
        code = held & ((1 << bits) - 1)
        held >>= bits
        full -= bits
        place, shift = ((i // LANES * bits) >> 5) * LANES + i % LANES, (i // LANES * bits) & 31
        words[place] |= np.uint32((code << shift) & 0xFFFFFFFF)
        if shift + bits > 32:
            words[place + LANES] |= np.uint32(code >> (32 - shift))


@inlined
def _one_code(words: U32, i: int, bits: int) -> int:
    place, shift = ((i // LANES * bits) >> 5) * LANES + i % LANES, (i // LANES * bits) & 31
    code = int(words[place]) >> shift
    if shift + bits > 32:
        code |= int(words[place + LANES]) << (32 - shift)
    return code & ((1 << bits) - 1)


def check_padding(tail: U8, count: int, bits: int) -> None:
    """ValueError if the bits after the last of ``count`` codes are not zero."""
    used = count * bits % 8
    if used and int(tail[-1]) >> used:
        raise ValueError("corrupt payload: bits after the last coordinate are not zero")
