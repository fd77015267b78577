"""Numbers that follow from their arguments alone: the same at both ends and on every machine."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from gcdist.types import I64

U64: TypeAlias = NDArray[np.uint64]

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


def hashed(*words: int, begin: int = _GOLDEN) -> int:
    """64 bits that depend on the words and their order; words may be negative.

    Each word goes through the finalizer of splitmix64 (Steele, Lea and Flood 2014).

    ``begin``: the hash of the words before them, where many share these.

    >>> hashed(0, 1, 2) == hashed(0, 1, 2) != hashed(0, 2, 1)
    True
    >>> hashed(2, begin=hashed(0, 1)) == hashed(0, 1, 2)
    True
    """
    x = begin
    for word in words:
        x = (x + word * _GOLDEN + 0xD1B54A32D192ED03) & _MASK
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
        x ^= x >> 31
    return x


def hashed_many(word_N: I64, begin: U64) -> U64:
    """`hashed` of one more word each, (N,); ``begin`` (N,) or one number: the hash of the words before them.

    >>> begin = np.array([hashed(0, 1), hashed(0, 2)], np.uint64)
    >>> hashed_many(np.array([7, -8]), begin).tolist() == [hashed(0, 1, 7), hashed(0, 2, -8)]
    True
    """
    x: U64 = begin + word_N.astype(np.uint64) * np.uint64(_GOLDEN) + np.uint64(0xD1B54A32D192ED03)  # numpy wraps round
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
