"""A step of 11 million parameters on 4 hosts with thin links, against DistributedDataParallel's: network namespaces, one
method after the other.

Hosts have 100 Mbit/s each way. DDP has a rank a host; gcdist has its master on a fifth host, whose link is as thin as the
others' (``thin master``) or ten times as fast. Nobody is late. Seconds a step: median of the steps after the first three
(least to most). Bytes: of all messages of a step, both ways (DDP: not counted).

python benchmarks/hosts.py [--steps 10] [--rate 100] [--parameters 1.1e7] [--out results.json]      # root, ip and tc
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

TREE = Path(__file__).parents[1]
sys.path.append(str(TREE))  # for benchmarks.overhead; gcdist stays the installed one
import gcdist  # noqa: E402
from benchmarks.overhead import BATCH, loss_of, network, samples  # noqa: E402
from gcdist.bench.ddp import add_hook  # noqa: E402
from gcdist.bench.network import INTERFACE, Namespaces, why_not  # noqa: E402

HOSTS = 4
WARM = 3
FASTER = 10.0  # the master's link over the others', where it is not thin
LIMIT = 900.0  # seconds of one method
BURST, QUEUE = "64kb", "500ms"
METHODS: dict[str, dict[str, Any]] = {
    "DDP, float32": {"hook": ""},
    "DDP, bf16 hook": {"hook": "bf16"},
    "gcdist, float32 both ways": {"quantizer": {"name": "float32", "bits": 32, "downlink": "float32"}},
    "gcdist, default (4 bits both ways)": {"quantizer": {}},
    "gcdist, default, thin master": {"quantizer": {}, "thin": True},
}


def ddp(rank: int, steps: int, d: int, hook: str) -> dict[str, Any] | None:
    """Seconds of each step, told by rank 0."""
    dist.init_process_group("gloo")
    model = DistributedDataParallel(network(d), gradient_as_bucket_view=True)
    add_hook(model, hook)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    data, times = samples(), []
    for step in range(steps + WARM):
        at = (step * HOSTS + rank) * BATCH % len(data)
        began = time.perf_counter()
        optimizer.zero_grad()
        loss_of(model, data[at : at + BATCH]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        dist.barrier()
        times.append(time.perf_counter() - began)
    dist.destroy_process_group()
    return {"seconds": times} if rank == 0 else None


def ours(rank: int, steps: int, d: int, quantizer: dict[str, Any], folder: str) -> dict[str, Any] | None:
    """Seconds and bytes of each step, told by the master."""
    task = gcdist.Task(network(d), samples(), loss_of, batch_size=BATCH)
    config = {
        "code": {"scheme": "sync", "partitions": HOSTS},
        "quantizer": quantizer,
        "cluster": {"threads": 1, "interface": INTERFACE},
        "checkpoint": {"keep": 0},
    }
    with gcdist.connect(task, config, folder=folder, say=lambda *_: None, on_worker="return") as cluster:
        if rank > 0:
            return None
        optimizer = torch.optim.SGD(task.model.parameters(), lr=0.01)
        times, nbytes, began = [], [], time.perf_counter()
        for step in cluster.steps(steps + WARM):
            info = step.backward()
            optimizer.step()
            now = time.perf_counter()
            times.append(now - began)
            nbytes.append(info.bytes_up + info.bytes_down)
            began = now
    return {"seconds": times, "bytes": statistics.median(nbytes[WARM:])}


def rank_of_method(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    method, d = METHODS[options.method], round(options.parameters)
    if "hook" in method:
        told = ddp(options.rank, options.steps, d, method["hook"])
    else:
        told = ours(options.rank, options.steps, d, method["quantizer"], options.folder)
    if told is not None:
        Path(options.folder, "told.json").write_text(json.dumps(told))


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """One method on hosts of its own."""
    method = METHODS[name]
    world = HOSTS if "hook" in method else HOSTS + 1
    with tempfile.TemporaryDirectory() as folder, Namespaces(world) as hosts:
        for rank in range(world):
            fast = world > HOSTS and rank == 0 and not method.get("thin")
            rate = f"{options.rate * (FASTER if fast else 1.0):g}mbit"
            hosts.limit_sending(rank, rate, BURST, QUEUE)
            hosts.limit_receiving(rank, rate, BURST, QUEUE)
        base = os.environ | {"MASTER_ADDR": hosts.address(0), "MASTER_PORT": "29400", "WORLD_SIZE": str(world)}
        base |= {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": INTERFACE, "TORCH_CPP_LOG_LEVEL": "ERROR"}
        command = [sys.executable, __file__, "--steps", str(options.steps), "--parameters", str(options.parameters)]
        command += ["--method", name, "--folder", folder]
        ranks = [
            subprocess.Popen(
                ["ip", "netns", "exec", hosts.name(rank), *command, "--rank", str(rank)], env=base | {"RANK": str(rank)}
            )
            for rank in range(world)
        ]
        try:
            until = time.monotonic() + LIMIT
            for process in ranks:
                process.wait(max(1.0, until - time.monotonic()))
        finally:
            for process in ranks:
                process.kill()
                process.wait()
        told = json.loads(Path(folder, "told.json").read_text())
    times = told["seconds"][WARM:]
    return {
        "method": name,
        "seconds": round(statistics.median(times), 3),
        "least": round(min(times), 3),
        "most": round(max(times), 3),
        "bytes": told.get("bytes"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rate", type=float, default=100.0, help="Mbit/s of a host's link, each way (default: 100)")
    parser.add_argument("--parameters", type=float, default=1.1e7)
    parser.add_argument("--out", type=Path, help="file of the rows, as JSON")
    for name in ("--method", "--folder"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.method is not None:
        rank_of_method(options)
        return
    if blocked := why_not():
        raise SystemExit(f"benchmarks/hosts.py: {blocked}")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that hosts and ranks go, too
    rows = []
    for name in METHODS:
        rows.append(measure(name, options))
        row = rows[-1]
        nbytes = f", {row['bytes'] / 1e6:.1f} MB a step" if row["bytes"] else ""
        print(f"{name:36} {row['seconds']:7.2f} s a step ({row['least']:.2f} to {row['most']:.2f}){nbytes}", flush=True)
        if options.out:
            found = {"benchmark": "hosts", "rate_mbit": options.rate, "parameters": options.parameters, "rows": rows}
            options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
