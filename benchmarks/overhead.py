"""Time of a step against DistributedDataParallel's: 8 workers, nobody slow, so that only the cost of the machinery is left.

The same small network, batch, optimizer and machine; 8 ranks under DDP (gloo), 1 master and 8 workers under gcdist (8
partitions; `auto` with nothing set, and `sync`). Both are alive all the time and take turns in blocks of steps; a ratio is
that of two neighbouring blocks. A step is everything: batch, forward, backward, communication, optimizer. One thread a
process. The ratio of processor time (all threads of all processes) depends less than that of wall clock on what else the
machine does.

python benchmarks/overhead.py                           # tables
python benchmarks/overhead.py --quick                   # fewer blocks, 1e5 and 1e6 parameters
python benchmarks/overhead.py --sizes 1e6 --ways dither --json
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import multiprocessing
import os
import platform
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import gcdist
from gcdist.exchange.inbox import Inbox
from gcdist.master.aggregator import Aggregator
from gcdist.master.driver import MasterDriver
from gcdist.master.links import MasterLinks
from gcdist.model.gradients import PartitionGradients
from gcdist.model.state import ModelState
from gcdist.run.cluster import Cluster
from gcdist.worker.rows import RowMaker

WORKERS = 8
WARM_STEPS = 10
BATCH = 2
INPUTS, CLASSES = 64, 10
AS_IT_COMES = "as it comes"  # `auto`, with nothing set
WAYS: dict[str, dict[str, Any]] = {  # what travels under `sync`: quantizer settings of gcdist
    AS_IT_COMES: {},
    "float32": {"name": "float32", "bits": 32},
    "dither": {"name": "dither", "bits": 4},
    "rotated-dither": {"name": "rotated-dither", "bits": 4},
    "dither, bf16 down": {"name": "dither", "bits": 4, "downlink": "bfloat16"},
}
MIB = 1 << 20
SPAWN = multiprocessing.get_context("spawn")


def network(d: int) -> nn.Module:
    """A perceptron of about ``d`` parameters."""
    torch.manual_seed(0)
    width = round((-(INPUTS + CLASSES + 2) + ((INPUTS + CLASSES + 2) ** 2 + 4.0 * d) ** 0.5) / 2)
    return nn.Sequential(
        nn.Linear(INPUTS, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, CLASSES)
    )


def samples() -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64 * WORKERS * BATCH, INPUTS, generator=generator)
    return TensorDataset(x, torch.randint(CLASSES, (len(x),), generator=generator))


def loss_of(model: nn.Module, batch: Any) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


# --- where the time goes: wall clock of the main thread by what it does, processor time by thread ---


class Probe:
    """Seconds by label, each label without what is measured inside it."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._inner = [0.0]

    def wrap(self, owner: Any, name: str, label: Callable[[Any], str]) -> None:
        """Time calls of ``owner.name``; ``label`` names them by their result."""
        inside = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            if threading.current_thread() is not threading.main_thread():
                return inside(*args, **kwargs)
            started = time.perf_counter()
            self._inner.append(0.0)
            result = None
            try:
                result = inside(*args, **kwargs)
                return result
            finally:
                took = time.perf_counter() - started
                self.seconds[label(result)] += took - self._inner.pop()
                self._inner[-1] += took

        setattr(owner, name, timed)

    def watch(self, labels: dict[tuple[Any, str], str]) -> None:
        for (owner, name), label in labels.items():
            self.wrap(owner, name, lambda _, label=label: label)  # type: ignore[misc]
        self.wrap(Inbox, "get", lambda event: f"wait for {type(event).__name__}")


MASTER = {
    (Cluster, "round"): "accounts",
    (ModelState, "snapshot"): "snapshot",
    (MasterDriver, "run_round"): "protocol",
    (MasterLinks, "send_round"): "post rounds",
    (Aggregator, "open"): "open",
    (Aggregator, "checked"): "check",
    (Aggregator, "accumulate"): "accumulate",
    (Aggregator, "close"): "close",
    (ModelState, "set_grad"): "set .grad",
}
WORKER = {
    (RowMaker, "load"): "load",
    (PartitionGradients, "compute"): "compute",
    (RowMaker, "add"): "add",
    (RowMaker, "encode"): "encode",
}


