"""The order in which a worker takes the partitions of a partial row, known to both ends."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from gcdist.hashing import hashed, hashed_many
from gcdist.types import I64

Part = tuple[int, float]  # partition and coefficient
_ORDER = 0x6F72646572  # keeps these numbers apart from those of other purposes


def partition_order(seed: int, step: int, row: int, parts: tuple[Part, ...]) -> tuple[Part, ...]:
    """``parts`` in an order that is drawn uniformly at random by (seed, step, row) and nothing else.

    A row that is cut holds a prefix of this order: a random subset without replacement, whatever the times were. That
    makes ``l/m`` times its sum unbiased (math section 10).

    >>> partition_order(0, 7, 2, ((4, 1.0), (5, 1.0), (6, 0.5)))
    ((4, 1.0), (6, 0.5), (5, 1.0))
    """
    return parts if len(parts) < 2 else _drawn(seed, step, row, parts)


@lru_cache(4096)  # the worker asks, and the master when the message comes
def _drawn(seed: int, step: int, row: int, parts: tuple[Part, ...]) -> tuple[Part, ...]:
    begin = hashed(seed, _ORDER, step, row)
    return tuple(sorted(parts, key=lambda part: (hashed(part[0], begin=begin), part[0])))


def partition_orders(seed: int, step: int, row_T: I64, part_T: I64) -> I64:
    """`partition_order` of many rows: the places (T,) of the terms (row, partition), rows in ascending order.

    >>> partition_orders(0, 7, np.array([2, 2, 2, 3]), np.array([4, 5, 6, 1])).tolist()
    [0, 2, 1, 3]
    """
    begin_T = hashed_many(row_T, np.array(hashed(seed, _ORDER, step), np.uint64))
    order: I64 = np.lexsort((part_T, hashed_many(part_T, begin_T), row_T))
    return order
