"""Handwritten digits with DistributedDataParallel: 4 processes.

    torchrun --standalone --nproc-per-node=4 examples/ddp_before.py

examples/ddp_before.py and examples/ddp_after.py are one script before and after its conversion: docs/from-ddp.md.
"""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

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
        dist.init_process_group("gloo")
        self.model = DistributedDataParallel(model)
        self.sampler: DistributedSampler[object] = DistributedSampler(data)
        self.loader = DataLoader(data, batch_size=batch_size, sampler=self.sampler)
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def train(self, epochs: int) -> None:
        """Each epoch goes once through the data."""
        for epoch in range(epochs):
            self.sampler.set_epoch(epoch)
            for images, labels in self.loader:
                self.optimizer.zero_grad()
                loss = nn.functional.cross_entropy(self.model(images), labels)
                loss.backward()
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
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
