"""torchft, fault-tolerant DDP: a lighthouse, one replica group a worker, a quorum every step, gloo.

Set up as torchft's README and its train_ddp.py do; weights are equal at the start, so ``init_sync`` is off, as the
`Manager`'s documentation asks. Worth knowing: a step whose all-reduce fails or times out is given up by everybody.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from gcdist.bench.peers import LossOf, free_port
from gcdist.tasks import Task

RINGS = 1  # all-reduces of the vector's size in a step
TICK_MS = 100  # of the lighthouse; the README's
QUIET = {"RUST_LOG": "warn", "TORCHFT_LOG_LEVEL": "warning"}


def lighthouse_command(port: int, patience: float) -> list[str]:
    """``torchft_lighthouse``; a replica is dead after ``patience`` s without a heartbeat, and a quorum waits as long."""
    program = Path(sys.executable).with_name("torchft_lighthouse")
    limit = str(round(1000 * patience))
    options = {"bind": f"[::]:{port}", "min_replicas": "1", "quorum_tick_ms": str(TICK_MS)}
    options |= {"join_timeout_ms": limit, "heartbeat_timeout_ms": limit}
    return [str(program), *(word for key, value in options.items() for word in (f"--{key}", value))]


def meet(own: str, workers: int, patience: float) -> tuple[str, Callable[[], None]]:
    """A lighthouse on this host: its address, and the function that ends it."""
    port = free_port()
    process = subprocess.Popen(
        lighthouse_command(port, patience),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | QUIET,
    )

    def end() -> None:
        process.kill()
        process.wait()

    return f"http://{own}:{port}", end


class _Trainer:
    def __init__(self, task: Task, rank: int, lr: float, meeting: str, own: str, patience: float, fresh: bool) -> None:
        os.environ.update(QUIET)
        import torchft

        limit = timedelta(seconds=patience)
        model = task.model
        plain = torch.optim.SGD(model.parameters(), lr=lr)
        self._store = TCPStore(own, 0, is_master=True, wait_for_workers=False)

        def state() -> dict[str, Any]:
            return {"model": model.state_dict(), "optimizer": plain.state_dict()}

        def load(found: dict[str, Any]) -> None:
            model.load_state_dict(found["model"])
            plain.load_state_dict(found["optimizer"])

        self._manager = torchft.Manager(
            pg=torchft.ProcessGroupGloo(timeout=limit),
            min_replica_size=1,
            load_state_dict=load,
            state_dict=state,
            replica_id=f"worker{rank + 1}",
            timeout=limit,
            rank=0,
            world_size=1,
            store_addr=own,
            store_port=self._store.port,
            lighthouse_addr=meeting,
            hostname=own,
            init_sync=not fresh,
        )
        self._model = parallel(torchft, self._manager, model)
        self._optimizer = torchft.Optimizer(self._manager, plain)

    @property
    def steps(self) -> int:
        return int(self._manager.current_step())

    def step(self, loss_of: LossOf, until: float) -> None:
        self._optimizer.zero_grad()
        loss = loss_of(self._model)
        time.sleep(max(0.0, until - time.perf_counter()))
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()

    def close(self) -> None:
        self._manager.shutdown(wait=False)


def parallel(torchft: Any, manager: Any, model: nn.Module) -> nn.Module:
    """torchft's DistributedDataParallel, whose parameters have the names that a task's loss knows."""

    class Parallel(torchft.DistributedDataParallel):  # type: ignore[misc]
        def get_parameter(self, target: str) -> nn.Parameter:
            found: nn.Parameter = self.module.get_parameter(target)
            return found

    made: nn.Module = Parallel(manager, model)
    return made


def make_trainer(
    task: Task,
    rank: int,
    workers: int,
    lr: float,
    samples: int,
    meeting: str,
    own: str,
    patience: float,
    fresh: bool = True,
) -> _Trainer:
    """A worker; ``fresh`` False: it comes back to a run and must take the others' state."""
    return _Trainer(task, rank, lr, meeting, own, patience, fresh)
