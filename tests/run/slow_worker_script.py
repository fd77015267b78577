"""Run by test_real_processes: one worker takes 50 times as long as the others over a partition.

python slow_worker_script.py OUT data|injected: it reads its data slowly, or spends an injected delay computing
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import torch
from torch import nn

import gcdist
from gcdist.master.main import real_master
from gcdist.protocol.master_io import SendRound
from gcdist.run.cluster import Cluster
from gcdist.run.resume import new_folder
from gcdist.run.session import Session
from gcdist.transport import GlooPlane, StoreSource

sys.path.append(str(Path(__file__).parents[2]))  # behind the installed gcdist, for the tests' own modules
from tests.master.test_replay import Record, replay

SLOW_RANK, STEPS, DEADLINE = 2, 40, 0.1
HOW = sys.argv[2]
INJECTED = {"model": "shifted-exponential", "shift": (0.0, 1.0, 0.0, 0.0), "where": "compute", "scale_with_load": True}


class Data(torch.utils.data.Dataset[tuple[torch.Tensor, torch.Tensor]]):
    def __len__(self) -> int:
        return 64

    def __getitems__(self, indices: list[int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        time.sleep(1.0 if HOW == "data" and os.environ["RANK"] == str(SLOW_RANK) else 0.02)
        return [(torch.full((3,), float(i)), torch.tensor(float(i % 2))) for i in indices]

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.__getitems__([index])[0]


def loss_fn(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    x, y = batch
    return nn.functional.binary_cross_entropy_with_logits(model(x / 64).squeeze(1), y)


def main(out: Path) -> None:
    torch.manual_seed(0)
    task = gcdist.Task(nn.Linear(3, 1), Data(), loss_fn, batch_size=4)
    config = gcdist.Config(
        out=out,
        inject=INJECTED if HOW == "injected" else {},
        code={"partitions": 4, "partial": False},  # p is given for whole rows
        straggler={"deadline": DEADLINE, "p": (0.05, 0.9, 0.05, 0.05), "max_wait": 30.0},
    )
    if int(os.environ["RANK"]) > 0:
        with gcdist.connect(task, config):
            raise AssertionError("a worker does not come here")
    # what gcdist.connect does at the master, with the events recorded
    session = Session.build(task, config, int(os.environ["WORLD_SIZE"]) - 1)
    record: Record = []
    driver, close = real_master(session, GlooPlane(StoreSource.from_env()), lambda kind, text: None, record)
    with Cluster(session, driver, new_folder(session, out / "run"), on_close=close) as cluster:
        seconds = [step.backward().step_seconds for step in cluster.steps(STEPS)]
    sent: dict[int, list[int]] = {}
    for _, instructions in record:
        for told in instructions:
            if isinstance(told, SendRound):
                sent.setdefault(told.peer.worker, []).append(told.round.step)
    replayed = replay(record, session.workers, session.hello("master"), session.code)
    (out / "result.json").write_text(json.dumps({"seconds": seconds, "sent": sent, "replayed": replayed}))


main(Path(sys.argv[1]))
