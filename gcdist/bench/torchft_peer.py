"""torchft, fault-tolerant DDP: a lighthouse, one replica group a worker, a quorum every step, gloo.

Set up as torchft's README and its train_ddp.py do; weights are equal at the start, so ``init_sync`` is off, as the
`Manager`'s documentation asks. Worth knowing: a step whose all-reduce fails or times out is given up by everybody.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from gcdist.bench.peers import Seat, free_port

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


class Trainer:
    """One worker; the store that its manager needs is its own."""

    def __init__(self, seat: Seat) -> None:
        os.environ.update(QUIET)
        import torchft

        limit = timedelta(seconds=seat.patience)
        model = seat.task.model
        plain = torch.optim.SGD(model.parameters(), lr=seat.lr)
        self._store = TCPStore(seat.own, 0, is_master=True, wait_for_workers=False)

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
            replica_id=f"worker{seat.rank + 1}",
            timeout=limit,
            rank=0,
            world_size=1,
            store_addr=seat.own,
            store_port=self._store.port,
            lighthouse_addr=seat.meeting,
            hostname=seat.own,
            init_sync=not seat.fresh,
        )
        self.model = parallel(torchft, self._manager, model)
        self.optimizer = torchft.Optimizer(self._manager, plain)

    @property
    def steps(self) -> int:
        """Made by all together."""
        return int(self._manager.current_step())

    @property
    def counted(self) -> int:
        """Workers in the newest step."""
        return int(self._manager.num_participants())

    def close(self) -> None:
        """Leave the others."""
        self._manager.shutdown(wait=False)


def parallel(torchft: Any, manager: Any, model: nn.Module) -> nn.Module:
    """torchft's DistributedDataParallel, whose parameters have the names that a task's loss knows."""

    @wraps(torchft.DistributedDataParallel._comm_hook, assigned=())  # DDP looks at the signature
    def average(*args: Any) -> torch.futures.Future[torch.Tensor]:
        state, bucket = args
        state.allreduce(bucket.buffer()).wait()  # an error is kept by the manager, and the step is given up
        done: torch.futures.Future[torch.Tensor] = torch.futures.Future()
        done.set_result(bucket.buffer())
        return done

    class Parallel(torchft.DistributedDataParallel):  # type: ignore[misc]
        _comm_hook = staticmethod(average)  # torchft 0.2.0's own one fails an assertion on CPUs when a peer has died

        def get_parameter(self, target: str) -> nn.Parameter:
            found: nn.Parameter = self.module.get_parameter(target)
            return found

    made: nn.Module = Parallel(manager, model)
    return made
