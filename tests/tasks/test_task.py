from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset, TensorDataset

from gcdist.tasks import Task


def loss_fn(model: nn.Module, batch: Any) -> Tensor:
    loss: Tensor = model(batch[0]).mean()
    return loss


def task_of(n: int = 10, **changes: Any) -> Task:
    arguments: dict[str, Any] = {
        "model": nn.Linear(3, 1),
        "dataset": TensorDataset(torch.zeros(n, 3)),
        "loss_fn": loss_fn,
    }
    return Task(**{**arguments, **changes})


class Stream(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(3))


class NoLength:
    def __getitem__(self, index: int) -> int:
        return index


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": Stream()}, "IterableDataset, which can only be read from its start"),
        ({"dataset": NoLength()}, "must be map-style .*found NoLength"),
        ({"dataset": []}, "dataset is empty"),
        ({"model": len}, r"must be a torch.nn.Module, found builtin"),
        ({"loss_fn": 3}, "loss_fn must be callable .*found int"),
        ({"collate_fn": 3}, "collate_fn must be callable or None, found int"),
        ({"batch_size": 0}, "batch_size must be an integer >= 1, found 0"),
        ({"batch_size": True}, "found True"),
        ({"batch_size": 2.0}, "found 2.0"),
    ],
)
def test_refuses(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        task_of(**changes)
    assert "\n" not in str(caught.value)


def test_default_partitions_are_balanced_blocks_in_order() -> None:
    parts = task_of(10).partitions(4)
    assert [len(part) for part in parts] == [3, 3, 2, 2]
    assert np.concatenate(parts).tolist() == list(range(10))
    assert all(part.dtype == np.int64 for part in parts)


def test_partitioner_may_be_unequal_and_leave_samples_out() -> None:
    parts = task_of(partitioner=lambda dataset, k: [[7], np.array([1, 0, 2], np.uint8)]).partitions(2)
    assert [part.tolist() for part in parts] == [[7], [1, 0, 2]]
    assert parts[1].dtype == np.int64


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([[0, 1]], "2 partitions were asked for, found 1"),
        ([[0], []], "partition 1 is empty"),
        ([[0], [10]], "partition 1 holds index 10, allowed are 0 to 9"),
        ([[0], [-1]], "partition 1 holds index -1, allowed are 0 to 9"),
        ([[0, 1], [2, 1]], "sample 1 is in partitions 0 and 1"),
        ([[0, 5, 5], [2]], "sample 5 is in partition 0 twice"),
        ([[0], [1.0]], "partition 1 must be a 1-dim array of integers, found float64"),
        ([[0], [True]], "partition 1 must be a 1-dim array of integers, found bool"),
        ([[0], [[1]]], r"found int64 of shape \(1, 1\)"),
    ],
)
def test_refuses_partitions(parts: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        task_of(partitioner=lambda dataset, k: parts).partitions(2)


@pytest.mark.parametrize("k", [0, 11])
def test_refuses_number_of_partitions(k: int) -> None:
    with pytest.raises(ValueError, match=f"between 1 and the data set's 10 samples, found {k}"):
        task_of(10).partitions(k)


def test_losses_of_a_dict_are_summed() -> None:
    task = task_of(loss_fn=lambda model, batch: {"a": torch.tensor(1.5), "b": torch.tensor([2.0])})
    loss = task.loss(task.model, None)
    assert loss.shape == ()
    assert float(loss) == 3.5


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (1.0, "loss_fn must be a 0-dim tensor or a dict of them, found float"),
        (torch.zeros(2), r"must be one floating-point number, found torch.float32 of shape \(2,\)"),
        (torch.tensor(1), "found torch.int64"),
        ({}, "empty dict"),
        ({"a": 1.0}, "loss_fn's 'a' must be"),
    ],
)
def test_refuses_losses(value: Any, message: str) -> None:
    task = task_of(loss_fn=lambda model, batch: value)
    with pytest.raises(ValueError, match=message):
        task.loss(task.model, None)


def test_collate() -> None:
    samples = [torch.zeros(2), torch.ones(2)]
    assert task_of().batch(samples).shape == (2, 2)
    assert task_of(collate_fn=len).batch(samples) == 2
