"""A loop by hand with the same optimizer: what a trainer's run has to equal."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.nn.utils import clip_grad_norm_

import gcdist
from gcdist.tasks.coco.vision import torchvision

EXAMPLES = Path(__file__).parents[2] / "examples"
WRAPPED = Path(__file__).with_name("run_example.py")
STEPS = 6


def needs(*packages: str) -> None:
    """Skip the module where a trainer is not installed."""
    for package in packages:
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed (pip install 'gcdist[trainers]')", allow_module_level=True)
    mend_torchvision()


def mend_torchvision() -> None:
    """Let a torchvision that is linked for CUDA be imported beside a CPU build of torch: trainers import what is there."""
    if find_spec("torchvision") is not None:
        torchvision()


def example(name: str) -> ModuleType:
    """An example's module, by its file."""
    spec = spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def two_workers(config: gcdist.Config) -> gcdist.Config:
    return gcdist.Config(**{**config.model_dump(exclude_unset=True), "cluster": {"workers": 2}})


def simulated(task: gcdist.Task, config: gcdist.Config, folder: Path) -> gcdist.Cluster:
    return gcdist.simulate(task, two_workers(config), folder=folder, say=lambda kind, text: None)


Optimizers = Callable[[Any], tuple[torch.optim.Optimizer, Any]]


def by_hand(
    task: gcdist.Task, config: gcdist.Config, folder: Path, optimizers: Optimizers, every: int = 1, steps: int = STEPS
) -> list[float]:
    """Losses of the plain loop: clip to a norm of 1, step, and the schedule's step after every so many."""
    optimizer, schedule = optimizers(task.model)
    losses = []
    with simulated(task, config, folder) as cluster:
        for step in cluster.steps(steps):
            info = step.backward()
            assert info.loss is not None
            losses.append(info.loss)
            clip_grad_norm_(task.model.parameters(), 1.0)
            optimizer.step()
            if (step.number + 1) % every == 0:
                schedule.step()
    return losses


def printed_losses(text: str) -> list[float]:
    (line,) = [line for line in text.splitlines() if line.startswith("losses ")]
    return [float(word) for word in line.split()[1:]]


def same_state(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and torch.allclose(x, y, rtol=1e-5, atol=1e-7) for (a, x), (b, y) in pairs)
