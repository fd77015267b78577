"""Partitioners: how a data set is cut into the partitions that workers compute."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from gcdist.types import I64

Partitioner: TypeAlias = Callable[[Any, int], Sequence[ArrayLike]]


def contiguous(dataset: Any, k: int) -> list[I64]:
    """Cut ``dataset`` into ``k`` blocks in its own order, sizes differing by at most one.

    The order of the data set decides the difference between partitions: sorted by label, each has few labels; shuffled,
    all are alike.

    >>> [part.tolist() for part in contiguous("abcdefg", 3)]
    [[0, 1, 2], [3, 4], [5, 6]]
    """
    return np.array_split(np.arange(len(dataset), dtype=np.int64), k)


def partition_by(values: str | Iterable[Hashable]) -> Partitioner:
    """A partitioner that keeps samples of equal value together: one label, site, speaker or file to a partition.

    With more values than partitions, whole groups are packed, the largest first, each into the smallest partition so
    far. With fewer values, the largest groups are cut evenly. Every sample is in a partition; sizes of partitions can
    differ much.

    Args:
        values: one for each sample (a list, array or tensor), or the name of an attribute of the data set that holds them.

    Raises:
        ValueError: from the partitioner: no such attribute, or not one value for each sample.

    >>> [part.tolist() for part in partition_by(list("abacaa"))("012345", 2)]
    [[0, 2, 4, 5], [1, 3]]
    >>> [part.tolist() for part in partition_by([7, 7, 7, 8, 7])("01234", 3)]
    [[0, 1], [2, 4], [3]]
    """

    def partitioner(dataset: Any, k: int) -> list[I64]:
        groups = _groups(_values(values, dataset))
        return _cut(groups, k) if len(groups) < k else _packed(groups, k)

    return partitioner


def _values(values: str | Iterable[Hashable], dataset: Any) -> list[Hashable]:
    """One value for each sample, as a list."""
    if isinstance(values, str):
        what = f"attribute {values!r} of the data set"
        found = getattr(dataset, values, None)
        if found is None:
            raise ValueError(
                f"partition_by: the data set ({type(dataset).__name__}) has no attribute {values!r}"
                f"{_suggestion(dataset)}"
            )
    else:
        what, found = "values", values
    listed = found.tolist() if hasattr(found, "tolist") else list(found)  # of arrays and tensors: python's own numbers
    if not isinstance(listed, list) or len(listed) != len(dataset):
        count = len(listed) if isinstance(listed, list) else 1
        raise ValueError(f"partition_by: {what}: found {count} values, the data set has {len(dataset)} samples")
    return listed


def _suggestion(dataset: Any) -> str:
    """Attributes that have one value for each sample."""
    held = getattr(dataset, "__dict__", {})
    fit = sorted(name for name, value in held.items() if hasattr(value, "__len__") and len(value) == len(dataset))
    return f" (it has {', '.join(fit)})" if fit else ""


def _groups(values: list[Hashable]) -> list[I64]:
    """The samples of each value, values in the order in which they are first met."""
    groups: dict[Hashable, list[int]] = {}
    for index, value in enumerate(values):
        try:
            groups.setdefault(value, []).append(index)
        except TypeError:
            raise ValueError(
                f"partition_by: the value of sample {index} is a {type(value).__name__}: it must be hashable, "
                "as a number or a text is"
            ) from None
    return [np.array(group, np.int64) for group in groups.values()]


def _packed(groups: list[I64], k: int) -> list[I64]:
    """The largest group first, each into the smallest of ``k`` partitions."""
    bins: list[list[I64]] = [[] for _ in range(k)]
    smallest = [(0, j) for j in range(k)]
    for group in sorted(groups, key=len, reverse=True):
        size, j = heapq.heappop(smallest)
        bins[j].append(group)
        heapq.heappush(smallest, (size + len(group), j))
    return [np.sort(np.concatenate(held)) for held in bins]


def _cut(groups: list[I64], k: int) -> list[I64]:
    """One more piece for the group with the largest pieces, until there are ``k`` of them."""
    pieces = [1] * len(groups)
    largest = [(-float(len(group)), g) for g, group in enumerate(groups)]
    heapq.heapify(largest)
    for _ in range(k - len(groups)):
        _, g = heapq.heappop(largest)
        pieces[g] += 1
        heapq.heappush(largest, (-len(groups[g]) / pieces[g], g))
    return [piece for group, count in zip(groups, pieces, strict=True) for piece in np.array_split(group, count)]
