"""The demo with workers killed at random times: steps a second and accuracy against the same run without kills.

    python benchmarks/chaos.py [--steps 300] [--mean 5] [--workers 8] [--transport tls] [--seed 0] [--out chaos.json]
    python benchmarks/chaos.py --soak --steps 1500      # ten minutes; one run with kills, memory and descriptors watched

`gcdist launch local` starts every process and starts dead workers again. Kills are SIGKILL from outside, at the times of a
Poisson process, of a worker drawn among those that live. A hang is a step that outlasts its deadline by a second.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

CONFIG = Path(__file__).resolve().parents[1] / "examples" / "digits.toml"
WORKERS = 8  # of the demo
GRACE = 1.0  # s over the deadline that a step may take on a busy machine


def ranks_below(launcher: int) -> dict[int, int]:
    """Process ids of the training processes by rank: descendants of the launcher that have a RANK."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError, IndexError, ValueError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found: dict[int, int] = {}
    for pid in parents:
        above = parents.get(pid, 0)
        while above not in (0, 1, launcher):
            above = parents.get(above, 0)
        if above != launcher:
            continue
        with contextlib.suppress(OSError):
            environment = dict(
                line.split("=", 1) for line in Path(f"/proc/{pid}/environ").read_text().split("\0") if "=" in line
            )
            # the first of a rank is the training process; loader processes below it have a larger id
            rank = int(environment.get("RANK", "-1"))
            if rank >= 0 and pid < found.get(rank, 1 << 62):
                found[rank] = pid
    return found


def size_of(pid: int) -> dict[str, int]:
    """Resident kB, descriptors and threads of a process."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    return {
        "rss_kb": int(status["VmRSS"].split()[0]),
        "descriptors": len(os.listdir(f"/proc/{pid}/fd")),
        "threads": int(status["Threads"]),
    }


def run(name: str, folder: Path, options: argparse.Namespace, mean: float) -> dict[str, Any]:
    """One run of the demo; workers are killed every ``mean`` seconds on average, infinity: never."""
    settings = {
        "name": json.dumps(name),
        "out": json.dumps(str(folder)),
        "steps": options.steps,
        "cluster.workers": options.workers,
        "summary.sync_check_steps": 0,
        "cluster.retry_first": 0.2,
        "cluster.transport": json.dumps(options.transport),
    }
    if options.workers != WORKERS:
        settings["inject.mean"] = 0.1  # the demo's list has a number for each of its workers
    command = [sys.executable, "-m", "gcdist", "launch", "local", "-n", str(options.workers), "--"]
    command += [sys.executable, "-m", "gcdist", "train", str(CONFIG)]
    command += [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    rng = np.random.default_rng(options.seed)
    kills: list[tuple[float, int]] = []
    sizes: list[dict[str, float]] = []
    metrics = folder / name / "metrics.jsonl"
    env = {**os.environ, "GCDIST_SECRET": os.urandom(32).hex()}
    with (folder / f"{name}.log").open("wb") as log:
        launcher = subprocess.Popen(
            command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True, env=env
        )
        began: float | None = None
        due = looked = 0.0
        seen: dict[int, int] = {}
        while launcher.poll() is None:
            time.sleep(0.05)
            now = time.monotonic()
            if began is None:
                if metrics.exists() and metrics.stat().st_size > 0:  # the first step is done
                    began = looked = now
                    due = now + rng.exponential(mean)
                continue
            if now >= due:
                due = now + rng.exponential(mean)
                alive = {rank: pid for rank, pid in ranks_below(launcher.pid).items() if rank > 0}
                if alive:
                    rank = int(rng.choice(sorted(alive)))
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(alive[rank], signal.SIGKILL)
                        kills.append((now - began, rank))
            if now >= looked:
                looked = now + 2.0
                seen = {**seen, **{r: p for r, p in ranks_below(launcher.pid).items() if r == 0}}
                with contextlib.suppress(OSError, KeyError):
                    sizes.append({"seconds": now - began, **size_of(seen[0])})
    if not metrics.exists():
        raise SystemExit(f"the run has not begun: {(folder / f'{name}.log').read_text().splitlines()[-1]}")
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    summary = json.loads((folder / name / "summary.json").read_text()) if launcher.returncode == 0 else {}
    late = [m["step"] for m in lines if m["step_seconds"] > (m["deadline"] or 60.0) + GRACE]
    return {
        "name": name,
        "exit_code": launcher.returncode,
        "steps": len(lines),
        "seconds": lines[-1]["seconds"],
        "steps_per_second": len(lines) / lines[-1]["seconds"],
        "test_accuracy": summary.get("metrics", {}).get("test_accuracy"),
        "kills": len(kills),
        "live_mean": statistics.mean(m["live"] for m in lines),
        "live_last": lines[-1]["live"],
        "longest_step": max(m["step_seconds"] for m in lines),
        "hangs": len(late),
        "left_over": len(ranks_below(launcher.pid)),
        "master": sizes,
    }


def growth(sizes: list[dict[str, float]], key: str) -> str:
    """The first and the last tenth of a run, by their medians."""
    tenth = max(1, len(sizes) // 10)
    first, last = (statistics.median(s[key] for s in part) for part in (sizes[:tenth], sizes[-tenth:]))
    return f"{first:.0f} -> {last:.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--mean", type=float, default=5.0, help="seconds between kills, on average")
    parser.add_argument("--workers", type=int, default=WORKERS)
    parser.add_argument("--transport", choices=("gloo", "tls"), default="gloo", help="plane of the links")
    parser.add_argument("--seed", type=int, default=0, help="of the kills")
    parser.add_argument("--soak", action="store_true", help="only the run with kills")
    parser.add_argument("--out", type=Path, help="write all figures to this JSON file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        plans = [("kills", options.mean)]
        if not options.soak:
            plans.insert(0, ("calm", float("inf")))
        results = [run(name, Path(folder), options, mean) for name, mean in plans]
    print(f"{'run':>6} {'exit':>4} {'kills':>5} {'steps':>6} {'seconds':>8} {'steps/s':>8} {'accuracy':>8} {'live':>5} "
          f"{'longest':>8} {'hangs':>5} {'left':>4}  master: kB, descriptors, threads")  # fmt: skip
    for r in results:
        accuracy = "-" if r["test_accuracy"] is None else f"{r['test_accuracy']:.2%}"
        sizes = (
            ", ".join(growth(r["master"], key) for key in ("rss_kb", "descriptors", "threads")) if r["master"] else "-"
        )
        print(f"{r['name']:>6} {r['exit_code']:>4} {r['kills']:>5} {r['steps']:>6} {r['seconds']:>8.1f} "
              f"{r['steps_per_second']:>8.3f} {accuracy:>8} {r['live_mean']:>5.2f} {r['longest_step']:>8.2f} "
              f"{r['hangs']:>5} {r['left_over']:>4}  {sizes}")  # fmt: skip
    if len(results) == 2:
        calm, kills = results
        print(f"steps a second with kills: {kills['steps_per_second'] / calm['steps_per_second']:.3f} of the calm run")
    if options.out:
        machine = {"cores": os.cpu_count(), "python": platform.python_version(), "torch": torch.__version__}
        arguments = {name: value for name, value in vars(options).items() if name not in ("soak", "out")}
        options.out.write_text(json.dumps({"machine": machine, **arguments, "runs": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
