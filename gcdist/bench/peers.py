"""What the schemes of other projects need: their packages, a place to meet, and the training loop of a rank.

A trainer wraps the project's own optimizer as its documentation says; `torchft_peer` and `hivemind_peer` have one each.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Protocol

import torch
from torch import nn
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from gcdist.bench.cells import Cell, Outcome
from gcdist.bench.ddp import paced_step, samples_of, strike_if_told
from gcdist.bench.problems import get_problem
from gcdist.bench.schemes import BenchScheme
from gcdist.config import ConfigError
from gcdist.model.batches import Batches, fetch
from gcdist.straggler import make_delays
from gcdist.tasks import Task

ENGINES = ("torchft", "hivemind")


@dataclass(frozen=True, slots=True)
class Seat:
    """What a worker of another project is given. ``fresh`` False: it comes back to a run and must take the others' state."""

    task: Task
    rank: int
    workers: int
    lr: float
    samples: int  # of a worker and step
    meeting: str  # the address of `meet`
    own: str  # this worker's address
    patience: float  # the project's timeout, seconds
    fresh: bool = True


class Trainer(Protocol):
    """One worker of another project: a module's ``Trainer(seat)``."""

    model: nn.Module
    optimizer: Any

    @property
    def steps(self) -> int:
        """Made by all together."""
        ...

    @property
    def counted(self) -> int:
        """Workers in the newest step."""
        ...

    def close(self) -> None:
        """Leave the others."""


def check_installed(engine: str, scheme: str) -> None:
    """ConfigError in one line if the package of that scheme is not there."""
    if engine in ENGINES and find_spec(engine) is None:
        raise ConfigError(f"schemes: {scheme!r} needs {engine}, which is not installed: pip install gcdist[peers]")


def installed(names: Mapping[str, BenchScheme]) -> list[str]:
    """The schemes whose packages are there."""
    return [name for name, scheme in names.items() if scheme.engine not in ENGINES or find_spec(scheme.engine)]


def free_port() -> int:
    """A port of this host that nobody listens at now."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def peer_module(engine: str) -> Any:
    """`torchft_peer` or `hivemind_peer`: ``meet(own, workers, patience) -> (address, its end)`` and ``Trainer(seat)``."""
    return import_module(f"gcdist.bench.{engine}_peer")


def peer_rank(rank: int, cell: Cell, own: str) -> Outcome | None:
    """One rank; the last rank is the meeting place, the others are workers, and rank 0 gives the outcome.

    A worker does what `gcdist.bench.ddp.ddp_rank` does: the samples of its even share, its delay slept before the backward
    pass. The evaluations of rank 0 are not in the seconds; the others go on meanwhile, which favours them a little.

    Args:
        rank: 0 to the number of workers, that included.
        cell: its deadline is the project's timeout, in seconds.
        own: this rank's address.
    """
    torch.set_num_threads(1)
    engine, workers, patience = cell.what.engine, cell.workers, patience_of(cell)
    room = timedelta(seconds=cell.budget + 60)
    where = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = TCPStore(*where, is_master=rank == 0, wait_for_workers=False, timeout=room)
    peer = peer_module(engine)
    if rank == workers:
        address, end = peer.meet(own, workers, patience)
        store.set("meeting", address)
        store.wait(["over"])
        end()
        return None
    problem, config = get_problem(cell.problem), cell.config()
    task = problem.make(cell.seed)
    outcome = Outcome()
    batches = Batches(task, cell.even_share * workers, cell.seed, config.data.sampling)
    mine = range(rank * cell.even_share, (rank + 1) * cell.even_share)
    delays = make_delays(config.inject.model, workers, **config.inject.params())
    look = problem.evaluate(task)
    size = sum(p.numel() for p in task.model.parameters() if p.requires_grad)
    samples = len(samples_of(batches, mine, 0))
    meeting = store.get("meeting").decode()
    trainer: Trainer = peer.Trainer(Seat(task, rank, workers, cell.lr, samples, meeting, own, patience))
    if rank == 0:
        outcome.look(0, 0.0, look(task.model), cell.target, cell.budget)
    store.add("ready", 1)
    while store.add("ready", 0) < workers:
        time.sleep(0.01)
    began, paused, at, looked = time.perf_counter(), 0.0, 0, 0
    try:
        while not store.check(["over"]):
            started = time.perf_counter()
            strike_if_told(config, rank, trainer.steps)
            batch = fetch(task, samples_of(batches, mine, at), [])
            until = started + delays.seconds(rank, at, float(len(mine)), cell.seed)
            before = trainer.steps
            paced_step(trainer.optimizer, lambda batch=batch: task.loss(trainer.model, batch), until)  # type: ignore[misc]
            at += 1
            if rank > 0:
                continue
            now = time.perf_counter()
            seconds = now - began - paused
            if trainer.steps > before:
                outcome.ends.append(seconds)
                outcome.bytes_up += peer.RINGS * 2 * (workers - 1) * 4 * size
            over = seconds > cell.budget
            if over or (trainer.steps > before and trainer.steps >= looked + problem.every):
                looked = trainer.steps
                task.model.eval()
                if outcome.look(looked, seconds, look(task.model), cell.target, cell.budget):
                    store.set("over", "")
                task.model.train()
                paused += time.perf_counter() - now
    except (RuntimeError, TimeoutError) as error:  # torchft: a quorum that did not come
        outcome.status, outcome.why = "stopped", str(error).strip().splitlines()[0][:200]
    outcome.arrived = float(workers)
    outcome.bytes_down = outcome.bytes_up  # as in a ring
    return outcome if rank == 0 else None


def patience_of(cell: Cell) -> float:
    """The project's timeout in seconds: the cell's deadline, or the project's own where it is not tuned."""
    return cell.deadline if isinstance(cell.deadline, float) else cell.what.patience[-1]
