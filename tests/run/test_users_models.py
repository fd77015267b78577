"""Models as people have them: extra state, computed weights, attributes that a loop changes, sparse gradients."""

from __future__ import annotations

import io
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import prune, spectral_norm
from torch.utils.data import TensorDataset

import gcdist
from gcdist.model.copying import copied
from gcdist.run.checkpoint import newest_checkpoint


def start(model: nn.Module, lines: list[str] | None = None, folder: Path | None = None, **more: Any) -> gcdist.Cluster:
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(16, 4), torch.randn(16, 1))
    task = gcdist.Task(model, data, lambda m, b: nn.functional.mse_loss(m(b[0]), b[1]), batch_size=4)
    settings: dict[str, Any] = {"cluster": {"workers": 2}, "checkpoint": {"every": 2}, **more}
    say = (lambda kind, text: None) if lines is None else lambda kind, text: lines.append(text)
    return gcdist.simulate(task, gcdist.Config(**settings), folder=folder, say=say)


class Scaled(nn.Linear):
    kept: Any = None

    def get_extra_state(self) -> Any:
        return self.kept

    def set_extra_state(self, state: Any) -> None:
        self.kept = state


@pytest.mark.parametrize("kept", [b"scales", bytearray(b"\0\xff"), io.BytesIO(b"scales"), {"amax": [1.0, 2.0]}, b""])
def test_extra_state_is_kept(tmp_path: Path, kept: Any) -> None:
    model = Scaled(4, 1)
    model.kept = kept
    with start(model, folder=tmp_path / "run") as cluster:
        for step in cluster.steps(2):
            step.backward()
    found = newest_checkpoint(tmp_path / "run" / "checkpoints", lambda line: None)
    assert found is not None
    again = found.state["model"]["extra"]["_extra_state"]
    assert type(again) is type(kept)
    assert (again.getvalue() == kept.getvalue()) if isinstance(kept, io.BytesIO) else again == kept


def test_extra_state_that_cannot_be_kept_is_refused_before_the_first_step(tmp_path: Path) -> None:
    scaled = Scaled(4, 1)
    scaled.kept = object()
    model = nn.Sequential(scaled)
    with pytest.raises(gcdist.ConfigError, match=r"^task: 0\._extra_state is of type object: it cannot be kept"):
        start(model, folder=tmp_path / "run")
    with start(model, folder=tmp_path / "other", checkpoint={"keep": 0}) as cluster:
        for step in cluster.steps(2):
            step.backward()


def computed() -> list[nn.Module]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch has a newer form of it
        norm = nn.utils.weight_norm(nn.Linear(4, 4))
    pruned = nn.Linear(4, 4)
    prune.l1_unstructured(pruned, "weight", amount=0.5)  # type: ignore[no-untyped-call]
    return [norm, spectral_norm(nn.Linear(4, 4)), pruned]


@pytest.mark.parametrize("first", computed(), ids=["weight_norm", "spectral_norm", "prune"])
def test_a_copy_of_computed_weights_trains_like_the_model(tmp_path: Path, first: nn.Module) -> None:
    """`weight-norm-simulate`: python's deepcopy refuses a tensor with a graph."""
    model = nn.Sequential(first, nn.Linear(4, 1))
    x = torch.randn(8, 4)
    model(x)  # so that the attribute has a graph
    copy = copied(model)
    assert not {id(p) for p in copy.parameters()} & {id(p) for p in model.parameters()}
    model.eval()
    copy.eval()
    assert torch.equal(model(x), copy(x))
    copy(x).sum().backward()
    assert all(p.grad is not None for p in copy.parameters())
    assert all(p.grad is None for p in model.parameters())
    model.train()
    with start(model, folder=tmp_path / "run") as cluster:
        infos = [step.backward() for step in cluster.steps(2)]
    assert all(info.loss is not None for info in infos)


def test_what_cannot_be_copied_is_named(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))
    vars(model[1])["lock"] = threading.Lock()
    with pytest.raises(
        gcdist.ConfigError, match=r"computes with a copy of the model, and 1 \(Linear\) cannot be copied"
    ):
        start(model, folder=tmp_path / "run")


def test_attributes_that_the_loop_changes_are_told_once(tmp_path: Path) -> None:
    """`annealed-attribute`: it never reaches the workers."""

    def count(model: nn.Module) -> dict[str, float]:
        vars(model)["seen"] = vars(model).get("seen", 0) + 1
        return {}

    lines: list[str] = []
    dropout = nn.Dropout(0.5)
    model = nn.Sequential(nn.Linear(4, 1), dropout)
    with start(model, lines, tmp_path / "run") as cluster:
        for step in cluster.steps(4):
            dropout.p = 0.1 * step.number
            cluster.evaluate(count)
            step.backward()
    told = [line for line in lines if "workers do not see it" in line]
    assert len(told) == 1
    assert told[0].startswith(
        "attributes of the model changed at the master, and workers do not see it: 1.p = 0.0 (was 0.5)"
    )


def test_sparse_gradients_come_back_dense_and_it_is_said(tmp_path: Path) -> None:
    lines: list[str] = []
    model = nn.Embedding(20, 1, sparse=True)
    task = gcdist.Task(model, TensorDataset(torch.randint(0, 20, (16,))), lambda m, b: m(b[0]).square().mean(), 4)
    config = gcdist.Config(cluster={"workers": 2}, checkpoint={"keep": 0})
    with gcdist.simulate(task, config, folder=tmp_path / "run", say=lambda kind, text: lines.append(text)) as cluster:
        with pytest.raises(
            ValueError, match=r"^track: optimizer is of type SparseAdam, which takes sparse gradients only"
        ):
            cluster.track(optimizer=torch.optim.SparseAdam(model.parameters()))
        for step in cluster.steps(2):
            step.backward()
    assert [line for line in lines if line.startswith("Embedding has sparse=True: its gradient comes back dense")]
    assert model.weight.grad is not None
    assert not model.weight.grad.is_sparse
