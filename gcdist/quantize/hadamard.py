"""Random rotations: random signs, then a Hadamard transform, block by block of 4096.

The block is n = 4096, or the largest power of two within d if that is less. Where n does not divide d, one more transform
covers the last n coordinates, overlapping the block before, so that every coordinate is mixed with at least n - 1 others and
nothing is padded. Each transform is orthonormal to float32 rounding, and so is their product.
"""

from __future__ import annotations

import numpy as np
from numba import boolean, int64, types, uint64

from gcdist.quantize.counter import block_lanes, hashed
from gcdist.quantize.jit import FLOATS_OUT, SCRATCH, inlined, kernel
from gcdist.quantize.lanes import (
    LANES,
    Floats,
    Words,
    bits_of,
    fill,
    fill_words,
    floats_of,
    load,
    mirror1,
    mirror2,
    mirror4,
    mirror8,
    numbered,
    store,
)
from gcdist.quantize.packing import clear, copy
from gcdist.types import F32

SIZE = 4096
_SIGN = np.uint32(0x80000000)


def block_size(d: int) -> int:
    """Size n of the transforms of ``d`` coordinates.

    >>> [block_size(d) for d in (0, 1, 13, 4095, 10**6)]
    [1, 1, 8, 2048, 4096]
    """
    return min(SIZE, 1 << max(d.bit_length() - 1, 0))


@inlined
def mix_lanes(v: Floats, n: int) -> Floats:
    """Hadamard transform of the 16 lanes, or of groups of n < 16 of them."""
    i = numbered(np.uint32(0))
    if n > 1:
        v = mirror1(v) + floats_of(bits_of(v) ^ (i << fill_words(np.uint32(31))))
    if n > 2:
        v = mirror2(v) + floats_of(bits_of(v) ^ ((i << fill_words(np.uint32(30))) & fill_words(_SIGN)))
    if n > 4:
        v = mirror4(v) + floats_of(bits_of(v) ^ ((i << fill_words(np.uint32(29))) & fill_words(_SIGN)))
    if n > 8:
        v = mirror8(v) + floats_of(bits_of(v) ^ ((i << fill_words(np.uint32(28))) & fill_words(_SIGN)))
    return v


@inlined
def mix_eight(y: F32, at: int, n: int, stride: int) -> None:
    """Three levels of the transform: strides ``stride``, 2 and 4 times that."""
    for base in range(at, at + n, 8 * stride):
        for i in range(base, base + stride, LANES):
            a, b = load(y, i), load(y, i + stride)
            c, d = load(y, i + 2 * stride), load(y, i + 3 * stride)
            e, f = load(y, i + 4 * stride), load(y, i + 5 * stride)
            g, h = load(y, i + 6 * stride), load(y, i + 7 * stride)
            a, b, c, d, e, f, g, h = a + b, a - b, c + d, c - d, e + f, e - f, g + h, g - h
            a, c, b, d, e, g, f, h = a + c, a - c, b + d, b - d, e + g, e - g, f + h, f - h
            store(y, i, a + e)
            store(y, i + stride, b + f)
            store(y, i + 2 * stride, c + g)
            store(y, i + 3 * stride, d + h)
            store(y, i + 4 * stride, a - e)
            store(y, i + 5 * stride, b - f)
            store(y, i + 6 * stride, c - g)
            store(y, i + 7 * stride, d - h)


@inlined
def mix_two(y: F32, at: int, n: int, stride: int) -> None:
    """One level of the transform."""
    for base in range(at, at + n, 2 * stride):
        for i in range(base, base + stride, LANES):
            a, b = load(y, i), load(y, i + stride)
            store(y, i, a + b)
            store(y, i + stride, a - b)


@inlined
def signed(v: Floats, signs: Words, m: int) -> Floats:
    """Flip the lanes where bit ``m`` of ``signs`` is set."""
    return floats_of(bits_of(v) ^ ((signs << fill_words(np.uint32(31 - m))) & fill_words(_SIGN)))


@inlined
def transform(y: F32, at: int, n: int, key_bits: np.uint64, number: int, inverse: bool) -> None:
    """Signs then Hadamard on ``y[at : at + n]``, n >= 16, or the inverse; transform ``number`` has its own signs."""
    k0, k1 = block_lanes(key_bits, number)
    norm = fill(np.float32(1 / np.sqrt(np.float64(n))))
    signs = fill_words(np.uint32(0))
    for i in range(0, n, LANES):
        if i & 511 == 0:
            signs = hashed(i >> 5, k0, k1)
        v = load(y, at + i) * norm
        if not inverse:
            v = signed(v, signs, (i >> 4) & 31)
        store(y, at + i, mix_lanes(v, n))
    stride = LANES
    while 8 * stride <= n:
        mix_eight(y, at, n, stride)
        stride *= 8
    while 2 * stride <= n:
        mix_two(y, at, n, stride)
        stride *= 2
    if inverse:
        for i in range(0, n, LANES):
            if i & 511 == 0:
                signs = hashed(i >> 5, k0, k1)
            store(y, at + i, signed(load(y, at + i), signs, (i >> 4) & 31))


