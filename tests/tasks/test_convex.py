from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gcdist.tasks import Task, convex, load_task
from gcdist.types import F64

NAMES = ("least-squares", "logistic", "quadratic")
SMALL: dict[str, Any] = {"samples": 320, "dim": 6}
BUILD = {"least-squares": convex.least_squares, "logistic": convex.logistic, "quadratic": convex.quadratic}


def task_of(name: str, **options: Any) -> Task:
    return load_task(name, {**SMALL, **options}, 1000, Path())


def gradients(task: Task, k: int, at: F64) -> F64:
    """(k, d) the partitions' shares of the gradient, in float64."""
    model = convex.Vector(len(at)).double()
    model.x.data.copy_(torch.from_numpy(at))
    found = []
    for part in task.partitions(k):
        batch = task.batch(task.dataset.__getitems__(part.tolist()))
        if isinstance(batch, tuple):
            batch = tuple(each.double() for each in batch)
        model.zero_grad()
        task.loss(model, batch).backward()  # type: ignore[no-untyped-call]
        assert model.x.grad is not None
        found.append(model.x.grad.numpy() * len(part) / len(task.dataset))
    return np.array(found)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("k", [1, 16, 40])
def test_the_gradient_at_the_optimum_is_zero_but_not_that_of_a_partition(name: str, k: int) -> None:
    task = task_of(name)
    g_KD = gradients(task, k, task.dataset.optimum)
    np.testing.assert_allclose(g_KD.sum(0), 0, atol=1e-14)
    if k > 1:
        assert (np.linalg.norm(g_KD, axis=1) * k > 0.05).all()


def test_alike_partitions_have_next_to_no_gradient_at_the_optimum() -> None:
    task = task_of("quadratic", differ=0.0)
    assert np.abs(gradients(task, 8, task.dataset.optimum)).max() < 1e-7  # its centres are float32
    differing, alike = (task_of("least-squares", differ=differ, noise=0.0) for differ in (1.0, 0.0))
    norms = [np.linalg.norm(gradients(task, 16, task.dataset.optimum)) for task in (differing, alike)]
    assert norms[1] < 1e-6 * norms[0]


@pytest.mark.parametrize("name", NAMES)
def test_evaluate_is_the_loss_above_the_least_one(name: str) -> None:
    task = task_of(name)
    assert task.evaluate is not None
    whole = task.batch(task.dataset.__getitems__(list(range(len(task.dataset)))))
    x = torch.randn(6, generator=torch.Generator().manual_seed(1))
    losses = []
    for at in (x, torch.from_numpy(task.dataset.optimum).float()):
        task.model.get_parameter("x").data.copy_(at)
        losses.append(float(task.loss(task.model, whole).detach()))
        metrics = task.evaluate(task.model)
    assert 0 <= metrics["excess_loss"] + 1e-15 < 1e-12
    assert metrics["distance"] < 1e-6
    task.model.get_parameter("x").data.copy_(x)
    metrics = task.evaluate(task.model)
    assert metrics["excess_loss"] == pytest.approx(losses[0] - losses[1], rel=1e-4)
    assert metrics["distance"] == pytest.approx(np.linalg.norm(x.double().numpy() - task.dataset.optimum))


@pytest.mark.parametrize("condition", [1.0, 50.0])
def test_condition_number(condition: float) -> None:
    features = task_of("least-squares", condition=condition).dataset.hessian_DD
    curvatures = task_of("quadratic", condition=condition).dataset.hessian_D
    for eigenvalues in (np.linalg.eigvalsh(features), np.sort(curvatures)):
        assert eigenvalues[-1] == pytest.approx(1, rel=1e-5)
        assert eigenvalues[-1] / eigenvalues[0] == pytest.approx(condition, rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_function_of_the_seed_alone(name: str) -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    one, two, other = (task_of(name, seed=seed).dataset.optimum for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(one, two)
    assert not np.allclose(one, other)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 0}, "samples must be an integer >= 1, found 0"),
        ({"differ": -1.0}, "differ must be a number >= 0, found -1.0"),
        ({"condition": 0.5}, "condition must be a number >= 1, found 0.5"),
        ({"noise": float("nan")}, "noise must be a number >= 0, found nan"),
        ({"blocks": 500}, "blocks must be at most samples = 320, found 500"),
    ],
)
def test_refuses(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: {message}"):
        BUILD[name](**{**SMALL, **options})


def test_refuses_what_only_some_cannot() -> None:
    with pytest.raises(ValueError, match="samples must be at least dim = 400, found 320"):
        convex.least_squares(samples=320, dim=400)
    with pytest.raises(ValueError, match="l2 must be a number above 0, found 0"):
        convex.logistic(l2=0)
    with pytest.raises(ValueError, match="noise must be a chance from 0 to 1, found 2"):
        convex.logistic(noise=2)
