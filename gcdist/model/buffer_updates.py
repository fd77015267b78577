"""Changes of a model's buffers by forward passes, and their merging: the same arithmetic at worker and master."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gcdist.model.vector_format import Shape
from gcdist.types import F32, F64, I64, U8, Mask


class BufferUpdate(NamedTuple):
    """The buffers that changed. A buffer that no forward pass changed has no share and no value here.

    ``shares_B``: share of the samples behind each buffer's values, 0: unchanged. ``floats``: values of the float buffers
    that changed, ``ints``: bytes of the others that did, in the order of the `Shape`.
    """

    shares_B: F64
    floats: F32
    ints: U8


_NO_BUFFERS = BufferUpdate(np.zeros(0), np.zeros(0, np.float32), np.zeros(0, np.uint8))


def no_update(shape: Shape) -> BufferUpdate:
    """Nothing changed."""
    if not shape.buffers:
        return _NO_BUFFERS
    return BufferUpdate(np.zeros(shape.buffers), np.zeros(0, np.float32), np.zeros(0, np.uint8))


def merged(updates: Sequence[BufferUpdate], shape: Shape) -> BufferUpdate:
    """Float buffers: the mean of those that changed, by their shares; the others: the largest value, of bools the or.

    Where all have the same bits these stay, not-a-number and infinity too. All begin a step with equal buffers, so that
    counters and pointers that go round in a circle come out as every worker has them.
    """
    if not updates or not shape.buffers:
        return no_update(shape)
    if len(updates) == 1 or not shape.buffers:
        return updates[0]
    shares_UB = np.array([update.shares_B for update in updates])
    total_B: F64 = shares_UB.sum(axis=0)
    floats = len(shape.float_sizes)
    mean = _means([u.floats for u in updates], shares_UB[:, :floats], np.array(shape.float_sizes, np.int64))
    return BufferUpdate(total_B, mean, _largest([u.ints for u in updates], shares_UB[:, floats:], shape))


def _means(values: list[F32], shares_UF: F64, sizes_F: I64) -> F32:
    """The mean of each value, weighted by share; equal values keep every bit."""
    union_F = (shares_UF > 0).any(axis=0)
    width = sizes_F[union_F]
    count = int(width.sum())
    sums, bits = np.zeros(count), np.zeros(count, np.uint32)
    seen, equal = np.zeros(count, bool), np.ones(count, bool)
    weights_UF = shares_UF[:, union_F] / shares_UF[:, union_F].sum(axis=0)
    with np.errstate(invalid="ignore", over="ignore"):
        for value, weight_F in zip(values, weights_UF, strict=True):
            has = _elements(weight_F > 0, width)
            sums[has] += np.repeat(weight_F, width)[has] * value
            theirs = value.view(np.uint32)
            equal[has] &= ~seen[has] | (bits[has] == theirs)
            bits[has] = theirs
            seen |= has
        mean: F32 = sums.astype(np.float32)
    mean.view(np.uint32)[equal] = bits[equal]
    return mean


def _largest(values: list[U8], shares_UI: F64, shape: Shape) -> U8:
    """The largest of each value, in its own dtype."""
    taken: list[int] = np.flatnonzero((shares_UI > 0).any(axis=0)).tolist()
    parts: list[NDArray[Any]] = []
    at = [0] * len(values)  # bytes taken of each update
    for dtype, group in groupby(taken, key=lambda i: shape.kinds[i][0]):
        numbers = list(group)
        width = np.array([shape.kinds[i][1] for i in numbers], np.int64)
        out, seen = np.zeros(int(width.sum()), dtype), np.zeros(int(width.sum()), bool)
        for u, value in enumerate(values):
            has = _elements(shares_UI[u, numbers] > 0, width)
            end = at[u] + dtype.itemsize * int(has.sum())
            theirs = value[at[u] : end].view(dtype)
            at[u] = end
            out[has] = np.where(seen[has], np.maximum(out[has], theirs), theirs)
            seen |= has
        parts.append(out.view(np.uint8))
    return np.concatenate(parts) if parts else np.zeros(0, np.uint8)


def _elements(buffers: Mask, width: I64) -> Any:
    """The places of these buffers' values; a slice where it is all of them, which costs nothing."""
    return np.repeat(buffers, width)
