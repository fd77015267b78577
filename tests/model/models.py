"""Models, data and losses that tests of states and gradients share."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gcdist.model.gradients import PartitionResult
from gcdist.tasks import Task


def fresh(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


class Rich(nn.Module):
    """BatchNorm, dropout, tied weights, a frozen parameter, and buffers of many kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.norm = nn.BatchNorm1d(6)
        self.drop = nn.Dropout(0.4)
        self.second = nn.Linear(6, 4)
        self.tied = nn.Linear(6, 4, bias=False)
        self.tied.weight = self.second.weight
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)
        self.running: Tensor
        self.register_buffer("running", torch.zeros(2))
        self.register_buffer("wide", torch.full((2,), 1.5, dtype=torch.float64))
        self.register_buffer("narrow", torch.tensor(0.5, dtype=torch.bfloat16))
        self.register_buffer("flag", torch.tensor([True, False, True]))
        self.register_buffer("nothing", None)
        self.register_buffer("mask", torch.tensor([-torch.inf, 0.1]))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.drop(torch.relu(self.norm(self.first(x))))
        self.running = 0.9 * self.running + x.detach().mean()  # a new tensor in the buffer's place
        out: Tensor = self.second(hidden) + self.tied(hidden)
        return out


class Noisy:
    """Random augmentation from all three global generators."""

    def __init__(self, n: int = 40) -> None:
        self.x = np.random.default_rng(0).standard_normal((n, 4)).astype(np.float32)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Tensor:
        noise = random.random() + np.random.rand() + torch.rand(4)  # noqa: NPY002
        return torch.from_numpy(self.x[index]) + noise


def square(model: nn.Module, batch: Tensor) -> dict[str, Tensor]:
    out = model(batch)
    return {"fit": (out - batch).square().mean(), "size": 0.1 * out.abs().mean()}


def rich_task() -> Task:
    return Task(fresh(Rich), Noisy(), square, batch_size=4)


def bits(result: PartitionResult) -> tuple[Any, ...]:
    buffers = [part.tobytes() for part in result.buffers]
    return result.loss, result.gradient.tobytes(), *buffers, result.used.tobytes(), result.samples
