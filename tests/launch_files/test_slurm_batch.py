"""The sbatch file without SLURM: shellcheck, and what it refuses. With a real one: tests/cluster/test_slurm.py."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

BATCH = Path(__file__).parents[2] / "launch" / "slurm" / "gcdist.sbatch"


def test_shellcheck_finds_nothing() -> None:
    shellcheck = shutil.which("shellcheck")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run([shellcheck, BATCH], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize(
    ("command", "tasks", "told"),
    [
        ([], "3", "no command given; for example: sbatch gcdist.sbatch gcdist train my.toml --resume runs/my-run"),
        (["true"], "1", "found --ntasks=1; a master and at least one worker are needed"),
    ],
)
def test_what_it_refuses(command: list[str], tasks: str, told: str) -> None:
    env = {**os.environ, "SLURM_NTASKS": tasks}
    done = subprocess.run(["bash", BATCH, *command], capture_output=True, text=True, env=env, check=False)
    assert (done.returncode, done.stderr) == (2, f"gcdist.sbatch: {told}\n")


def test_a_failing_node_or_a_full_time_does_not_end_the_run() -> None:
    options = [line.removeprefix("#SBATCH ") for line in BATCH.read_text().splitlines() if line.startswith("#SBATCH ")]
    assert {"--requeue", "--no-kill", "--signal=B:TERM@120", "--open-mode=append"} <= set(options)
