"""How fast plans are made: bit allocation, `chain` and whole plans by number of workers, on one core.

``python benchmarks/planner.py [--repeat 5] [--largest 1000000] [--json FILE] [--plot FILE]`` prints one JSON document.
Setting: the papers' p and noise law, 5 bits a worker on average and at most 8; each figure is the median over repeats.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gcdist.coding import allocate_bits, get_code, row_costs, row_sums
from gcdist.coding.supports import chain
from gcdist.planning import make_plan
from gcdist.types import F64, I64, Problem

BITS_MAX = 8
LIMITS = {"dp": 2_000, "waterfill": 200, "envelope": 1_000_000, "chain": 1_000_000, "joint plan": 100_000}


def setting(n: int, seed: int) -> tuple[F64, F64, I64]:
    p_N = np.exp(-np.random.default_rng(seed).uniform(0.01, 2.0, n) * 0.1)
    levels = 2.0 ** np.arange(1, BITS_MAX + 1) - 1
    return p_N, np.append(np.inf, 0.005 * p_N.mean() * 63**2 / levels**2), np.full(n, BITS_MAX)


def seconds(work: Callable[[], object], repeat: int) -> float:
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def measure(n: int, repeat: int) -> list[dict[str, Any]]:
    p_N, noise, cap_N = setting(n, seed=n)
    rows: list[dict[str, Any]] = []
    for solver in ("dp", "waterfill", "envelope"):
        if n <= LIMITS[solver]:
            found = allocate_bits(p_N, noise, 5 * n, cap_N, solver)
            took = seconds(lambda s=solver: allocate_bits(p_N, noise, 5 * n, cap_N, s), repeat)  # type: ignore[misc]
            gap = found.gap / found.F
            rows.append({"what": solver, "n": n, "seconds": took, "relative_gap": gap, "F": found.F})
    Y_N = row_sums(row_costs(p_N), float(n))
    rows.append({"what": "chain", "n": n, "seconds": seconds(lambda: chain(Y_N, np.ones(n)), repeat)})
    if n <= LIMITS["joint plan"]:

        def late(worker: int, loads: F64) -> F64:
            return np.full(len(loads), p_N[worker])

        problem = Problem(np.full(n, 1 / n), late, noise, 5.0 * n, cap_N, np.full(n, np.inf))
        code = get_code("joint", solver="auto" if n <= 1000 else "envelope")
        rows.append(
            {"what": "joint plan", "n": n, "seconds": seconds(lambda: make_plan(code, problem, 0), min(repeat, 3))}
        )
    return rows


def plot(rows: list[dict[str, Any]], file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for what in LIMITS:
        at = [(r["n"], r["seconds"]) for r in rows if r["what"] == what]
        axes.loglog(*zip(*at, strict=True), "o-", label=what)
    axes.set(xlabel="workers", ylabel="seconds, one core", title="Time to plan, 5 bits a worker")
    axes.grid(True, which="major", alpha=0.3)
    axes.legend()
    figure.savefig(file, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--largest", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path, help="also write the document here")
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    sizes = [n for n in (50, 100, 1_000, 10_000, 100_000, 1_000_000) if n <= options.largest]
    rows = [row for n in sizes for row in measure(n, options.repeat)]
    document = {
        "benchmark": "planner",
        "setting": "papers' p and noise law, 5 bits a worker, at most 8",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "machine": platform.machine(),
        "rows": rows,
    }
    text = json.dumps(document, indent=1)
    print(text)
    if options.json is not None:
        options.json.write_text(text + "\n", encoding="utf-8")
    if options.plot is not None:
        plot(rows, options.plot)


if __name__ == "__main__":
    main()
