"""Run by test_launch_local: trains until a worker has been lost and is back, or the steps are over."""

from __future__ import annotations

import subprocess
import sys

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import gcdist


def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    x, y = batch
    return nn.functional.mse_loss(model(x), y)


def main(steps: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 3)
    task = gcdist.Task(nn.Linear(3, 1), TensorDataset(x, x.sum(1, keepdim=True)), loss_fn, batch_size=4)
    config = gcdist.Config(
        code={"partitions": 4},
        quantizer={"name": "float32", "bits": 32},
        straggler={"deadline": 0.2, "p": (0.1, 0.1), "warmup_steps": 0},
        inject={"model": "shifted-exponential", "shift": 0.05, "mean": 0.001},
        cluster={"min_workers": 1, "workers": 2},
    )
    subprocess.Popen(["sleep", "600"])  # a child of every rank, as a loader process would be
    lost = False
    with gcdist.connect(task, config) as cluster:
        optimizer = torch.optim.SGD(task.model.parameters(), lr=0.05)
        for step in cluster.steps(steps):
            info = step.backward()
            optimizer.step()
            if info.step == 2:
                print("under way", flush=True)
            lost = lost or info.live < 2
            if lost and info.arrived == (1, 2):
                print("all are back", flush=True)
                break


main(int(sys.argv[1]))