@inlined
def transform_any(y: F32, at: int, n: int, key_bits: np.uint64, number: int, inverse: bool, lanes: F32) -> None:
    """`transform` for any n; ``lanes`` is scratch of 16."""
    if n >= LANES:
        transform(y, at, n, key_bits, number, inverse)
        return
    k0, k1 = block_lanes(key_bits, number)
    signs = hashed(0, k0, k1)
    clear(lanes, LANES)
    copy(y, at, lanes, 0, n)
    v = load(lanes, 0) * fill(np.float32(1 / np.sqrt(np.float64(n))))
    v = signed(mix_lanes(v, n), signs, 0) if inverse else mix_lanes(signed(v, signs, 0), n)
    store(lanes, 0, v)
    copy(lanes, 0, y, at, n)


@inlined
def rotate_part(y: F32, n: int, key_bits: np.uint64, first: int, inverse: bool, lanes: F32) -> None:
    """See `rotate`."""
    full = len(y) // n
    rest = len(y) - full * n
    if rest > 0 and inverse:
        transform_any(y, len(y) - n, n, key_bits, first + full, True, lanes)
    for block in range(full):
        transform_any(y, block * n, n, key_bits, first + block, inverse, lanes)
    if rest > 0 and not inverse:
        transform_any(y, len(y) - n, n, key_bits, first + full, False, lanes)


@kernel(types.void, FLOATS_OUT, int64, uint64, int64, boolean, SCRATCH)
def rotate(y: F32, n: int, key_bits: np.uint64, first: int, inverse: bool, lanes: F32) -> None:
    """Rotate ``y`` in place, or back; its first block is number ``first`` of the vector, n the vector's `block_size`."""
    rotate_part(y, n, key_bits, first, inverse, lanes)


@inlined
def stride_of(m: int) -> int:
    """A stride without common divisor with ``m``, near 0.618 m: its multiples modulo m spread evenly over 0..m-1."""
    stride = int(m * 0.6180339887498949)
    while True:
        stride += 1
        a, b = m, stride
        while b != 0:
            a, b = b, a % b
        if a == 1:
            return stride


@kernel(types.void, FLOATS_OUT, int64, uint64, int64, boolean, SCRATCH, SCRATCH)
def rotate_woven(y: F32, n: int, key_bits: np.uint64, first: int, inverse: bool, lanes: F32, spare: F32) -> None:
    """`rotate`, but two overlapping last transforms both take coordinates from their whole range, not from one side.

    After `rotate` the energy per coordinate differs between the two; here it is even. ``spare`` is scratch of 2 n.
    """
    full = len(y) // n
    rest = len(y) - full * n
    for block in range(full if rest == 0 else full - 1):
        transform_any(y, block * n, n, key_bits, first + block, inverse, lanes)
    if rest == 0:
        return
    at, m = (full - 1) * n, n + rest
    stride = stride_of(m)
    place = 0
    for i in range(m):
        spare[i] = y[at + place]
        place += stride
        if place >= m:
            place -= m
    if inverse:
        transform_any(spare, rest, n, key_bits, first + full, True, lanes)
    transform_any(spare, 0, n, key_bits, first + full - 1, inverse, lanes)
    if not inverse:
        transform_any(spare, rest, n, key_bits, first + full, False, lanes)
    for i in range(m):
        y[at + place] = spare[i]
        place += stride
        if place >= m:
            place -= m


def rotate_rounds(y: F32, n: int, keys: tuple[np.uint64, ...], first: int, *, inverse: bool) -> None:
    """One rotation after another, in place; ``inverse`` undoes them."""
    lanes = np.empty(LANES, np.float32)
    for key_bits in reversed(keys) if inverse else keys:
        rotate(y, n, key_bits, first, inverse, lanes)


def chunks(d: int, n: int, per: int = 16) -> list[tuple[int, int]]:
    """Cuts of a vector at multiples of ``per`` blocks of n, small enough for a cache; the last holds the rest.

    >>> chunks(20, 4, per=2), chunks(9, 4, per=1), chunks(0, 1)
    ([(0, 8), (8, 16), (16, 20)], [(0, 4), (4, 9)], [])
    """
    edges = list(range(0, max(d // n, 1) * n, per * n))
    return [(lo, hi) for lo, hi in zip(edges, [*edges[1:], d], strict=True) if hi > lo]


def widest(cuts: list[tuple[int, int]]) -> int:
    """Length of the longest of ``cuts``, for one buffer."""
    return max((hi - lo for lo, hi in cuts), default=0)
