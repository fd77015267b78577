"""Run by test_last_line: a run that ends in the way that its argument names."""

from __future__ import annotations

import os
import sys

import torch
from torch import nn
from torch.utils.data import TensorDataset

import gcdist

how, rank = sys.argv[1], os.environ["RANK"]
if how == "start" and rank == "0":
    raise OSError("no data at the master")
x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))


def loss(model: nn.Module, batch: list[torch.Tensor]) -> torch.Tensor:
    if how == "loss":
        raise ValueError("a bad batch")
    return nn.functional.mse_loss(model(batch[0]), batch[1])


model = nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 1)) if how == "refused" and rank == "2" else nn.Linear(4, 1)
cluster_settings = {"secret_file": "nowhere"} if how == "mistake" and rank == "2" else {}
config = gcdist.Config(out="runs", name="run", cluster=cluster_settings)
task = gcdist.Task(model, TensorDataset(x, x.sum(1, keepdim=True)), loss, 8)
with gcdist.connect(task, config) as cluster:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    cluster.track(optimizer=optimizer)
    for step in cluster.steps(100_000):
        info = step.backward()
        optimizer.step()
        if how == "loop" and info.step == 5:
            raise ConnectionError("the tracker is down")
        if info.step == 2:
            print("under way", flush=True)
