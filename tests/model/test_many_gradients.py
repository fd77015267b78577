"""Gradients of many partitions at once are those of a backward pass each, to the last bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from gcdist.model.gradients import PartitionGradients, UserCodeError
from gcdist.model.many_gradients import BlockGradients
from gcdist.model.state import ModelState
from gcdist.tasks import Task, convex

NO_BUFFERS = np.zeros(0, np.float32), np.zeros(0, np.uint8)


def pair(task: Task, k: int, sampling: str = "independent") -> tuple[PartitionGradients, BlockGradients | None]:
    gradients = PartitionGradients(task, ModelState(task.model, own=True), k, 3, sampling)  # type: ignore[arg-type]
    return gradients, BlockGradients.of(gradients, 0.0)


@pytest.mark.parametrize("sampling", ["independent", "epochs"])
@pytest.mark.parametrize(("batch", "samples", "k"), [(1, 30, 30), (4, 37, 5), (5, 64, 8), (32, 100, 3), (64, 101, 3)])
@pytest.mark.parametrize("dim", [1, 7, 16, 100])
def test_equal_to_a_backward_pass_each(batch: int, samples: int, k: int, dim: int, sampling: str) -> None:
    task = convex.quadratic(batch_size=batch, samples=samples, dim=dim, blocks=k)
    gradients, many = pair(task, k, sampling)
    assert many is not None
    for step in range(3):
        raw = np.random.default_rng((dim, step)).standard_normal(dim).astype(np.float32)
        gradients.state.load_values(raw, *NO_BUFFERS)
        many.forget(step)
        for j in range(k):
            alone, of_many = gradients.compute(step, j), many.compute(step, step, j)
            assert of_many.loss == alone.loss
            assert np.array_equal(of_many.gradient, alone.gradient)
            assert np.array_equal(of_many.indices, alone.indices)
            assert of_many.used.tolist() == alone.used.tolist()
            same = ("step", "partition", "scale", "share", "samples", "sizes")
            assert [getattr(of_many, name) for name in same] == [getattr(alone, name) for name in same]


def test_a_loss_that_is_not_finite_is_told_as_ever() -> None:
    gradients, many = pair(convex.quadratic(batch_size=1, samples=4, dim=3, blocks=4), 4)
    assert many is not None
    gradients.state.load_values(np.array([np.inf, 0, 0], np.float32), *NO_BUFFERS)
    with pytest.raises(UserCodeError, match="the loss is inf"):
        many.compute(0, 0, 1)


def test_only_the_data_sets_own_loss() -> None:
    task = convex.quadratic(batch_size=1, samples=4, dim=3, blocks=4)
    other = replace(task, loss_fn=lambda model, batch: task.loss_fn(model, batch) * torch.tensor(2.0))
    assert pair(other, 4)[1] is None
    assert pair(convex.logistic(samples=64, dim=3), 4)[1] is None
