"""What the simulator costs: seconds and memory of a step by number of workers, beside the gradients alone.

    python benchmarks/simulator.py [--workers 100,1000,10000] [--steps 25] [--packed] [--json FILE]

A quadratic model of 100 parameters, one partition a worker, `joint` at 4 bits, shifted exponential delays, a fixed deadline.
The limit is what the same gradients take in a plain loop: those of the workers that make the deadline, as the others are
not computed. ``--packed`` also measures the full way (`simulate.pack_messages`): messages packed, each gradient alone, event
by event. Seconds are those of this process's processor, so that other work on the machine counts little. Each number of
workers is measured in a process of its own, so that memory is its own.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import resource
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

import gcdist
from gcdist.tasks import load_task

DIM = 100


def measured(workers: int, steps: int, packed: bool) -> dict[str, Any]:
    """One row of the table."""
    torch.set_num_threads(1)
    options = {"samples": workers, "blocks": workers, "dim": DIM}
    task = load_task("quadratic", options, 1, Path())
    config = gcdist.Config(
        steps=steps,
        task={"name": "quadratic", "batch_size": 1, "options": options},
        code={"scheme": "joint", "partitions": workers},
        quantizer={"bits": 4},
        straggler={"deadline": 0.3, "p": "model", "warmup_steps": 0},
        inject={"model": "shifted-exponential", "shift": 0.1, "mean": 0.05},
        cluster={"workers": workers},
        checkpoint={"keep": 0},
        simulate={"pack_messages": packed},
    )
    taken, computed = [], 0
    with (
        tempfile.TemporaryDirectory() as folder,
        gcdist.simulate(task, config, folder=Path(folder, "run"), say=lambda kind, text: None) as cluster,
    ):
        optimizer = torch.optim.SGD(task.model.parameters(), 0.1)
        for step in cluster.steps(steps):
            began = time.process_time()
            info = step.backward()
            optimizer.step()
            taken.append(time.process_time() - began)
            computed += len(info.arrived)
    gradients = min(workers, round(computed / steps))
    return {
        "workers": workers,
        "first step": taken[0],
        "seconds a step": statistics.median(taken[1:]),
        "longest step": max(taken[1:]),
        "plain gradients": min(plain(task, gradients) for _ in range(2)),
        "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
    }


def plain(task: Any, count: int) -> float:
    """Seconds of so many gradients, one after another."""
    began = time.process_time()
    for i in range(count):
        task.model.zero_grad()
        task.loss(task.model, task.batch([task.dataset[i]])).sum().backward()
    return time.process_time() - began


def alone(workers: int, steps: int, packed: bool) -> dict[str, Any]:
    """`measured` in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measured, workers, steps, packed).result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", default="100,1000,10000", help="with commas")
    parser.add_argument("--steps", type=int, default=25, help="a plan is made anew after 20")
    parser.add_argument("--packed", action="store_true", help="also the full way")
    parser.add_argument("--json", type=Path, help="write the rows there")
    options = parser.parse_args()
    rows = []
    print(
        f"{'workers':>8} {'first step':>11} {'s a step':>9} {'longest':>8} {'plain gradients':>16} {'MB':>6} "
        f"{'packed s a step':>16}"
    )
    for workers in map(int, options.workers.split(",")):
        row = alone(workers, options.steps, packed=False)
        if options.packed:
            row["packed seconds a step"] = alone(workers, options.steps, packed=True)["seconds a step"]
        rows.append(row)
        full = row.get("packed seconds a step", float("nan"))
        print(f"{row['workers']:>8} {row['first step']:>11.2f} {row['seconds a step']:>9.3f} "
              f"{row['longest step']:>8.2f} {row['plain gradients']:>16.3f} {row['megabytes']:>6.0f} "
              f"{full:>16.3f}", flush=True)  # fmt: skip
    if options.json:
        machine = {"cores": os.cpu_count(), "python": platform.python_version(), "torch": torch.__version__}
        options.json.write_text(
            json.dumps({"benchmark": "simulator", "machine": machine, "rows": rows}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