def processor_seconds() -> dict[str, float]:
    """Processor time so far of this process's threads, by kind."""
    names = {thread.native_id: thread.name for thread in threading.enumerate()}
    found: defaultdict[str, float] = defaultdict(float)
    for task in Path("/proc/self/task").glob("*"):
        with contextlib.suppress(OSError):
            name = names.get(int(task.name), "gloo and others")
            kind = name.rsplit("-", 1)[-1] if name.startswith("gcdist-") else name
            found["main" if kind == "MainThread" else kind] += int((task / "schedstat").read_text().split()[0]) / 1e9
    return dict(found)


Reading = tuple[int, dict[str, float], dict[str, float]]  # steps, seconds by label, processor seconds by thread


def worker_readings(probe: Probe) -> list[Reading]:
    """Fills with a worker's clocks, read at the beginning of every tenth step."""
    readings: list[Reading] = []
    load, steps = RowMaker.load, itertools.count()

    def loading(*args: Any) -> None:
        if (step := next(steps)) % WARM_STEPS == 0:
            readings.append((step, dict(probe.seconds), processor_seconds()))
        load(*args)

    RowMaker.load = loading  # type: ignore
    return readings


def spent(start: Reading, end: Reading) -> list[dict[str, float]]:
    """Milliseconds a step between two readings."""
    steps = end[0] - start[0]
    pairs = ((start[1], end[1]), (start[2], end[2]))
    return [{name: 1e3 * (now - then.get(name, 0.0)) / steps for name, now in after.items()} for then, after in pairs]


def falling(milliseconds: dict[str, float]) -> dict[str, float]:
    return {name: round(ms, 3) for name, ms in sorted(milliseconds.items(), key=lambda item: -item[1])}


# --- the processes ---


def place(rank: int, world: int, port: int) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": str(world)}
    torch.set_num_threads(1)


