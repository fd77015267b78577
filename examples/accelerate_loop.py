"""A loop with Hugging Face Accelerate over a master and 3 workers: handwritten digits.

    pip install 'gcdist[accelerate]'
    gcdist launch local -n 3 -- python examples/accelerate_loop.py

Schedule, clipping, trackers and saved states are Accelerate's, at the master: docs/trainers.md.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

import gcdist
from gcdist import integrations
from gcdist.integrations.accelerate import CodedAccelerator
from gcdist.tasks import digits


def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The mean loss of one batch, at the workers."""
    return cross_entropy(model(batch[0]), batch[1])


def make_task() -> gcdist.Task:
    """Model, data, loss and batch size: the same on every rank."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    images, labels = (torch.from_numpy(array) for array in digits.arrays())
    return gcdist.Task(model, TensorDataset(images, labels), loss_fn, batch_size=16)


def settings(sync: bool) -> gcdist.Config:
    """4-bit coded gradients; with ``sync`` every step waits for everybody, and nothing is rounded."""
    exact: dict[str, Any] = {
        "code": {"scheme": "sync", "partitions": 6},
        "quantizer": {"name": "float32", "bits": 32, "downlink": "float32"},
    }
    coded: dict[str, Any] = {"code": {"partitions": 6}, "quantizer": {"bits": 4}}
    usual: dict[str, Any] = {"data": {"sampling": "epochs"}, "checkpoint": {"keep": 0}}  # Accelerate keeps its own
    return gcdist.Config(**usual, **(exact if sync else coded))


def main() -> None:
    """Train and save the state."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--sync", action="store_true")
    parser.add_argument("--out", default="runs/accelerate")
    given = parser.parse_args()
    task = make_task()
    with integrations.connect(task, settings(given.sync)) as cluster:  # workers serve in here
        accelerator = CodedAccelerator(cluster, cpu=True)
        optimizer = torch.optim.AdamW(task.model.parameters(), lr=3e-3)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, given.steps)
        model, optimizer, schedule = accelerator.prepare(task.model, optimizer, schedule)
        losses = []
        for step in accelerator.steps(given.steps):
            info = accelerator.backward(step)  # for accelerator.backward(loss)
            accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(info.loss)
        accelerator.save_state(given.out)
    accelerator.print("losses", *("none" if loss is None else f"{loss:.6f}" for loss in losses))


if __name__ == "__main__":
    main()
