"""Kinds of models and losses that users bring: each trains, with the gradient that plain PyTorch gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.data import TensorDataset

import gcdist
from gcdist.model.gradients import PartitionGradients, UserCodeError
from gcdist.model.state import ModelState
from tests.model.models import fresh


def squares(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.mse_loss(model(batch[0]).float(), batch[1])


def in_autocast(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        out = model(batch[0])
    return nn.functional.mse_loss(out.float(), batch[1])


def in_half(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.mse_loss(model(batch[0].bfloat16()).float(), batch[1])


def in_double(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.mse_loss(model(batch[0].double()), batch[1].double())


def plain() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1))


def weight_norm() -> nn.Module:
    return nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 6)), nn.Tanh(), nn.Linear(6, 1))


def orthogonal() -> nn.Module:
    return nn.Sequential(parametrizations.orthogonal(nn.Linear(4, 4)), nn.Linear(4, 1))


def spectral_norm() -> nn.Module:  # its buffers move in every forward pass
    return nn.Sequential(parametrizations.spectral_norm(nn.Linear(4, 6)), nn.Linear(6, 1))


def compiled() -> nn.Module:
    return torch.compile(plain(), backend="eager")  # type: ignore[return-value]


def compiled_ahead() -> nn.Module:
    return torch.compile(plain(), backend="aot_eager")  # type: ignore[return-value]


class Odd(nn.Module):
    """One weight used twice, one never, one of another dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Linear(4, 4)
        self.never = nn.Linear(2, 2)
        self.scale = nn.Parameter(torch.ones(1, dtype=torch.float64))
        self.head = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.twice(self.twice(x).tanh())) * self.scale
        return out


def data() -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(torch.randn(20, 4, generator=generator), torch.randn(20, 1, generator=generator))


KINDS: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module, Any], Tensor], float]] = {
    "weight-norm": (weight_norm, squares, 1e-5),
    "orthogonal": (orthogonal, squares, 1e-5),
    "odd": (Odd, squares, 1e-5),
    "bfloat16": (lambda: plain().bfloat16(), in_half, 2e-2),
    "float64": (lambda: plain().double(), in_double, 1e-5),
    "autocast": (plain, in_autocast, 2e-2),
    "compiled": (compiled, squares, 1e-5),
    "compiled-ahead": (compiled_ahead, squares, 1e-5),
}


def config(out: Path, **more: Any) -> gcdist.Config:
    settings: dict[str, Any] = {
        "out": out,
        "cluster": {"workers": 2},
        "code": {"scheme": "sync"},
        "quantizer": {"name": "float32"},
        "straggler": {"deadline": "wait"},
    }
    return gcdist.Config(**{**settings, **more})


def quiet(kind: str, text: str) -> None:
    """The log is not wanted."""


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_the_plain_one(tmp_path: Path, kind: str) -> None:
    make, loss_fn, tolerance = KINDS[kind]
    task = gcdist.Task(fresh(make), data(), loss_fn, batch_size=20)  # every batch is a whole partition
    model = task.model
    with gcdist.simulate(task, config(tmp_path), say=quiet) as cluster:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        losses = []
        for step in cluster.steps(3):
            losses.append(step.backward().loss)
            found = [p.grad for p in model.parameters()]
            model.zero_grad()
            torch.autograd.backward(loss_fn(model, task.dataset.tensors))
            for (name, p), grad in zip(model.named_parameters(), found, strict=True):
                assert (grad is None) == (p.grad is None), name
                if grad is not None and p.grad is not None:
                    assert grad.dtype == p.dtype
                    torch.testing.assert_close(grad, p.grad, rtol=tolerance, atol=tolerance)
                p.grad = grad
            optimizer.step()
    assert None not in losses
    assert losses[-1] < losses[0]  # type: ignore[operator]


def test_names_are_those_of_the_module_that_was_compiled() -> None:
    state, other = ModelState(fresh(compiled)), ModelState(fresh(plain))
    assert state.names == other.names == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert state.fingerprint == other.fingerprint


def test_buffers_that_move_in_every_pass_come_back_to_the_master(tmp_path: Path) -> None:
    task = gcdist.Task(fresh(spectral_norm), data(), squares, batch_size=5)
    before = {name: buffer.clone() for name, buffer in task.model.named_buffers()}
    with gcdist.simulate(task, config(tmp_path), say=quiet) as cluster:
        for step in cluster.steps(2):
            step.backward()
    assert before
    for name, buffer in task.model.named_buffers():
        assert not torch.equal(buffer, before[name]), name


def no_compiler() -> nn.Module:
    def backend(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("No working C++ compiler found")

    return torch.compile(plain(), backend=backend)  # type: ignore[return-value]


def test_a_backend_that_cannot_compile_is_told_with_its_own_words() -> None:
    task = gcdist.Task(fresh(no_compiler), data(), squares)
    with pytest.raises(UserCodeError, match=r"No working C\+\+ compiler found"):
        PartitionGradients(task, ModelState(task.model, own=True), 2, 0).compute(0, 0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch itself, while it loads the compiler
def test_inductor_gives_nearly_the_plain_gradient() -> None:
    results = []
    for make in (plain, lambda: torch.compile(plain())):
        task = gcdist.Task(fresh(make), data(), squares, batch_size=20)  # type: ignore[arg-type]
        results.append(PartitionGradients(task, ModelState(task.model, own=True), 2, 0).compute(0, 1).gradient.copy())
    np.testing.assert_allclose(results[1], results[0], rtol=1e-4, atol=1e-6)


# --- the parameters' way to the workers -------------------------------------------------------------------------------


def test_the_gradient_is_the_one_at_the_rounded_parameters(tmp_path: Path) -> None:
    sent = {}
    for downlink in ("float32", "bfloat16"):
        model = fresh(lambda: nn.Sequential(nn.Linear(4, 300), nn.Tanh(), nn.Linear(300, 1)))
        task = gcdist.Task(model, data(), squares, batch_size=20)
        settings = config(tmp_path, name=downlink, quantizer={"name": "float32", "downlink": downlink})
        with gcdist.simulate(task, settings, say=quiet) as cluster:
            optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
            for step in cluster.steps(3):
                here = [p.detach().clone() for p in model.parameters()]
                info = step.backward()
                with torch.no_grad():
                    for p, value in zip(model.parameters(), here, strict=True):
                        assert torch.equal(p, value)  # the master's own values are not rounded
                        p.copy_(value if downlink == "float32" else value.bfloat16())
                expected = torch.autograd.grad(squares(model, task.dataset.tensors), list(model.parameters()))
                torch.testing.assert_close([p.grad for p in model.parameters()], list(expected), rtol=1e-5, atol=1e-7)
                with torch.no_grad():
                    for p, value in zip(model.parameters(), here, strict=True):
                        p.copy_(value)
                optimizer.step()
            sent[downlink] = info.bytes_down
    d = 4 * 300 + 300 + 300 + 1
    assert sent["float32"] - sent["bfloat16"] == pytest.approx(2 * 2 * d, abs=16)  # two workers, two bytes a coordinate