def ddp_rank(rank: int, port: int, d: int, orders: Connection) -> None:
    """Rank 0 takes orders (what, steps) and answers with seconds a step, and processor seconds a step of all ranks together.

    ``alone`` leaves the communication out.
    """
    place(rank, WORKERS, port)
    dist.init_process_group("gloo")
    model = DistributedDataParallel(network(d), gradient_as_bucket_view=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    data = samples()
    sampler: DistributedSampler[Any] = DistributedSampler(data, WORKERS, rank, shuffle=False)
    batches: Iterator[Any] = iter(())
    while True:
        order = torch.tensor(orders.recv() if rank == 0 else (0, 0))
        dist.broadcast(order, 0)
        alone, steps = (int(number) for number in order)
        if steps == 0:
            break
        dist.barrier()
        started, used = time.perf_counter(), time.process_time()
        with model.no_sync() if alone else contextlib.nullcontext():
            for _ in range(steps):
                batch = next(batches, None)
                if batch is None:
                    batches = iter(DataLoader(data, BATCH, sampler=sampler))
                    batch = next(batches)
                optimizer.zero_grad()
                loss_of(model, batch).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        dist.barrier()
        took, worked = time.perf_counter() - started, torch.tensor(time.process_time() - used)
        dist.reduce(worked, 0)
        if rank == 0:
            orders.send((took / steps, float(worked) / steps))
    dist.destroy_process_group()


def gcdist_rank(
    rank: int, port: int, d: int, way: str, folder: str, orders: Connection, transport: str = "gloo"
) -> None:
    """The master takes orders (steps) and answers with seconds a step; at the end all tell where their time went."""
    place(rank, WORKERS + 1, port)
    probe = Probe()
    probe.watch(MASTER if rank == 0 else WORKER)
    readings = worker_readings(probe) if rank > 0 else []
    task = gcdist.Task(network(d), samples(), loss_of, batch_size=BATCH)
    cluster_settings = {"threads": 1, "transport": transport}
    config = gcdist.Config.model_validate(
        {
            "code": {"scheme": "auto" if way == AS_IT_COMES else "sync", "partitions": WORKERS},
            "quantizer": WAYS[way],
            "cluster": cluster_settings,
        }
    )
    with gcdist.connect(task, config, folder=folder, say=lambda *_: None, on_worker="return") as cluster:
        if rank == 0:
            optimizer = torch.optim.SGD(task.model.parameters(), lr=0.01)
            probe.wrap(optimizer, "step", lambda _: "optimizer")
            done, start = 0, (0, dict(probe.seconds), processor_seconds())
            while (steps := orders.recv()) > 0:
                started = time.perf_counter()
                for step in cluster.steps(steps):
                    info = step.backward()
                    assert len(info.arrived) == WORKERS or way == AS_IT_COMES, info
                    optimizer.step()
                took = time.perf_counter() - started
                done += steps
                if done == WARM_STEPS:
                    start = done, dict(probe.seconds), processor_seconds()
                orders.send(took / steps)
            orders.send(
                {
                    "bytes": info.bytes_up + info.bytes_down,
                    "spent": spent(start, (done, dict(probe.seconds), processor_seconds())),
                }
            )
    if rank > 0:
        orders.send(spent(readings[1], readings[-1]))  # the first steps warm up


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Group:
    """The processes of one method; rank 0 takes orders."""

    def __init__(self, target: Callable[..., None], ranks: int, *args: object) -> None:
        pipes = [SPAWN.Pipe() for _ in range(ranks)]
        port = free_port()
        self.ends = [here for here, _ in pipes]
        self.processes: list[SpawnProcess] = [
            SPAWN.Process(target=target, args=(rank, port, *args, there), daemon=True)
            for rank, (_, there) in enumerate(pipes)
        ]
        for process in self.processes:
            process.start()
        for _, there in pipes:
            there.close()

    def order(self, what: object) -> Any:
        self.ends[0].send(what)
        return self.ends[0].recv()

    def __enter__(self) -> Group:
        return self

    def __exit__(self, *about: object) -> None:
        for process in self.processes:
            process.join(20.0)
            process.kill()


# --- the physical limit ---


def stream(port: int, nbytes: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as end:
        data = bytes(MIB)
        for _ in range(nbytes // MIB):
            end.sendall(data)


def loopback(nbytes: int = 1 << 30) -> float:
    """GB/s of one plain stream between two processes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        process = SPAWN.Process(target=stream, args=(listener.getsockname()[1], nbytes))
        process.start()
        end, _ = listener.accept()
        into = memoryview(bytearray(MIB))
        started = time.perf_counter()
        while end.recv_into(into):
            pass
        took = time.perf_counter() - started
        process.join()
    return nbytes / took / 1e9


def copying(nbytes: int = 64 * MIB) -> float:
    """GB/s of a memory copy in one thread, too long for the caches."""
    x, y = np.ones(nbytes, np.uint8), np.empty(nbytes, np.uint8)
    times = []
    for _ in range(9):
        started = time.perf_counter()
        np.copyto(y, x)
        times.append(time.perf_counter() - started)
    return nbytes / statistics.median(times[1:]) / 1e9


# --- the measurement ---


def compare(ddp: Group, d: int, way: str, blocks: int, budget: float) -> dict[str, Any]:
    """Blocks of one way in turn with blocks of DDP; ``budget`` seconds a block."""
    with tempfile.TemporaryDirectory() as folder, Group(gcdist_rank, WORKERS + 1, d, way, folder) as ours:
        ours.order(WARM_STEPS)
        steps = max(5, round(budget / max(ours.order(5), ddp.order((0, 5))[0])))
        pairs = [(ours.order(steps), ddp.order((0, steps))) for _ in range(blocks)]
        alone, _ = ddp.order((1, steps))
        ours.ends[0].send(0)
        told: dict[str, Any] = ours.ends[0].recv()
        workers = [end.recv() for end in ours.ends[1:]]
    ratios = [mine / theirs for mine, (theirs, _) in pairs]
    cpu_ms = sum(sum(terms.values()) for _, terms in (told["spent"], *workers))  # of all nine processes
    ddp_cpu_ms = 1e3 * statistics.median(used for _, (_, used) in pairs)
    walls, cpus = ({k: statistics.median(w[i].get(k, 0.0) for w in workers) for k in workers[0][i]} for i in (0, 1))
    mine_ms = 1e3 * statistics.median(mine for mine, _ in pairs)
    for name in ("wait for Announced", "wait for RoundIn"):  # in them is also the time of the other method's blocks
        walls.pop(name, None)
    walls["wait for a round"] = mine_ms - sum(walls.values())
    return {
        "d": sum(p.numel() for p in network(d).parameters()),
        "way": way,
        "ratio": round(statistics.median(ratios), 3),
        "ratio_least": round(min(ratios), 3),
        "ratio_most": round(max(ratios), 3),
        "ms": round(mine_ms, 2),
        "ddp_ms": round(1e3 * statistics.median(theirs for _, (theirs, _) in pairs), 2),
        "alone_ms": round(1e3 * alone, 2),  # the same without communication
        "steps_a_block": steps,
        "bytes_a_step": told["bytes"],
        "cpu_ratio": round(cpu_ms / ddp_cpu_ms, 3),
        "cpu_ms": round(cpu_ms, 2),
        "ddp_cpu_ms": round(ddp_cpu_ms, 2),
        "master_wall_ms": falling(told["spent"][0]),
        "master_cpu_ms": falling(told["spent"][1]),
        "worker_wall_ms": falling(walls),
        "worker_cpu_ms": falling(cpus),
    }


def measure(sizes: list[int], ways: list[str], blocks: int, budget: float) -> dict[str, Any]:
    rows = []
    for d in sizes:
        with Group(ddp_rank, WORKERS, d) as ddp:
            ddp.order((0, 5))
            for way in ways:
                rows.append(compare(ddp, d, way, blocks, budget))
                print(f"{d:.0e} {way}: {rows[-1]['ratio']}", file=sys.stderr, flush=True)
            ddp.ends[0].send((0, 0))
    speed = loopback()
    for row in rows:
        row["limit_ms"] = round(row["bytes_a_step"] / speed / 1e6, 2)
    return {
        "benchmark": "overhead",
        "setting": f"{WORKERS} workers, {WORKERS} partitions, no delays, batch {BATCH}, SGD, one thread a process",
        "cpus": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "blocks": blocks,
        "loopback_gb_s": round(speed, 2),
        "copy_gb_s": round(copying(), 2),
        "rows": rows,
    }


def tables(found: dict[str, Any]) -> None:
    print(
        f"{found['setting']}; {found['cpus']} cpus; loopback {found['loopback_gb_s']} GB/s, copy {found['copy_gb_s']}"
    )
    print("a step in ms; ratio: median of blocks (least to most); alone: DDP's without communication;")
    print("cpu: processor time of all processes; limit: the bytes through loopback\n")
    print(
        f"{'d':>9} {'way':17} {'ratio':>6} {'':15} {'ours':>8} {'DDP':>8} {'alone':>8} {'cpu':>6} {'ours':>7} {'DDP':>7}"
        f" {'MB':>6} {'limit':>6}"
    )
    for row in found["rows"]:
        spread = f"({row['ratio_least']} to {row['ratio_most']})"
        print(
            f"{row['d']:>9} {row['way']:17} {row['ratio']:>6} {spread:15} {row['ms']:>8} {row['ddp_ms']:>8}"
            f" {row['alone_ms']:>8} {row['cpu_ratio']:>6} {row['cpu_ms']:>7} {row['ddp_cpu_ms']:>7}"
            f" {row['bytes_a_step'] / 1e6:>6.1f} {row['limit_ms']:>6}"
        )
    for row in found["rows"]:
        print(f"\n{row['d']} {row['way']}")
        for what in ("master_wall_ms", "master_cpu_ms", "worker_wall_ms", "worker_cpu_ms"):
            terms = ", ".join(f"{name} {ms:.3g}" for name, ms in row[what].items() if ms >= 0.02)
            print(f"  {what.removesuffix('_ms').replace('_', ', '):12} {terms}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", type=float, default=[1e5, 1e6, 1e7], help="parameters, about")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--blocks", type=int, default=7, help="pairs of blocks (default: 7)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of a block, about (default: 2)")
    parser.add_argument("--quick", action="store_true", help="3 blocks of 1 s, 1e5 and 1e6 parameters")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--out", type=Path, help="also write the JSON here")
    options = parser.parse_args()
    if options.quick:
        options.sizes, options.blocks, options.seconds = [d for d in options.sizes if d < 5e6], 3, 1.0
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    found = measure([round(d) for d in options.sizes], options.ways, options.blocks, options.seconds)
    if options.out is not None:
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if options.json:
        print(json.dumps(found, indent=1))
    else:
        tables(found)


if __name__ == "__main__":
    main()
