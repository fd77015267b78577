"""Which samples come when: an epoch visits each sample once, at a place where every other is as likely."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gcdist.model.batches import Batches
from gcdist.tasks import Task


def loss_fn(model: nn.Module, batch: Any) -> Tensor:
    raise NotImplementedError


def task_of(sizes: list[int], batch_size: int) -> Task:
    edges = np.concatenate([[0], np.cumsum(sizes)])
    cuts = [np.arange(a, b) for a, b in pairwise(edges)]
    dataset = torch.arange(int(edges[-1]))
    return Task(nn.Linear(1, 1), dataset, loss_fn, batch_size, partitioner=lambda dataset, k: cuts)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=3),
    batch_size=st.integers(1, 12),
    seed=st.integers(0, 2**40),
    data=st.data(),
)
def test_every_sample_comes_once_an_epoch(sizes: list[int], batch_size: int, seed: int, data: st.DataObject) -> None:
    batches = Batches(task_of(sizes, batch_size), len(sizes), seed, "epochs")
    again = Batches(task_of(sizes, batch_size), len(sizes), seed, "epochs")
    starts = np.concatenate([[0], np.cumsum(sizes)])
    for j, size in enumerate(sizes):
        own = list(range(starts[j], starts[j + 1]))
        if size <= batch_size:
            assert batches.samples(data.draw(st.integers(0, 10**9)), j).tolist() == own
            continue
        steps = 3 * size  # a whole number of epochs, and of batches
        rows = [batches.samples(step, j).tolist() for step in range(steps)]
        assert {len(row) for row in rows} == {batch_size}
        for epoch in np.array(rows).reshape(-1, size):
            assert sorted(epoch.tolist()) == own
        # steps in any order, and far ahead, give the same
        for step in data.draw(st.permutations(range(steps)))[:10]:
            assert again.samples(step, j).tolist() == rows[step]
        far = data.draw(st.integers(0, 10**9))
        assert again.samples(far, j).tolist() == batches.samples(far, j).tolist()


def test_orders_differ_by_epoch_partition_and_seed() -> None:
    def order(seed: int, j: int, epoch: int) -> tuple[int, ...]:
        batches = Batches(task_of([64, 64], 32), 2, seed, "epochs")
        first, second = batches.samples(2 * epoch, j), batches.samples(2 * epoch + 1, j)
        return tuple((np.concatenate([first, second]) - 64 * j).tolist())

    orders = {order(seed, j, epoch) for seed in (0, 1) for j in (0, 1) for epoch in (0, 1, 2)}
    assert len(orders) == 12


def test_at_any_step_every_sample_is_as_likely() -> None:
    # over seeds: each of 20 samples is in the batch of one step with probability 7/20. Step 0 lies in an epoch, step 2 is
    # cut by its end (places 14 to 20), so that a sample may come twice there: the mean count stays 7/20, its variance stays
    # below that of two independent draws. 40 counts, each 5 sigma off with probability 6e-7: 2.4e-5 in all
    seeds, size, batch = 4000, 20, 7
    for step in (0, 2):
        counts = np.zeros(size)
        for seed in range(seeds):
            np.add.at(counts, Batches(task_of([size], batch), 1, seed, "epochs").samples(step, 0), 1)
        sigma = np.sqrt(seeds * 0.35 * 0.65)
        assert np.abs(counts - seeds * 0.35).max() < 5 * sigma


def test_only_two_orders_of_a_partition_are_kept() -> None:
    batches = Batches(task_of([10], 4), 1, 0, "epochs")
    for step in range(50):
        batches.samples(step, 0)
    assert [sorted(orders) for orders in batches._orders.values()] == [[18, 19]]


@pytest.mark.parametrize(("sizes", "batch_size", "steps"), [([10, 31], 8, 4), ([3, 5], 8, 1), ([16], 8, 2)])
def test_steps_of_an_epoch(sizes: list[int], batch_size: int, steps: int) -> None:
    assert Batches(task_of(sizes, batch_size), len(sizes), 0).steps_per_epoch == steps


def test_samples_are_uniform_without_replacement() -> None:
    batches = Batches(task_of([25, 25], 8), 2, 3)
    counts = np.zeros(50)
    steps = 2000
    for step in range(steps):
        samples = batches.samples(step, 1)
        assert len(set(samples.tolist())) == 8
        counts[samples] += 1
    assert counts[:25].sum() == 0
    # 25 binomial counts of (2000, 0.32): each is 5 sigma off with probability 6e-7, any with 1.5e-5
    sigma = np.sqrt(steps * 0.32 * 0.68)
    assert np.abs(counts[25:] - steps * 0.32).max() < 5 * sigma
    assert Batches(task_of([25, 25], 8), 2, 3).samples(1234, 1).tolist() == batches.samples(1234, 1).tolist()
    assert Batches(task_of([25, 25], 25), 2, 3).samples(7, 0).tolist() == list(range(25))
