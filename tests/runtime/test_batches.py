"""Batches: which samples a partition gives in a step."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.utils.data import TensorDataset

from gcdist.runtime.compute import PartitionGradients
from gcdist.runtime.state import ModelState
from gcdist.tasks import Task, digits


def test_samples_are_uniform_without_replacement() -> None:
    task = Task(nn.Linear(1, 1), TensorDataset(torch.zeros(50, 1)), digits.mean_loss, batch_size=8)
    gradients = PartitionGradients(task, ModelState(task.model), 2, 3)
    counts = np.zeros(50)
    steps = 2000
    for step in range(steps):
        samples = gradients.batches.samples(step, 1)
        assert len(set(samples.tolist())) == 8
        counts[samples] += 1
    assert counts[:25].sum() == 0
    # 25 binomial counts of (2000, 0.32): each is 5 sigma off with probability 6e-7, any with 1.5e-5
    sigma = np.sqrt(steps * 0.32 * 0.68)
    assert np.abs(counts[25:] - steps * 0.32).max() < 5 * sigma
    again = PartitionGradients(task, ModelState(task.model), 2, 3)
    assert again.batches.samples(1234, 1).tolist() == gradients.batches.samples(1234, 1).tolist()
    small = Task(task.model, task.dataset, task.loss_fn, batch_size=25)
    assert PartitionGradients(small, ModelState(task.model), 2, 3).batches.samples(7, 0).tolist() == list(range(25))
