"""What-if against real runs: each run's recorded times replayed with the settings of the others, beside what those took.

Real processes of one machine: 4 workers of the digits, delays injected (by seed, worker and step, so that all runs meet the
same ones). A row: the recorded run, the changed settings, seconds predicted, seconds of the real run, their ratio.

python benchmarks/what_if.py [--steps 120] [--seeds 0 1] [--out runs/what-if] [--json results.json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from gcdist.report import read_run
from gcdist.report.whatif import outcomes

SETTINGS = {
    "deadline 0.25": ["straggler.deadline=0.25", 'code.scheme="joint"'],
    "deadline 0.5": ["straggler.deadline=0.5", 'code.scheme="joint"'],
    "wait": ['straggler.deadline="wait"', 'code.scheme="sync"'],
    "auto": ['straggler.deadline="auto"', 'code.scheme="auto"'],
}
INJECT = ['inject.model="shifted-exponential"', "inject.shift=0.1", "inject.mean=[0.03, 0.05, 0.1, 0.4]"]
COMMON = ["cluster.workers=4", "code.partitions=16", "checkpoint.keep=0"]


def real_run(out: Path, name: str, changes: list[str], steps: int, seed: int, where: str) -> Path:
    """The folder of a finished run by real processes; one that is there is not run again."""
    folder = out / f"{name.replace(' ', '-')}-{where}-{seed}"
    if (folder / "summary.json").exists():
        return folder
    task = out / "task.toml"
    task.write_text('[task]\nname = "digits"\nbatch_size = 4\n[optimizer]\nname = "sgd"\nlr = 0.2\n')
    values = [*COMMON, *INJECT, *changes, f"steps={steps}", f"seed={seed}", f'inject.where="{where}"']
    values += [f'out="{out.resolve()}"', f'name="{folder.name}"']
    sets = [part for value in values for part in ("--set", value)]
    command = [sys.executable, "-m", "gcdist", "launch", "local", "-n", "4", "--"]
    command += [sys.executable, "-m", "gcdist", "train", str(task.resolve()), *sets]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        raise SystemExit(f"{folder.name}: the run failed\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return folder


def compare(folders: dict[str, Path], seed: int, where: str) -> list[dict[str, Any]]:
    """Every run replayed with the settings of every other one, and with its own."""
    runs = {name: read_run(folder) for name, folder in folders.items()}
    took = {name: float(run.series["seconds"][-1]) for name, run in runs.items()}
    rows = []
    for recorded, run in runs.items():
        found = outcomes(run, list(SETTINGS.values()), print)[1:]
        for name, row in zip(SETTINGS, found, strict=True):
            rows.append(
                {
                    "recorded": recorded,
                    "changed": name,
                    "where": where,
                    "seed": seed,
                    "predicted": round(row.seconds, 2),
                    "real": round(took[name], 2),
                    "ratio": round(row.seconds / took[name], 3),
                }
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--where", nargs="+", choices=["message", "compute"], default=["message", "compute"])
    parser.add_argument("--out", type=Path, default=Path("runs/what-if"), help="folder of the runs; it goes on there")
    parser.add_argument("--json", type=Path, help="file of the rows")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for seed in options.seeds:
        for where in options.where:
            folders = {
                name: real_run(options.out, name, changes, options.steps, seed, where)
                for name, changes in SETTINGS.items()
            }
            rows += compare(folders, seed, where)
    for row in rows:
        print(
            f"{row['where']}, seed {row['seed']}: from {row['recorded']:<13} to {row['changed']:<13} "
            f"{row['predicted']:7.2f} s predicted, {row['real']:7.2f} s real, {row['ratio']:.2f} times"
        )
    off = [abs(row["ratio"] - 1.0) for row in rows if row["recorded"] != row["changed"]]
    print(f"off by {statistics.median(off):.1%} (median), {max(off):.1%} (worst) of {len(off)}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
