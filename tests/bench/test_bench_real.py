"""Cells by real processes; the whole command once."""

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gcdist.bench.cells import Cell, read_outcome
from gcdist.bench.ddp import POWERSGD_FROM
from gcdist.bench.processes import forkserver, run_cell

LIMIT = 120.0  # seconds


def test_the_whole_command(tmp_path: Path) -> None:
    """DDP, a waiting and a coded scheme, tuned beforehand; a second call makes nothing again."""
    out = tmp_path / "bench"
    command = [
        *(sys.executable, "-m", "gcdist", "bench", "wallclock", "--schemes", "ddp,sync,auto", "--delays", "dead"),
        *("--workers", "4", "--seeds", "1", "--target", "0.8", "--budget", "8", "--out", str(out), "--json"),
    ]
    tuned = subprocess.run([*command, "--only-tune"], capture_output=True, text=True, timeout=200, check=False)
    assert tuned.returncode == 0, tuned.stderr
    assert "3 of 3 runs are to be made, about " in tuned.stderr
    assert not (out / "cells").exists()
    first = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert first.returncode == 0, first.stderr
    found = json.loads(first.stdout)
    rows = {row["scheme"]: row for row in found["entries"]}
    assert [pair["scheme"] for pair in found["simulator"]] == ["sync", "auto"]
    assert rows["sync"]["reached"] == 1
    assert rows["auto"]["reached"] == 1
    assert rows["ddp"]["reached"] in (0, 1)  # before its rank is killed at step 10, or not at all
    times = {path: path.stat().st_mtime_ns for path in (out / "cells").rglob("seed*.json")}
    assert len(times) == 3
    again = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert again.returncode == 0, again.stderr
    assert times == {path: path.stat().st_mtime_ns for path in times}
    page = tmp_path / "RESULTS.md"
    report = [sys.executable, "-m", "gcdist", "bench", "report", str(out), "--page", str(page)]
    subprocess.run(report, check=True, timeout=100, capture_output=True)
    text = page.read_text()
    assert "| `auto` |" in text
    assert "| delays | doctor | measured |\n|---|---|---|\n| dead | " in text
    for picture in ("digits_loss.png", "predictions.png"):
        assert (tmp_path / "img" / picture).stat().st_size > 10_000
    for path in times:
        cell, outcome = read_outcome(path)
        assert outcome.status != "failed", outcome.why
        assert cell.workers == 4
        assert outcome.cpu_seconds > 0 or cell.scheme == "ddp"


@pytest.mark.parametrize(
    ("problem", "scheme", "lr", "target"),
    [("digits", "ddp-bf16", 0.4, 1.0), ("digits", "ddp-powersgd", 0.4, 1.0), ("logistic", "ddp", 4.0, 0.01)],
)
def test_ddp_trains(tmp_path: Path, problem: str, scheme: str, lr: float, target: float) -> None:
    made = Cell(problem, "none", scheme, 2, 0, lr, "wait", pace=0.05, target=target, budget=LIMIT)
    found = run_cell(forkserver(), made, tmp_path / "seed0.json")
    assert found.status == "reached", found.why
    assert found.steps > POWERSGD_FROM or "powersgd" not in scheme


def carrying(mark: str) -> set[int]:
    """Processes of this machine with the mark in their environment."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark.encode() in path.read_bytes():
                found.add(int(path.parent.name))
    return found


def test_nothing_outlives_a_benchmark_that_is_killed(tmp_path: Path) -> None:
    """Tuning processes and ranks alike: they end with the process that started them, whatever ended it."""
    mark = f"BENCH_TEST={tmp_path}"
    command = [sys.executable, "-m", "gcdist", "bench", "wallclock", "--schemes", "sync", "--delays", "exponential"]
    command += ["--workers", "2", "--seeds", "1", "--target", "1e-9", "--budget", "30", "--out", str(tmp_path)]
    with (tmp_path / "said").open("wb") as said:
        made = subprocess.Popen(
            command, stdout=said, stderr=said, env={**os.environ, "BENCH_TEST": str(tmp_path)}, start_new_session=True
        )
    give_up = time.monotonic() + LIMIT
    while len(carrying(mark)) < 4:  # itself, the server that forks, the resource tracker, and who tunes
        assert time.monotonic() < give_up, (tmp_path / "said").read_text()
        assert made.poll() is None, (tmp_path / "said").read_text()
        time.sleep(0.1)
    made.kill()
    made.wait()
    while carrying(mark):
        assert time.monotonic() < give_up, carrying(mark)
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
def test_the_thin_links(tmp_path: Path) -> None:
    command = [
        *(
            sys.executable,
            "-m",
            "gcdist",
            "bench",
            "wallclock",
            "--schemes",
            "ddp,sync,sync-4bit",
            "--delays",
            "network",
        ),
        *("--workers", "3", "--seeds", "1", "--target", "0.8", "--budget", "30", "--out", str(tmp_path), "--json"),
    ]
    made = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert made.returncode == 0, made.stderr
    rows = {row["scheme"]: row for row in json.loads(made.stdout)["entries"]}
    assert rows["ddp"]["reached"] == rows["sync"]["reached"] == rows["sync-4bit"]["reached"] == 1
    assert rows["sync-4bit"]["seconds"] < rows["sync"]["seconds"]
