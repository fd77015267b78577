"""What is trained: a data set, a model, a loss. It runs as it stands, on made-up data; put yours in place of these three.

    gcdist simulate config.toml     # all workers in this process, on a virtual clock: try it like this first
    sh launch.sh                    # a master and workers as processes

Every process runs this file, the master and each worker. All of them must see the same data in the same order.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset

import gcdist

CLASSES, FEATURES = 3, 20


# 1. The data: any map-style data set (`__len__` and `__getitem__`). It is cut into `code.partitions` parts (config.toml).
#    A split or an order that is drawn at random needs a fixed seed, as here: otherwise each process has other data.
class Points(Dataset[tuple[Tensor, Tensor]]):
    """Points around three centres; every fifth one is held out for the test."""

    def __init__(self, held_out: bool) -> None:
        draw = torch.Generator().manual_seed(0)
        labels = torch.arange(1500) % CLASSES
        centres = torch.randn(CLASSES, FEATURES, generator=draw)
        points = centres[labels] + 1.5 * torch.randn(len(labels), FEATURES, generator=draw)
        mine = (torch.arange(len(labels)) % 5 == 0) == held_out
        self.points, self.labels = points[mine], labels[mine]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.points[index], self.labels[index]


# 2. The model: any nn.Module. The master's start values are sent to the workers.
def make_model(width: int) -> nn.Module:
    """A small network; `width` is an option of the task (config.toml)."""
    return nn.Sequential(nn.Linear(FEATURES, width), nn.ReLU(), nn.Linear(width, CLASSES))


# 3. The loss: a mean over the batch. Numbers beside it are shown and recorded; leave them out with `return loss`.
#    Autocast belongs in here; an optimizer, a scheduler and clipping do not: they are the master's.
def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """The mean loss of one batch, and the share of it that is recognised."""
    points, labels = batch
    scores = model(points)
    return cross_entropy(scores, labels), {"accuracy": (scores.argmax(1) == labels).float().mean()}


def evaluate(model: nn.Module) -> dict[str, float]:
    """Held-out numbers, at the master: at the end, and every `evaluation.every` steps."""
    test = Points(held_out=True)
    scores = model(test.points)
    return {
        "test accuracy": float((scores.argmax(1) == test.labels).float().mean()),
        "test loss": float(cross_entropy(scores, test.labels)),
    }


def build(batch_size: int, width: int = 64) -> gcdist.Task:
    """Called by gcdist with `task.batch_size` and `task.options` of config.toml."""
    torch.manual_seed(0)
    return gcdist.Task(make_model(width), Points(held_out=False), loss_fn, batch_size, evaluate=evaluate)
