"""Numbers that follow from their arguments alone: the same at both ends and on every machine."""

from __future__ import annotations

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


def mix(x: int) -> int:
    """The 64-bit finalizer of splitmix64 (Steele, Lea and Flood 2014)."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


def hashed(*words: int) -> int:
    """64 bits that depend on the words and their order; words may be negative.

    >>> hashed(0, 1, 2) == hashed(0, 1, 2) != hashed(0, 2, 1)
    True
    """
    x = _GOLDEN
    for word in words:
        x = mix((x + word * _GOLDEN + 0xD1B54A32D192ED03) & _MASK)
    return x
