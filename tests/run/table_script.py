"""Every model of the zoo, one run after another in the same processes: a master and its workers, 20 steps each.

Arguments: the folder for the results, and a port for each model.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

import gcdist
from tests.run.zoo import ZOO, build, unfreeze

STEPS, PARTITIONS, SEED = 20, 5, 7


def optimizer_of(model: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.8)


def main() -> None:
    out, ports = Path(sys.argv[1]), sys.argv[2:]
    config = gcdist.Config(
        seed=SEED,
        out=out,
        code={"scheme": "sync", "partitions": PARTITIONS},
        quantizer={"name": "float32"},
        straggler={"deadline": "wait"},
    )
    for name, port in zip(ZOO, ports, strict=True):
        os.environ["MASTER_PORT"] = port
        task = build(name)
        with gcdist.connect(task, config, folder=out / name, on_worker="return") as cluster:
            optimizer = optimizer_of(task.model)
            for step in cluster.steps(STEPS):
                unfreeze(task.model, step.number)
                info = step.backward()
                assert len(info.arrived) == 3, info
                optimizer.step()
        if os.environ["RANK"] == "0":
            torch.save(task.model.state_dict(), out / f"{name}.pt")


main()
