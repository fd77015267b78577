"""What many real workers cost on one machine: seconds until the first step, seconds of a step, memory of a worker.

    python benchmarks/many_processes.py [--workers 4,16,64] [--steps 60] [--json FILE]

Digits with a perceptron of 9,610 parameters, nobody is slow, everything else as it is by default. Resident memory counts
what processes share (libraries) in each of them; private memory is what one more worker takes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

LIMIT = 300.0  # seconds until a run has made its steps
ENDING = 30.0  # seconds that its processes have to end when they are told
WARM = 10  # first steps, not counted


def memory(pid: int) -> tuple[float, float]:
    """Resident and private megabytes of a process."""
    kib: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, value = line.split()[:2]
        kib[name] = int(value)
    return kib["Rss:"] / 1024, (kib["Private_Clean:"] + kib["Private_Dirty:"]) / 1024


def ranks(folder: Path) -> dict[int, int]:
    """Process of each rank, by what the kernel has of its environment and its command."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = dict(word.split(b"=", 1) for word in (path / "environ").read_bytes().split(b"\0") if b"=" in word)
            mine = str(folder).encode() in (path / "cmdline").read_bytes()
        except OSError:
            continue  # it has ended, or is somebody else's
        if mine and b"RANK" in words:
            found[int(words[b"RANK"])] = int(path.name)
    return found


def step_ends(folder: Path) -> list[float]:
    """Seconds of the run at which its steps ended; a line that is being written does not count yet."""
    lines = [line for path in folder.glob("*/metrics.jsonl") for line in path.open()]
    return [json.loads(line)["seconds"] for line in lines if line.endswith("\n")]


def end(run: subprocess.Popen[bytes]) -> None:
    """End a launcher and its workers, whatever they do."""
    for told in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(run.pid, told)
        with contextlib.suppress(subprocess.TimeoutExpired):
            run.wait(ENDING)
            return


def measured(workers: int, steps: int) -> dict[str, Any]:
    """One run."""
    with tempfile.TemporaryDirectory(prefix="gcdist-many-") as name:
        folder, gcdist = Path(name), [sys.executable, "-m", "gcdist"]
        config = folder / "run.toml"
        config.write_text(
            f'steps = {steps}\nout = "{folder}"\n[task]\nname = "digits"\n[task.options]\nmodel = "mlp"\n'
            "[summary]\nsync_check_steps = 0\n[checkpoint]\nkeep = 0\n"
        )
        began = time.monotonic()
        command = [*gcdist, "launch", "local", "-n", str(workers), "--", *gcdist, "train", str(config)]
        with (folder / "log").open("wb") as log:
            run = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)
        first = 0.0
        sizes: dict[int, tuple[float, float]] = {}
        try:
            while run.poll() is None and time.monotonic() - began < LIMIT:
                made = len(step_ends(folder))
                if made and not first:
                    first = time.monotonic() - began
                if made > WARM and not sizes:
                    sizes = {rank: memory(pid) for rank, pid in ranks(folder).items()}
                time.sleep(0.1)
        finally:
            if run.poll() is None:
                end(run)
        ends = step_ends(folder)
        if len(ends) < steps or set(sizes) != set(range(workers + 1)):
            seconds = time.monotonic() - began
            last = (folder / "log").read_text(errors="replace").splitlines()[-3:]
            raise SystemExit(f"{workers} workers: {len(ends)} of {steps} steps after {seconds:.0f} s; log: {last}")
        each = [size for rank, size in sizes.items() if rank > 0]
        return {
            "workers": workers,
            "seconds to the first step": round(first, 1),
            "seconds a step": round(statistics.median(after - before for before, after in pairwise(ends[WARM:])), 4),
            "resident MB a worker": round(statistics.median(size[0] for size in each)),
            "private MB a worker": round(statistics.median(size[1] for size in each)),
            "resident MB of the master": round(sizes[0][0]),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", default="4,16,64", help="numbers of workers (default: 4,16,64)")
    parser.add_argument("--steps", type=int, default=60, help="of each run (default: 60)")
    parser.add_argument("--json", type=Path, help="file of the results")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # its processes are ended then, too
    rows = []
    for workers in (int(word) for word in options.workers.split(",")):
        rows.append(measured(workers, options.steps))
        print(", ".join(f"{name}: {value}" for name, value in rows[-1].items()), flush=True)
        if options.json:
            found = {"benchmark": "many processes", "cores": len(os.sched_getaffinity(0)), "rows": rows}
            options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
