"""Run by test_errors_and_logs: a task with faults, as a script and as a task of a config (``build``)."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from unittest import mock

import torch
from torch import Tensor, nn

import gcdist

RANK = os.environ["RANK"]


class Data:
    """12 samples in 3 partitions; ``bad`` cannot be read."""

    def __init__(self, samples: int = 12, bad: int | None = None) -> None:
        self.samples = samples
        self.bad = bad
        self.warned = False

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> Tensor:
        if index == self.bad:
            raise OSError(f"image {index} is damaged")
        return torch.full((3,), float(index))


def loss_fn(model: nn.Module, batch: Tensor) -> Tensor:
    if RANK == "1":
        warnings.warn("a strange batch", UserWarning, stacklevel=1)
        logging.getLogger("mine").warning("looked at by rank %s", RANK)
    loss: Tensor = (model(batch / 12) ** 2).mean()
    return loss


def bad_loss(model: nn.Module, batch: Tensor) -> Tensor:
    if 9.0 in batch:
        return loss_fn(model, batch).reshape(3)
    return loss_fn(model, batch)


def build(batch_size: int, bad: int | None = None) -> gcdist.Task:
    """For `gcdist train`."""
    return gcdist.Task(nn.Linear(3, 1), Data(bad=bad), loss_fn, batch_size)


CONFIG = gcdist.Config(
    name="run",
    code={"partitions": 3},
    quantizer={"name": "float32", "bits": 32},
    cluster={"min_workers": 1 if "differs" in sys.argv else 2, "join_timeout": 60.0, "start_timeout": 2.0},
)


def fails() -> None:
    """The loss of the last partition raises, in every step."""
    task = gcdist.Task(nn.Linear(3, 1), Data(), bad_loss, batch_size=4)
    with gcdist.connect(task, CONFIG) as cluster:
        for step in cluster.steps(100):
            step.backward()


def differs() -> None:
    """Rank 1 fits; the others differ in one thing each."""
    from gcdist.exchange import setup

    wide, samples, config = 3, 12, CONFIG
    if RANK == "2":
        wide = 4
    elif RANK == "3":
        samples = 13
    elif RANK == "4":
        mock.patch.object(setup, "version", return_value="0.0.7").start()
    elif RANK == "5":
        config = config.model_copy(update={"seed": 7})
    task = gcdist.Task(nn.Linear(wide, 1), Data(samples), loss_fn, batch_size=4)
    with gcdist.connect(task, config) as cluster:
        for step in cluster.steps(100_000):  # until all have been seen
            live = step.backward().live
            if (cluster.folder.path / "events.jsonl").read_text().count('"refuse"') == 4:
                print("live", live)
                break


if __name__ == "__main__":
    {"fails": fails, "differs": differs}[sys.argv[1]]()
