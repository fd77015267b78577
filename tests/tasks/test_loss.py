"""What a loss function may give: a loss, a dict of them, numbers to report, or nothing to train on."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import gcdist
from gcdist.observe import read_metrics
from gcdist.run.cluster import Cluster
from gcdist.tasks.loss import read_loss, wants_step
from gcdist.types import METRICS_MOST

W = torch.tensor(2.0, requires_grad=True)


@pytest.mark.parametrize(
    ("value", "loss", "metrics"),
    [
        (3 * W, 6.0, {}),
        (None, None, {}),
        ({"box": W, "class": 2 * W}, 6.0, {}),
        ({"box": W, "count": torch.tensor(3), "rate": 0.5}, 2.0, {"count": 3.0, "rate": 0.5}),
        ({"loss": W, "acc": torch.tensor(0.75)}, 2.0, {"acc": 0.75}),
        ({"loss": None, "acc": 1}, None, {"acc": 1.0}),
        ((W, {"acc": np.float32(0.5), "hits": True}), 2.0, {"acc": 0.5, "hits": 1.0}),
        (({"box": W, "class": W}, {"acc": 2 * W}), 4.0, {"acc": 4.0}),
        ((None, {"seen": 0}), None, {"seen": 0.0}),
        ((W, {"of none": float("nan"), "far": float("inf")}), 2.0, {"far": float("inf")}),
    ],
)
def test_what_is_trained_on_and_what_is_told(value: Any, loss: float | None, metrics: dict[str, float]) -> None:
    found = read_loss(value)
    assert (None if found.loss is None else float(found.loss.detach())) == loss
    assert found.metrics == metrics


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"loss": W, "aux": 2 * W}, r"'loss' and with 'aux', which has a gradient too: return their sum"),
        ((W, {"acc": torch.zeros(3)}), r"metric 'acc' must be one number, found Tensor of shape \(3,\)"),
        ((W, {"acc": "high"}), "metric 'acc' must be one number, found str"),
        ((W, {3: 1.0}), "metric '3': a name is printable text of 1 to 64"),
        ((W, {"a\nb": 1.0}), "a name is printable text"),
        ((W, {f"m{i}": 1.0 for i in range(METRICS_MOST + 1)}), f"at most {METRICS_MOST} are reported"),
        ((W, 0.5), "must be a 0-dim tensor or a dict of them, found tuple"),
        ({"loss": 0.5}, "loss_fn's 'loss' must be a 0-dim tensor"),
    ],
)
def test_what_is_neither(value: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        read_loss(value)


def test_only_a_dict_without_a_loss_is_summed_with_its_gradient() -> None:
    """torchvision's detectors give one in training mode."""
    weight = torch.tensor(2.0, requires_grad=True)
    found = read_loss({"classification": weight, "bbox_regression": weight * weight})
    assert found.loss is not None
    found.loss.backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None
    assert weight.grad.item() == 5.0


class Callee:
    def __call__(self, model: Any, batch: Any, step: int) -> Any:
        return None


@pytest.mark.parametrize(
    ("loss_fn", "wants"),
    [
        (lambda model, batch: None, False),
        (lambda model, batch, step: None, True),
        (lambda model, batch, *, step=0: None, True),
        (lambda model, step: None, False),  # its batch has that name
        (lambda model, batch, **more: None, False),
        (functools.partial(lambda model, batch, step: None, step=3), False),
        (Callee(), True),
        (max, False),
    ],
)
def test_who_asks_for_the_step(loss_fn: Callable[..., Any], wants: bool) -> None:
    assert wants_step(loss_fn) == wants


# --- in a run ---------------------------------------------------------------------------------------------------------


def start(loss_fn: Callable[..., Any], data: TensorDataset, folder: Path | None = None, k: int = 4) -> Cluster:
    torch.manual_seed(0)
    model = nn.Linear(1, 1)
    task = gcdist.Task(model, data, loss_fn, batch_size=100)
    config = gcdist.Config(
        cluster={"workers": 2},
        code={"scheme": "sync", "partitions": k},
        quantizer={"name": "float32"},
        checkpoint={"keep": 0},
    )
    return gcdist.simulate(task, config, folder=folder, say=lambda kind, text: None)


def test_the_loss_function_gets_the_step(tmp_path: Path) -> None:
    """`annealed-attribute`: what the loop knows of the step, the loss can know too."""
    data = TensorDataset(torch.ones(8, 1))

    def loss(model: nn.Module, batch: Any, *, step: int) -> Tensor:
        out: Tensor = model(batch[0])
        return step / 4 + 0 * out.mean()

    with start(loss, data, tmp_path / "run") as cluster:
        assert [step.backward().loss for step in cluster.steps(5)] == pytest.approx([0, 0.25, 0.5, 0.75, 1])


def test_metrics_are_means_by_samples_over_what_gave_them(tmp_path: Path) -> None:
    data = TensorDataset(torch.arange(10.0)[:, None])  # partitions of 3, 3, 2, 2 samples

    def loss(model: nn.Module, batch: Any) -> Any:
        x = batch[0]
        metrics = {"mean": x.mean()}
        if x.max() > 8:
            metrics["rare"] = x.sum()
        return model(x).square().mean(), metrics

    with start(loss, data, tmp_path / "run") as cluster:
        infos = [step.backward() for step in cluster.steps(2)]
    assert infos[0].metrics == pytest.approx({"mean": 4.5, "rare": 17.0})
    assert [line["metrics"] for line in read_metrics(tmp_path / "run")] == [info.metrics for info in infos]


@pytest.mark.parametrize("nothing", [lambda model: None, lambda model: torch.tensor(0.0)])
def test_a_batch_without_a_loss_has_a_zero_gradient_and_no_say_in_the_loss(
    tmp_path: Path, nothing: Callable[[nn.Module], Any]
) -> None:
    """`loss-none`: it is as if the loss were 0 times the sum of the parameters, but the reported loss leaves it out."""
    data = TensorDataset(torch.arange(8.0)[:, None])

    def grads(empty: Callable[[nn.Module], Any], name: str) -> tuple[list[Any], list[Any], list[str]]:
        def loss(model: nn.Module, batch: Any) -> Any:
            return model(batch[0]).square().mean() if batch[0].max() > 4 else empty(model)

        with start(loss, data, tmp_path / name) as cluster:
            model = cluster.session.task.model
            found = [
                (step.backward().loss, [p.grad.tolist() for p in model.parameters() if p.grad is not None])
                for step in cluster.steps(4)
            ]
        return [loss for loss, _ in found], [grad for _, grad in found], cluster.accounts.data.notes()

    losses, found, notes = grads(nothing, "nothing")
    with_graph, expected, none = grads(lambda model: 0 * sum(p.sum() for p in model.parameters()), "graph")
    assert found == expected
    assert losses == pytest.approx([2 * loss for loss in with_graph])  # of two partitions in place of four
    assert [note for note in notes if "nothing to train on" in note] == [
        "loss_fn gave nothing to train on (None, or 0 without a gradient) for 50% of the batches"
    ]
    assert not [note for note in none if "nothing to train on" in note]


def test_nobody_has_anything_to_train_on(tmp_path: Path) -> None:
    with start(lambda model, batch: None, TensorDataset(torch.ones(8, 1)), tmp_path / "run") as cluster:
        infos = [step.backward() for step in cluster.steps(4)]
        assert all(p.grad is None for p in cluster.session.task.model.parameters())
    assert [info.loss for info in infos] == [None] * 4
