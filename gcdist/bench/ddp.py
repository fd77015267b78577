"""The same training by PyTorch's DistributedDataParallel: same data, initial weights, batches and injected delays."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable
from datetime import timedelta
from functools import wraps
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.nn.parallel import DistributedDataParallel

from gcdist.bench.cells import Cell, Outcome
from gcdist.bench.problems import get_problem
from gcdist.config import Config
from gcdist.exchange.injected_faults import fault_of, throttle_process
from gcdist.model.batches import Batches, fetch
from gcdist.straggler import make_delays

POWERSGD_RANK = 1
POWERSGD_FROM = 10  # first steps without compression, as the hook's documentation advises


def ddp_rank(rank: int, cell: Cell) -> Outcome | None:
    """One rank; the process group's address comes from the environment. Rank 0 gives the outcome.

    Every rank computes the samples of its even share of the partitions, in one batch as a user of DDP would. A rank
    sleeps its delay before the backward pass, because all ranks communicate in that pass.
    """
    torch.set_num_threads(1)
    config = cell.config()
    problem = get_problem(cell.problem)
    task = problem.make(cell.seed)
    dist.init_process_group("gloo", timeout=timedelta(seconds=cell.budget + 60))
    outcome = Outcome()
    try:
        model = _Parallel(task.model, gradient_as_bucket_view=True)
        add_hook(model, cell.what.hook)
        optimizer = torch.optim.SGD(model.parameters(), lr=cell.lr)
        batches = Batches(task, cell.even_share * cell.workers, cell.seed, config.data.sampling)
        mine = range(rank * cell.even_share, (rank + 1) * cell.even_share)
        delays = make_delays(config.inject.model, cell.workers, **config.inject.params())
        look = problem.evaluate(task)
        sent = _bytes_a_step(task.model, cell.workers, cell.what.hook)
        outcome.look(0, 0.0, look(task.model), cell.target, cell.budget)
        paused, over = 0.0, torch.zeros(1)
        dist.barrier()
        began = time.perf_counter()
        step = 0
        while not over.item():
            started = time.perf_counter()
            strike_if_told(config, rank, step)
            batch = fetch(task, samples_of(batches, mine, step), [])
            until = started + delays.seconds(rank, step, float(len(mine)), cell.seed)
            paced_step(optimizer, lambda batch=batch: task.loss(model, batch), until)  # type: ignore[misc]
            step += 1
            seconds = time.perf_counter() - began - paused
            outcome.ends.append(seconds)
            outcome.bytes_up += sent(step)
            if step % problem.every == 0:
                if rank == 0:
                    at = time.perf_counter()
                    task.model.eval()
                    over.fill_(float(outcome.look(step, seconds, look(task.model), cell.target, cell.budget)))
                    task.model.train()
                    dist.broadcast(over, 0)
                    paused += time.perf_counter() - at
                else:
                    dist.broadcast(over, 0)
    except RuntimeError as error:
        outcome.status, outcome.why = "stopped", str(error).strip().splitlines()[0][:200]
    finally:
        if outcome.status not in ("stopped", "failed"):
            dist.destroy_process_group()
    outcome.arrived = float(cell.workers)
    outcome.bytes_down = outcome.bytes_up  # a ring sends what it receives
    return outcome if rank == 0 else None


def paced_step(optimizer: Any, loss_of: Callable[[], torch.Tensor], until: float) -> None:
    """Forward pass, sleep until ``until`` of `time.perf_counter`, backward pass with its exchange, the optimizer's step."""
    optimizer.zero_grad()
    loss = loss_of()
    time.sleep(max(0.0, until - time.perf_counter()))
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


class _Parallel(DistributedDataParallel):
    """A model whose parameters have the names that the task's loss knows."""

    def get_parameter(self, target: str) -> nn.Parameter:
        """Of the model inside."""
        found: nn.Parameter = self.module.get_parameter(target)
        return found


def samples_of(batches: Batches, mine: range, step: int) -> list[int]:
    """Numbers of the samples of these partitions in this step."""
    return [int(i) for j in mine for i in batches.samples(step, j)]


def strike_if_told(config: Config, rank: int, step: int) -> None:
    """The fault that the settings name for this rank and step, if any."""
    for fault in config.faults:
        if fault.worker != rank + 1 or fault.step != step:
            continue
        if fault.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif fault.kind == "throttle":
            throttle_process(fault_of(fault))


@wraps(default_hooks.bf16_compress_hook, assigned=())  # DDP looks at the signature
def _bf16(*args: Any) -> Any:
    """PyTorch's own hook under another name: DDP refuses it by name without CUDA, though gloo adds bfloat16."""
    return default_hooks.bf16_compress_hook(*args)


def add_hook(model: DistributedDataParallel, name: str) -> None:
    """Compress what DDP sends: ``"bf16"``, ``"powersgd"``; another name: not at all."""
    if name == "bf16":
        model.register_comm_hook(None, _bf16)
    elif name == "powersgd":
        state = powerSGD_hook.PowerSGDState(None, POWERSGD_RANK, POWERSGD_FROM)
        model.register_comm_hook(state, powerSGD_hook.powerSGD_hook)


def _bytes_a_step(model: nn.Module, workers: int, hook: str) -> Any:
    """Bytes that all ranks send in a step of a ring all-reduce, by arithmetic: 2 (n-1) times the vector's."""
    shapes = [tuple(p.shape) for p in model.parameters() if p.requires_grad]
    full = sum(math.prod(shape) for shape in shapes)
    low = sum(
        POWERSGD_RANK * (shape[0] + math.prod(shape[1:])) if len(shape) > 1 else math.prod(shape) for shape in shapes
    )
    ring = 2 * (workers - 1)

    def sent(step: int) -> int:
        if hook == "bf16":
            return ring * 2 * full
        return ring * 4 * (low if hook == "powersgd" and step > POWERSGD_FROM else full)

    return sent
