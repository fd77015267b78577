"""Object detection on COCO under stragglers: the papers' experiment, a smaller one with real processes, and an overfit.

    python benchmarks/coco.py study [--workers 50] [--steps 100] [--seeds 3] [--methods joint,sgc] [--root /data/coco]
    python benchmarks/coco.py processes [--model ssdlite320_mobilenet_v3_large --batch 2 --steps 30]
    python benchmarks/coco.py overfit

``study``: n workers on a virtual clock with real gradients. Worker i answers after 1 + Exp(1/mu_i), mu_i ~ U[0.01, 2], and a
step ends at Z = 1.1, so that it misses with p_i = exp(-mu_i (Z-1)). Only what arrives is computed: about n (1 - mean p) of
the n messages; ``exact`` waits for all, in float32. ``processes`` is the same with one process a worker, delays in seconds,
and Z = 2, as few workers have nothing at the papers' Z. Its floor (--unit) must be longer than the computing takes.

The cost of a step is in seconds of one core (``study``), of the whole machine (``processes``).

Each (method, seed) is one JSON file in --out and is not run again while its settings are the same: stop and go on at will.
``overfit``: 24 images, 8 processes, `joint`, p up to 0.5, 4 bits on average; a plain loop in one process beside it.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

import gcdist
from gcdist.bench.processes import end_with_benchmark
from gcdist.observe import read_metrics
from gcdist.observe.folder import read_lines
from gcdist.tasks import load_task

HERE = Path(__file__).resolve().parent
# name -> scheme, its options; redundancy 2 where it is an option (joint's chain: 2 - 1/n)
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "exact": ("sync", {}),
    "joint": ("joint", {}),
    "self-normalised": ("self-normalised", {}),
    "osgc": ("osgc", {}),
    "sgc": ("sgc", {"r": 2}),
    "bgc": ("bgc", {"r": 2.0}),
    "erasurehead": ("erasurehead", {"r": 2}),
    "expander": ("expander", {"r": 2}),
    "ignore": ("ignore", {}),
}
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (7, 2)), (0, (2, 3)))
MARKERS = "osD^v<>Px"
Z = 1.1  # the papers': a deadline at so many times the least time
TAIL = 5  # evaluations whose mean is a run's last loss: single ones jump
PROCESSES = "joint,osgc,sgc,ignore"  # by default


def rates(workers: int) -> list[float]:
    """mu_i: the same for all seeds and methods."""
    found: list[float] = np.random.default_rng(0).uniform(0.01, 2.0, workers).tolist()
    return found


def settings(method: str, seed: int, options: argparse.Namespace, unit: float) -> dict[str, Any]:
    """The config of one run; ``unit`` seconds are the papers' time of 1."""
    scheme, chosen = METHODS[method]
    n, exact = options.workers, method == "exact"
    quantizer = {"name": "float32"} if exact else {"name": options.quantizer, "bits": options.bits}
    return {
        "seed": seed,
        "steps": options.steps,
        "task": {
            "name": "coco",
            "batch_size": options.batch,
            "options": {
                "root": options.root,
                "model": options.model,
                "size": options.size,
                "images": options.images,
                "eval_images": options.eval_images,
                "eval_ap": False,
                "seed": seed,
            },
        },
        "optimizer": {"name": "sgd", "lr": options.lr},
        "code": {"scheme": scheme, "options": chosen, "partitions": n},
        "quantizer": quantizer,
        "straggler": {
            "deadline": "wait" if exact else options.z * unit,
            "p": "measured" if exact else "model",
            "max_wait": 1e9,
            "warmup_steps": 0,
        },
        "inject": {
            "model": "shifted-exponential",
            "shift": unit,
            "mean": [unit / rate for rate in rates(n)],
        },
        "cluster": {"workers": n},
        "simulate": {"latency": 0.0, "bandwidth": 1e18, "compute_seconds": 0.0},
        "checkpoint": {"keep": 0},
        "evaluation": {"every": options.every},
    }


def told(values: dict[str, Any]) -> Any:
    """Settings as JSON gives them back."""
    return json.loads(json.dumps(values))


def curve_of(folder: Path) -> list[list[float]]:
    """Of each evaluation: steps, seconds of the run, megabytes up, held-out loss."""
    up = np.cumsum([0, *(line["bytes_up"] for line in read_metrics(folder))])
    return [
        [line["step"], line["seconds"], float(up[line["step"]]) / 1e6, line["metrics"]["test_loss"]]
        for line in read_lines(folder / "evaluations.jsonl")
    ]


