"""A short run of the user's own config that waits for all: the data of the doctor's forecast."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from gcdist.doctor.recorded import Recorded, from_run

STEPS = 40
_SETTINGS = (
    f"steps={STEPS}",
    'code.scheme="sync"',
    "code.options={}",
    'straggler.deadline="wait"',
    "checkpoint.keep=0",
    "evaluation.every=0",
    "summary.sync_check_steps=0",
    'name="probe"',
)


def probe(config: Path, workers: int, folder: Path) -> Recorded:
    """Train some steps by processes of this machine, waiting for all.

    Raises:
        ValueError: the run failed; its last line has the reason.
    """
    settings = [word for each in (*_SETTINGS, f'out="{folder}"') for word in ("--set", each)]
    gcdist = [sys.executable, "-m", "gcdist"]
    command = [*gcdist, "launch", "local", "-n", str(workers), "--", *gcdist, "train", str(config), *settings]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no word of it"]
        raise ValueError(f"--probe: the run of {config} failed: {lines[-1]}")
    return from_run(folder / "probe")
