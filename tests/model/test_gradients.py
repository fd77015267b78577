"""Partition gradients: what they are a function of, what they sum to, and the user's errors."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from gcdist.model.batches import ReadError
from gcdist.model.gradients import PartitionGradients, UserCodeError
from gcdist.model.state import ModelState
from gcdist.tasks import Task, digits
from tests.model.models import Noisy, Rich, bits, fresh, rich_task, square


def test_gradients_do_not_depend_on_what_was_computed_before() -> None:
    task = rich_task()
    raw = ModelState(copy.deepcopy(task.model)).snapshot()
    jobs = [(step, j) for step in (0, 5) for j in range(4)]

    def run(own: bool, order: list[tuple[int, int]], seed: int = 1) -> dict[tuple[int, int], Any]:
        state = ModelState(fresh(Rich, 99), own=own)
        gradients = PartitionGradients(task, state, 4, seed)
        state.load(raw)
        return {job: bits(gradients.compute(*job)) for job in order}

    reference = run(True, jobs)
    assert len(set(reference.values())) == len(jobs)
    assert run(True, jobs[::-1]) == reference
    assert run(True, [job for job in jobs for _ in range(2)]) == reference
    assert run(True, jobs[3:4]).items() <= reference.items()
    assert not set(run(True, jobs, seed=2).values()) & set(reference.values())


def test_global_generators_are_left_as_they_were() -> None:
    gradients = PartitionGradients(rich_task(), ModelState(fresh(Rich), own=True), 4, 0)

    def draws() -> list[float]:
        return [random.random(), float(np.random.rand()), float(torch.rand(1))]  # noqa: NPY002

    def seed_all() -> None:
        random.seed(3)
        np.random.seed(3)  # noqa: NPY002
        torch.default_generator.manual_seed(3)

    seed_all()
    expected = draws() + draws()
    seed_all()
    found = draws()
    gradients.compute(0, 0)
    assert found + draws() == expected


def test_partition_gradients_sum_to_the_gradient_of_the_mean_loss() -> None:
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.standard_normal((30, 5), np.float32))
    y = torch.from_numpy(rng.standard_normal((30, 2), np.float32))
    cuts = [range(3), range(3, 20), range(20, 30)]

    def loss_fn(model: nn.Module, batch: Any) -> Tensor:
        return functional.mse_loss(model(batch[0]), batch[1])

    model = nn.Linear(5, 2)
    task = Task(model, TensorDataset(x, y), loss_fn, batch_size=30, partitioner=lambda dataset, k: cuts)
    state = ModelState(model, own=True)
    gradients = PartitionGradients(task, state, 3, 0)
    np.testing.assert_allclose(gradients.sizes_K, [0.1, 17 / 30, 1 / 3])
    results = []
    for j in range(3):
        result = gradients.compute(0, j)
        results.append((result.gradient.copy(), result.share * result.loss, result.samples))
    full = loss_fn(model, (x, y))
    expected = torch.cat([g.reshape(-1) for g in torch.autograd.grad(full, list(model.parameters()))])
    np.testing.assert_allclose(sum(g for g, _, _ in results), expected.numpy(), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(sum(loss for _, loss, _ in results), float(full.detach()), rtol=1e-6)
    assert [samples for _, _, samples in results] == [3, 17, 10]
    assert all(p.grad is None for p in model.parameters())


def test_a_loss_in_bfloat16_does_not_round_the_share() -> None:
    cuts = [range(3), range(3, 7)]
    task = Task(
        nn.Linear(1, 1, bias=False),
        TensorDataset(torch.ones(7, 1)),
        lambda model, batch: model(batch[0]).mean().bfloat16(),
        partitioner=lambda dataset, k: cuts,
    )
    gradients = PartitionGradients(task, ModelState(task.model, own=True), 2, 0)
    assert float(gradients.compute(0, 0).gradient[0]) == pytest.approx(3 / 7, rel=1e-6)


def test_partitions_do_not_see_one_anothers_buffers() -> None:
    model = nn.Sequential(nn.BatchNorm1d(1, momentum=1.0))
    x = torch.arange(8, dtype=torch.float32)[:, None]
    task = Task(model, TensorDataset(x), lambda model, batch: model(batch[0]).square().mean(), batch_size=4)
    state = ModelState(model, own=True)
    gradients = PartitionGradients(task, state, 2, 0)
    results = [gradients.compute(0, j) for j in (0, 1, 0)]
    assert [float(r.buffers.floats[0]) for r in results] == [1.5, 5.5, 1.5]
    assert [r.buffers.ints.view(np.int64).tolist() for r in results] == [[1], [1], [1]]
    state.merge_buffers([r.buffers for r in results[:2]])
    assert model.get_buffer("0.running_mean").item() == 3.5
    assert model.get_buffer("0.num_batches_tracked").item() == 1


def test_a_buffer_that_changes_its_shape_is_named() -> None:
    class Grows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))
            self.cache: Tensor
            self.register_buffer("cache", torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            self.cache = torch.cat([self.cache, self.cache])
            return self.weight * x

    task = Task(Grows(), TensorDataset(torch.ones(4)), lambda model, batch: model(batch[0]).mean())
    with pytest.raises(UserCodeError, match=r"buffer 'cache' was .* shape \(1,\) and has become .* shape \(2,\)"):
        PartitionGradients(task, ModelState(task.model, own=True), 1, 0).compute(0, 0)


class Branches(nn.Module):
    """An embedding with sparse gradients, and a branch that only some batches take."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 2, sparse=True)
        self.rare = nn.Linear(2, 1)
        self.head = nn.Linear(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.table(x)
        out: Tensor = (self.rare if bool((x == 0).any()) else self.head)(hidden)
        return out


def test_parameters_without_gradient_are_told() -> None:
    task = Task(fresh(Branches), TensorDataset(torch.tensor([0, 1, 3, 4])), lambda m, batch: m(batch[0]).mean())
    state = ModelState(task.model, own=True)
    gradients = PartitionGradients(task, state, 2, 0)
    assert state.names == ["table.weight", "rare.weight", "rare.bias", "head.weight", "head.bias"]
    first = gradients.compute(0, 0)
    assert first.used.tolist() == [True, True, True, False, False]
    assert first.gradient[-3:].tolist() == [0, 0, 0]
    assert first.gradient[12].item() == 0.5  # of rare.bias
    second = gradients.compute(0, 1)
    assert second.used.tolist() == [True, False, False, True, True]
    assert np.flatnonzero(second.gradient[:10]).tolist() == [6, 7, 8, 9]


def test_training_mode_is_set_but_a_part_in_eval_mode_stays_so() -> None:
    model = nn.Sequential(nn.Linear(1, 1), nn.Dropout(), nn.BatchNorm1d(1))
    task = Task(model, TensorDataset(torch.ones(4, 1)), lambda model, batch: model(batch[0]).mean())
    gradients = PartitionGradients(task, ModelState(model, own=True), 1, 0)
    model.eval()
    gradients.compute(0, 0)
    assert model.training
    assert model[2].training
    model[2].eval()
    gradients.compute(1, 0)
    assert not model[2].training


# --- the user's errors ------------------------------------------------------------------------------------------------


class Fails(Noisy):
    def __getitem__(self, index: int) -> Tensor:
        if index == 17:
            raise OSError("unreadable image")
        return super().__getitem__(index)


def test_an_error_of_the_data_set_names_the_sample() -> None:
    task = Task(fresh(Rich), Fails(), square, batch_size=10)
    gradients = PartitionGradients(task, ModelState(fresh(Rich), own=True), 4, 0)
    with pytest.raises(UserCodeError) as caught:
        gradients.compute(3, 1)
    error = caught.value
    assert (error.step, error.partition) == (3, 1)
    assert error.indices.tolist() == list(range(10, 20))
    assert error.text.startswith("OSError: unreadable image (step 3, partition 1, sample 17)\n")
    assert "in __getitem__" in error.text
    assert isinstance(error.__cause__, ReadError)
    assert isinstance(error.__cause__.__cause__, OSError)


def failing(kind: str) -> Callable[[nn.Module, Tensor], Any]:
    def loss_fn(model: nn.Module, batch: Tensor) -> Any:
        out = model(batch)
        if kind == "raises":
            raise KeyError("boxes")
        if kind == "nan":
            return out.mean() * torch.nan
        if kind == "gradient":
            # the square root's derivative at 0 is infinite, and infinity times 0 is NaN
            return out.mean() + (0 * model.get_parameter("second.bias")).abs().sum().sqrt()
        if kind == "type":
            return 3.0
        return out.mean().detach()

    return loss_fn


@pytest.mark.parametrize(
    ("kind", "first"),
    [
        ("raises", "KeyError: 'boxes' (step 2, partition 1, samples ["),
        ("nan", "the loss is nan (step 2, partition 1, samples ["),
        ("gradient", "the gradient of parameter 'second.bias' is not finite (nan) (step 2, partition 1, samples ["),
        (
            "type",
            "ValueError: loss_fn must be a 0-dim tensor or a dict of them, found float (step 2, partition 1, samples [",
        ),
        ("detached", "ValueError: the loss is "),
    ],
)
def test_an_error_of_model_or_loss_leaves_nothing_behind(kind: str, first: str) -> None:
    model = fresh(Rich)
    state = ModelState(model, own=True)
    good = PartitionGradients(Task(model, Noisy(), square, batch_size=4), state, 4, 0)
    bad = PartitionGradients(Task(model, Noisy(), failing(kind), batch_size=4), state, 4, 0)
    expected = bits(good.compute(2, 1))
    with pytest.raises(UserCodeError) as caught:
        _ = bad.compute(2, 1).gradient
    line, _, trace = caught.value.text.partition("\n")
    assert line.startswith(first)
    assert bool(trace) == (kind == "raises")
    assert bits(good.compute(2, 1)) == expected


def test_refuses_a_negative_seed() -> None:
    task = rich_task()
    with pytest.raises(ValueError, match="seed must be an integer >= 0, found -1"):
        PartitionGradients(task, ModelState(task.model), 2, -1)


# --- the embedded task ------------------------------------------------------------------------------------------------


def test_digits_are_learnt_in_sixty_steps() -> None:
    task = digits.build()
    master, worker = ModelState(task.model), ModelState(copy.deepcopy(task.model), own=True)
    gradients = PartitionGradients(task, worker, 16, 0)
    optimizer = torch.optim.SGD(task.model.parameters(), lr=0.1, momentum=0.8)
    for step in range(60):
        worker.load(master.snapshot())
        g = np.zeros(master.layout.d, np.float32)
        for j in range(16):
            g += gradients.compute(step, j).gradient
        master.set_grad(g)
        optimizer.step()
    assert task.evaluate is not None
    assert task.evaluate(task.model)["test_accuracy"] >= 0.97
