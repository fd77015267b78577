"""Numbers that follow from their arguments alone: the same at both ends and on every machine."""

from __future__ import annotations

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
