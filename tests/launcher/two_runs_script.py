"""Run by test_two_runs: two runs one after the other; in the second one a worker is lost and comes back."""

from __future__ import annotations

import os

import torch
from torch import nn
from torch.utils.data import TensorDataset

import gcdist

x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
config = gcdist.Config(
    straggler={"deadline": 0.2, "warmup_steps": 0},
    inject={"model": "shifted-exponential", "shift": 0.05, "mean": 0.001},
    cluster={"min_workers": 1, "transport": os.environ["PLANE"], "retry_first": 0.1},
)
for fold in range(2):
    model = nn.Linear(4, 1)
    train = TensorDataset(x[fold::2], x[fold::2].sum(1, keepdim=True))
    task = gcdist.Task(model, train, lambda m, b: nn.functional.mse_loss(m(b[0]), b[1]), 8)
    with gcdist.connect(task, config, on_worker="return") as cluster:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        cluster.track(optimizer=optimizer)
        lost = False
        for step in cluster.steps(100_000 if fold else 3):
            info = step.backward()
            optimizer.step()
            if fold and info.step == 2:
                print("second under way", flush=True)
            lost = lost or info.live < 2
            if fold and lost and info.arrived == (1, 2):
                break
    if os.environ["RANK"] == "0":
        print("fold", fold, "is over", flush=True)