def arrivals_of(folder: Path, n: int) -> float:
    """The share of the messages that made the deadline."""
    return statistics.mean(len(line["arrived"]) / n for line in read_metrics(folder))


def simulated(method: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """One run on the virtual clock."""
    torch.set_num_threads(1)
    values = settings(method, seed, options, 1.0)
    task = load_task("coco", values["task"]["options"], options.batch, Path())
    began = time.process_time()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        with gcdist.simulate(task, gcdist.Config(**values), folder=folder, say=lambda kind, text: None) as cluster:
            optimizer = torch.optim.SGD(task.model.parameters(), options.lr)
            cluster.evaluate()
            for step in cluster.steps(options.steps):
                step.backward()
                optimizer.step()
            cluster.final_evaluation()
        seconds = time.process_time() - began
        curve, arrived = curve_of(folder), arrivals_of(folder, options.workers)
    return {"curve": curve, "arrived": arrived, "cost": seconds, "settings": told(values)}


def launched(method: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """One run with a process for each worker on this machine."""
    values = settings(method, seed, options, options.unit)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        folder = launch({**values, "out": place, "name": "run"}, Path(place))
        seconds = time.perf_counter() - began
        curve, arrived = curve_of(folder), arrivals_of(folder, options.workers)
    return {"curve": curve, "arrived": arrived, "cost": seconds, "settings": told(values)}


def launch(values: dict[str, Any], place: Path) -> Path:
    """`gcdist launch local -- gcdist train` with these settings; the run's folder."""
    config = gcdist.Config(**values)
    file = place / "config.toml"
    file.write_text(gcdist.config.dump_config(config))
    python = [sys.executable, "-m", "gcdist"]
    command = [*python, "launch", "local", "-n", str(config.cluster.workers), "--", *python, "train", str(file)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=one_thread())
    if done.returncode:
        raise SystemExit(f"the run ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return Path(values["out"], values["name"])


def one_thread() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def work(job: tuple[str, int, argparse.Namespace]) -> str:
    """Run one (method, seed), unless its file has it already; a line about it."""
    method, seed, options = job
    path = options.out / f"{method}-{seed}.json"
    unit = options.unit if options.what == "processes" else 1.0
    if path.exists() and json.loads(path.read_text())["settings"] == told(settings(method, seed, options, unit)):
        return f"{method} {seed}: is there"
    found = (simulated if options.what == "study" else launched)(method, seed, options)
    record = {"method": method, "seed": seed, **found}
    half = path.with_suffix(".part")
    half.write_text(json.dumps(record) + "\n")
    half.replace(path)
    each = record["cost"] / options.steps
    return f"{method} {seed}: {record['curve'][-1][3]:.3f} after {options.steps} steps, {each:.2f} s a step"


def compare(options: argparse.Namespace) -> None:
    """All methods and seeds, then the table, one JSON document and the plot."""
    options.out.mkdir(parents=True, exist_ok=True)
    methods = options.methods.split(",") if options.methods else list(METHODS)
    if unknown := [name for name in methods if name not in METHODS]:
        raise SystemExit(f"--methods: {', '.join(unknown)} unknown; allowed: {', '.join(METHODS)}")
    jobs = [(method, seed, options) for seed in range(options.seeds) for method in methods]
    if options.jobs > 1:
        with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn"), end_with_benchmark) as pool:
            for line in pool.map(work, jobs):
                print(line, flush=True)
    else:
        for job in jobs:
            print(work(job), flush=True)
    runs = {m: [json.loads((options.out / f"{m}-{s}.json").read_text()) for s in range(options.seeds)] for m in methods}
    rows = table(runs, options)
    kept = (
        "steps",
        "seeds",
        "workers",
        "batch",
        "size",
        "model",
        "lr",
        "quantizer",
        "bits",
        "images",
        "eval_images",
        "z",
    )
    document = {
        "benchmark": f"coco {options.what}",
        "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "torch": torch.__version__},
        "arguments": {key: getattr(options, key) for key in kept},
        "mean p": statistics.mean(math.exp(-rate * (options.z - 1)) for rate in rates(options.workers)),
        "rows": rows,
        "runs": {
            method: [{k: v for k, v in run.items() if k != "settings"} for run in each] for method, each in runs.items()
        },
    }
    (options.out / "all.json").write_text(json.dumps(document, indent=1) + "\n")
    plot(runs, options)
    print(f"written: {options.out / 'all.json'}, {options.out / 'all.png'}")


def spread(values: list[float]) -> tuple[float, float]:
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def table(runs: dict[str, list[dict[str, Any]]], options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row a method: held-out loss at the end (mean of ``TAIL`` evaluations), and at the time when the quickest ends."""
    time_end = min(run["curve"][-1][1] for each in runs.values() for run in each)
    rows = []
    print(f"{'method':>16} {'first loss':>10} {'last loss':>16} {f'at {time_end:.0f} s':>16} {'seconds':>9} {'MB up':>8} "
          f"{'arrived':>8} {'cost':>10}")  # fmt: skip
    for method, each in runs.items():
        first, _ = spread([run["curve"][0][3] for run in each])
        last, last_sd = spread([statistics.mean(point[3] for point in run["curve"][-TAIL:]) for run in each])
        then, then_sd = spread([[x for x in run["curve"] if x[1] <= time_end * (1 + 1e-9)][-1][3] for run in each])
        seconds, megabytes = (statistics.mean(run["curve"][-1][i] for run in each) for i in (1, 2))
        arrived = statistics.mean(run["arrived"] for run in each)
        cost = statistics.mean(run["cost"] for run in each) / options.steps
        print(f"{method:>16} {first:>10.3f} {last:>8.3f} +-{last_sd:>6.3f} {then:>8.3f} +-{then_sd:>6.3f} {seconds:>9.1f} "
              f"{megabytes:>8.1f} {arrived:>8.1%} {cost:>10.2f}")  # fmt: skip
        rows.append({"method": method, "first_loss": first, "last_loss": last, "last_loss_sd": last_sd,
                     "loss_at_equal_time": then, "loss_at_equal_time_sd": then_sd, "equal_time": time_end,
                     "seconds": seconds, "megabytes_up": megabytes, "arrived": arrived,
                     "cost_a_step": cost})  # fmt: skip
    return rows


def plot(runs: dict[str, list[dict[str, Any]]], options: argparse.Namespace) -> None:
    """Held-out loss by iterations, time and bytes: mean of the seeds, from the least to the largest shaded."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    seconds = "virtual seconds" if options.what == "study" else "seconds"
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.2), layout="constrained", sharey=True)
    points = [point for each in runs.values() for run in each for point in run["curve"]]
    starts = [0.0, *(min(point[i] for point in points if point[i] > 0) / 2 for i in (1, 2))]
    for number, (method, each) in enumerate(runs.items()):
        curves = np.array([run["curve"] for run in each])
        loss = curves[:, :, 3]
        style: dict[str, Any] = {"ls": LINES[number], "marker": MARKERS[number], "color": f"C{number}", "markersize": 4}
        for axis, column, name in zip(axes, (0, 1, 2), ("iterations", seconds, "megabytes up"), strict=True):
            x = curves[:, :, column].mean(0)
            if x[0] == 0:
                x[0] = starts[column]  # a log axis has no 0: all begin at its left end
            axis.plot(x, loss.mean(0), label=method, markevery=max(1, len(x) // 8), **style)
            axis.fill_between(x, loss.min(0), loss.max(0), color=style["color"], alpha=0.15, linewidth=0)
            axis.set_xlabel(name)
            axis.grid(alpha=0.3)
    for axis in axes[1:]:
        axis.set_xscale("log")
    axes[0].set_ylabel("held-out loss")
    axes[0].legend(fontsize=7)
    figure.suptitle(
        f"{options.model}, {options.workers} workers, seeds: {options.seeds}, {options.quantizer} {options.bits} bits"
    )
    figure.savefig(options.out / "all.png", dpi=110)


def overfit(options: argparse.Namespace) -> None:
    """24 images, 8 processes; then the same in one plain process."""
    n, unit = 8, options.unit
    p = [0.02, 0.05, 0.1, 0.1, 0.2, 0.3, 0.4, 0.5]
    deadline = 1.6 * unit
    task: dict[str, Any] = {"root": options.root, "val": "train2017", "images": 24, "eval_images": 24, "augment": False}
    values = {
        "steps": options.steps,
        "out": str(options.out),
        "name": f"overfit-{time.strftime('%H%M%S')}",
        "task": {"name": "coco", "batch_size": 3, "options": task},
        "optimizer": {"name": "adam", "lr": options.lr},
        "code": {"scheme": "joint", "partitions": n},
        "quantizer": {"bits": 4},
        "straggler": {"deadline": deadline},
        "inject": {
            "model": "shifted-exponential",
            "shift": unit,
            "mean": [(deadline - unit) / math.log(1 / each) for each in p],
        },
        "cluster": {"workers": n},
        "evaluation": {"every": max(1, options.steps // 8)},
    }
    options.out.mkdir(parents=True, exist_ok=True)
    folder = launch(values, options.out)
    losses = [line["loss"] for line in read_metrics(folder)]
    summary = json.loads((folder / "summary.json").read_text())
    alone = single(task, options)
    found: dict[str, Any] = {
        "benchmark": "coco overfit",
        "arguments": {"steps": options.steps, "lr": options.lr, "injected p": p, "floor": unit, "deadline": deadline},
        "eight processes": {
            "first_loss": losses[0],
            "last_loss": statistics.mean(x for x in losses[-10:] if x is not None),
            "losses": losses,
            "evaluations": list(read_lines(folder / "evaluations.jsonl")),
            "summary": {key: value for key, value in summary.items() if key != "folder"},
        },
        "one process": alone,
    }
    for name in ("eight processes", "one process"):
        each = found[name]
        print(f"{name}: loss {each['first_loss']:.3f} to {each['last_loss']:.4f} "
              f"({each['first_loss'] / each['last_loss']:.0f} times), {each['evaluations'][-1]['metrics']}")  # fmt: skip
    print(f"run folder: {folder}; to look at it: gcdist coco pictures {folder} --split train")
    (HERE / "results" / "coco-overfit.json").write_text(json.dumps(found, indent=1) + "\n")


def single(task: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """The same images, batches and optimizer in a plain loop."""
    torch.set_num_threads(1)
    built = load_task("coco", task, 3, Path())
    optimizer = torch.optim.Adam(built.model.parameters(), options.lr)
    batches = [built.batch([built.dataset[i] for i in part]) for part in built.partitions(8)]
    losses = []
    for _ in range(options.steps):
        optimizer.zero_grad()
        total = 0.0
        for batch in batches:
            loss = built.loss(built.model, batch) / len(batches)
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        optimizer.step()
        losses.append(total)
    assert built.evaluate is not None
    metrics = built.evaluate(built.model)
    last = {"step": options.steps, "metrics": metrics}
    return {
        "first_loss": losses[0],
        "last_loss": statistics.mean(losses[-10:]),
        "losses": losses,
        "evaluations": [last],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="what", required=True)
    for what, steps, workers, lr in (("study", 100, 50, 0.05), ("processes", 60, 8, 0.05), ("overfit", 300, 8, 1e-3)):
        sub = kinds.add_parser(what)
        sub.add_argument("--root", default="../shared/data/coco-small", help="a folder in COCO's layout")
        sub.add_argument("--steps", type=int, default=steps)
        sub.add_argument("--lr", type=float, default=lr)
        if what == "overfit":
            sub.add_argument("--out", type=Path, default=Path("runs"))
            sub.add_argument("--unit", type=float, default=1.0, help="seconds: the floor of a worker's delay")
            continue
        sub.add_argument("--out", type=Path, default=HERE / "results" / f"coco-{what}")
        sub.add_argument(
            "--methods", default=PROCESSES if what == "processes" else None, help="with commas; study: all"
        )
        sub.add_argument(
            "--z", type=float, default=2.0 if what == "processes" else Z, help="the deadline over the floor"
        )
        sub.add_argument("--seeds", type=int, default=3)
        sub.add_argument("--workers", type=int, default=workers, help="and partitions")
        sub.add_argument("--batch", type=int, default=4, help="images of a partition in a step")
        sub.add_argument("--model", default="compact")
        sub.add_argument("--size", type=int, default=0, help="pixels; 0: the model's own")
        sub.add_argument("--images", type=int, default=0, help="train on the first so many")
        sub.add_argument("--eval-images", type=int, default=0, help="evaluate on the first so many")
        sub.add_argument("--every", type=int, default=5, help="steps between two evaluations")
        sub.add_argument("--quantizer", default="bucket")
        sub.add_argument(
            "--bits", type=int, default=6, help="packed, sign included: the papers' 5 magnitude bits are 6"
        )
        sub.add_argument("--unit", type=float, default=2.0, help="processes: seconds of the papers' time of 1")
        sub.add_argument("--jobs", type=int, default=1, help="runs side by side (study)")
    options = parser.parse_args()
    overfit(options) if options.what == "overfit" else compare(options)


if __name__ == "__main__":
    main()
