"""Handwritten digits with gcdist: a master and 4 workers.

    gcdist launch local -n 4 -- python examples/ddp_after.py

examples/ddp_before.py and examples/ddp_after.py are one script before and after its conversion: docs/from-ddp.md.
"""

from __future__ import annotations

import os

import torch
from torch import nn
from torch.utils.data import TensorDataset

import gcdist
from gcdist.tasks import digits


def load_data() -> tuple[TensorDataset, TensorDataset]:
    """Images and labels; every fifth image is held out for the test."""
    images, labels = (torch.from_numpy(array) for array in digits.arrays())
    test = torch.arange(len(labels)) % 5 == 0
    return TensorDataset(images[~test], labels[~test]), TensorDataset(images[test], labels[test])


class Trainer:
    """Trains ``model`` in place."""

    def __init__(self, model: nn.Module, data: TensorDataset, batch_size: int) -> None:
        self.rank = int(os.environ["RANK"])
        task = gcdist.Task(model, data, lambda m, b: nn.functional.cross_entropy(m(b[0]), b[1]), batch_size)
        self.cluster = gcdist.connect(task, gcdist.Config(code={"partitions": 4}, data={"sampling": "epochs"}))
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def train(self, epochs: int) -> None:
        """Each epoch goes once through the data."""
        for epoch in range(epochs):
            for step in self.cluster.steps(self.cluster.steps_per_epoch):
                self.optimizer.zero_grad()
                step.backward()
                self.optimizer.step()
            if self.rank == 0:
                print(f"epoch {epoch + 1} of {epochs}")


@torch.no_grad()
def accuracy(model: nn.Module, data: TensorDataset) -> float:
    """Share of the images that are recognised."""
    images, labels = data.tensors
    return float((model(images).argmax(1) == labels).float().mean())


def main() -> None:
    """Train on all ranks, test on rank 0."""
    torch.manual_seed(0)
    train_data, test_data = load_data()
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    trainer = Trainer(model, train_data, batch_size=32)
    trainer.train(epochs=10)
    if trainer.rank == 0:
        print(f"test accuracy {accuracy(model, test_data):.1%}")
    trainer.cluster.close()


if __name__ == "__main__":
    main()
