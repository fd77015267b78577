"""Partitions by value: nothing lost, equal values together, sizes as even as groups allow."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import gcdist
from gcdist.tasks import Task, digits, partition_by


class Labelled:
    def __init__(self, targets: Any, n: int | None = None) -> None:
        self.targets = targets
        self.n = len(targets) if n is None else n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> int:
        return index


def parts_of(values: list[Any], k: int) -> list[list[int]]:
    task = Task(nn.Linear(1, 1), Labelled(values), digits.mean_loss, partitioner=partition_by("targets"))
    return [part.tolist() for part in task.partitions(k)]


@settings(derandomize=True, deadline=None)
@given(st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=60), st.data())
def test_every_sample_is_somewhere_and_equal_values_stay_together(values: list[str], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(values)))
    parts = parts_of(values, k)  # Task.partitions checks that none is empty and that no sample comes twice
    assert sorted(index for part in parts for index in part) == list(range(len(values)))
    assert all(part == sorted(part) for part in parts)
    counts = Counter(values)
    homes = {value: [j for j, part in enumerate(parts) if value in {values[i] for i in part}] for value in counts}
    if len(counts) >= k:
        assert all(len(home) == 1 for home in homes.values())
        # no partition is larger than the smallest and its own last group together
        sizes = [len(part) for part in parts]
        for part in parts:
            assert len(part) - min(Counter(values[i] for i in part).values()) <= min(sizes)
    else:
        assert all(len({values[i] for i in part}) == 1 for part in parts)
        pieces = {value: sorted(len(parts[j]) for j in home) for value, home in homes.items()}
        assert all(sizes[-1] - sizes[0] <= 1 for sizes in pieces.values())
        # only the largest are cut: no whole group is larger than twice a piece of another
        whole = [sizes[0] for sizes in pieces.values() if len(sizes) == 1]
        cut = [counts[value] / (len(sizes) - 1) for value, sizes in pieces.items() if len(sizes) > 1]
        assert not whole or not cut or max(whole) <= min(cut)


@pytest.mark.parametrize("values", [[3, 1, 3], np.array([3, 1, 3]), torch.tensor([3, 1, 3]), ("x", "y", "x")])
def test_values_may_be_of_many_kinds(values: Any) -> None:
    for by in (values, "targets"):
        found = partition_by(by)(Labelled(values), 2)
        assert [np.asarray(part).tolist() for part in found] == [[0, 2], [1]]


def test_the_digits_by_label() -> None:
    good = digits.build()
    task = Task(good.model, good.dataset, good.loss_fn, partitioner=gcdist.partition_by("labels"))
    parts = task.partitions(10)
    assert all(len({good.dataset.labels[i] for i in part.tolist()}) == 1 for part in parts)
    assert sum(len(part) for part in parts) == len(good.dataset)


@pytest.mark.parametrize(
    ("values", "dataset", "line"),
    [
        ("labels", Labelled([1, 2]), r"the data set \(Labelled\) has no attribute 'labels' \(it has targets\)"),
        ([1, 2, 3], Labelled([1, 2]), "values: found 3 values, the data set has 2 samples"),
        ("targets", Labelled([1, 2], 3), "attribute 'targets' of the data set: found 2 values, the data set has 3"),
        (torch.zeros(2, 2), Labelled([1, 2]), "the value of sample 0 is a list: it must be hashable"),
        (torch.tensor(1), Labelled([1, 2]), "found 1 values"),
    ],
)
def test_refuses(values: Any, dataset: Any, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        partition_by(values)(dataset, 2)


@pytest.mark.parametrize(
    ("holds", "line"),
    [
        ([], r"Task\.holds: found no partition"),
        ([0, -1], r"Task\.holds: found -1; should be numbers of partitions"),
        ([True], r"Task\.holds: found True"),
        ([2, 0, 2], r"Task\.holds: partition 2 comes twice"),
    ],
)
def test_refuses_holds(holds: list[int], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        Task(nn.Linear(1, 1), [1], digits.mean_loss, holds=holds)


def test_holds_are_in_order() -> None:
    assert Task(nn.Linear(1, 1), [1], digits.mean_loss, holds=range(3, 0, -1)).holds == (1, 2, 3)
