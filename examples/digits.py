"""Train your own model, data set and loss on unequal workers: handwritten digits, 60 coded steps.

    torchrun --standalone --nproc-per-node=9 examples/digits.py

Rank 0 is the master, the other eight are workers; all run this same script.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset

import gcdist
from gcdist.tasks import digits

STEPS = 60


class Images(Dataset[tuple[Tensor, int]]):
    """Any map-style data set will do. Every fifth image is held out for the test."""

    def __init__(self, held_out: bool) -> None:
        images, labels = digits.arrays()
        mine = (np.arange(len(labels)) % 5 == 0) == held_out
        self.images, self.labels = torch.from_numpy(images[mine]), torch.from_numpy(labels[mine])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], int(self.labels[index])


def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The mean loss of one batch."""
    images, labels = batch
    return cross_entropy(model(images), labels)


def main() -> None:
    """The usual training loop, with ``step.backward()`` for ``loss.backward()``."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(256, 10),
    )
    task = gcdist.Task(model, Images(held_out=False), loss_fn, batch_size=16)
    config = gcdist.Config(
        code={"partitions": 16},  # the data in 16 parts, most of them computed by more than one worker
        quantizer={"bits": 4},  # gradients travel with 4 bits a coordinate, on average over the workers
        straggler={"deadline": 0.4},  # seconds a step waits at most; left out, it is learned
        inject={"model": "shifted-exponential", "shift": 0.2, "mean": 0.1},  # for the experiment: some come late
    )
    with gcdist.connect(task, config) as cluster:  # workers serve in here and end their process here
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.8)
        cluster.track(optimizer=optimizer)  # in every checkpoint, beside the model
        for step in cluster.steps(STEPS):
            info = step.backward()  # one coded round: fills .grad
            optimizer.step()
            if info.step % 10 == 0:
                loss = "none arrived" if info.loss is None else f"{info.loss:.3f}"
                print(f"step {info.step}: loss {loss}, workers {info.arrived}, {info.seconds:.1f} s")

    test = Images(held_out=True)
    with torch.no_grad():
        accuracy = (model(test.images).argmax(1) == test.labels).float().mean()
    print(f"test accuracy {accuracy:.1%}")


if __name__ == "__main__":
    main()
