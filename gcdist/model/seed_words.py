"""The words of numpy's ``SeedSequence`` for four numbers, ten times faster: a partition needs three of them."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numba import types, uint32
from numpy.typing import NDArray

from gcdist.quantize.jit import inlined, kernel

U64: TypeAlias = NDArray[np.uint64]
_WORDS_OUT = types.Array(types.uint64, 1, "C")
_MOST = 1 << 32  # a larger number is more than one word of entropy


@inlined
def _hashed(value: np.uint32, constant: np.uint32, factor: np.uint32) -> np.uint32:
    """numpy's ``hashmix`` with the constant of its place in the order of calls."""
    value = np.uint32(value ^ constant)
    value = np.uint32(value * np.uint32(constant * factor))
    return np.uint32(value ^ (value >> np.uint32(16)))


@inlined
def _mixed(x: np.uint32, y: np.uint32) -> np.uint32:
    """numpy's ``mix``."""
    found = np.uint32(np.uint32(np.uint32(0xCA01F9DD) * x) - np.uint32(np.uint32(0x4973F715) * y))
    return np.uint32(found ^ (found >> np.uint32(16)))


@kernel(types.void, uint32, uint32, uint32, uint32, _WORDS_OUT)
def _fill(a: int, b: int, c: int, d: int, out: U64) -> None:
    """``SeedSequence((a, b, c, d)).generate_state(len(out), uint64)``."""
    constant, factor = np.uint32(0x43B0D7E5), np.uint32(0x931E8875)
    p, q, r, s = np.uint32(a), np.uint32(b), np.uint32(c), np.uint32(d)
    p = _hashed(p, constant, factor)
    constant = np.uint32(constant * factor)
    q = _hashed(q, constant, factor)
    constant = np.uint32(constant * factor)
    r = _hashed(r, constant, factor)
    constant = np.uint32(constant * factor)
    s = _hashed(s, constant, factor)
    constant = np.uint32(constant * factor)
    for source in range(4):
        for target in range(4):
            if source == target:
                continue
            value = p if source == 0 else q if source == 1 else r if source == 2 else s
            value = _hashed(value, constant, factor)
            constant = np.uint32(constant * factor)
            if target == 0:
                p = _mixed(p, value)
            elif target == 1:
                q = _mixed(q, value)
            elif target == 2:
                r = _mixed(r, value)
            else:
                s = _mixed(s, value)
    constant, factor = np.uint32(0x8B51F9DD), np.uint32(0x58F38DED)
    for i in range(len(out)):
        low = _hashed(p if i % 2 == 0 else r, constant, factor)
        constant = np.uint32(constant * factor)
        high = _hashed(q if i % 2 == 0 else s, constant, factor)
        constant = np.uint32(constant * factor)
        out[i] = np.uint64(low) | (np.uint64(high) << np.uint64(32))


def seed_words(seed: int, purpose: int, step: int, j: int, count: int) -> U64:
    """``count`` words (uint64): those of ``np.random.SeedSequence((seed, purpose, step, j)).generate_state``.

    >>> seed_words(1, 2, 3, 4, 2).tolist() == np.random.SeedSequence((1, 2, 3, 4)).generate_state(2, np.uint64).tolist()
    True
    """
    if max(seed, purpose, step, j) >= _MOST or min(seed, purpose, step, j) < 0:
        return np.random.SeedSequence((seed, purpose, step, j)).generate_state(count, np.uint64).astype(np.uint64)
    out = np.empty(count, np.uint64)
    _fill(seed, purpose, step, j, out)
    return out
