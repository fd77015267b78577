"""Real processes: what the master says when a worker's code raises or a worker does not fit, and the workers' log files."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from pathlib import Path

import pytest

from tests.conftest import Start

SCRIPT = Path(__file__).with_name("failing_script.py")
LIMIT = 120.0
STAMP = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d "


def log_of(folder: Path, rank: int) -> str:
    return (folder / "runs" / "run" / "logs" / f"worker-{rank}.log").read_text()


def test_a_script_ends_with_the_worker_s_error_and_the_user_s_own_line(tmp_path: Path, start: Start) -> None:
    cluster = start([str(SCRIPT), "fails"], ranks=3)
    assert cluster.wait(LIMIT) == [1, 0, 0], cluster.output(0)
    out = cluster.output(0)
    # a line when it happens, and all of it when it ends the run
    first = re.search(r"^gcdist error: worker [12]: RuntimeError: shape '\[3\]' is invalid .*$", out, re.M)
    assert first is not None, out
    assert "partition 2, samples [ 8  9 10 11])" in first[0]
    assert "all of it is in" in first[0]
    assert out.count("in bad_loss") == 1
    errors = [json.loads(line) for line in (tmp_path / "runs" / "run" / "events.jsonl").read_text().splitlines()]
    assert "in bad_loss" in next(line["text"] for line in errors if line["kind"] == "error")
    assert "compute.py" not in out
    halt = out[out.rindex("Traceback (most recent call last):\n  File", 0, out.index("RunHaltedError")) :]
    raised = re.findall(r'File "([^"]+)", line \d+, in (\S+)', halt[: halt.index("RunHaltedError")])
    assert [(Path(path).name, name) for path, name in raised] == [
        (SCRIPT.name, "<module>"),
        (SCRIPT.name, "fails"),
        ("step.py", "backward"),
    ]
    assert "RunHaltedError: partition 2 failed 3 times in a row: worker " in halt
    assert "in bad_loss" in halt
    logs = {rank: log_of(tmp_path, rank) for rank in (1, 2)}
    assert any("in bad_loss" in log for log in logs.values())  # of the worker that met it
    for rank, log in logs.items():
        lines = log.splitlines()
        assert re.fullmatch(f"{STAMP}joined as worker {rank}, life .*, process {cluster.processes[rank].pid}", lines[0])
        assert re.fullmatch(STAMP + r"\d+ rounds, \d+ partitions: .* s computing, .* s waiting for data", lines[-1])
    assert logs[1].count("UserWarning: a strange batch") == 1  # Python shows a warning of a line once
    assert re.search(STAMP + "WARNING mine: looked at by rank 1$", logs[1], re.M)
    assert "a strange batch" in cluster.output(1)
    assert "looked at by rank 1" in cluster.output(1)
    assert "looked at" not in logs[2]


def test_a_command_ends_with_lines_and_no_traceback_of_gcdist(tmp_path: Path, start: Start) -> None:
    config = tmp_path / "config.toml"
    config.write_text(
        f'name = "run"\n[task]\nname = "{SCRIPT}:build"\nbatch_size = 4\n[task.options]\nbad = 5\n'
        '[code]\npartitions = 3\n[quantizer]\nname = "float32"\nbits = 32\n'
    )
    cluster = start(["-m", "gcdist", "simulate", str(config), "--set", "cluster.workers=2"], ranks=1)
    assert cluster.wait(LIMIT) == [1], cluster.output(0)
    lines = [line for line in cluster.output(0).splitlines() if line.startswith("gcdist: ")]
    assert re.fullmatch(
        r"gcdist: partition 1 failed 3 times in a row: worker [12]: OSError: image 5 is damaged "
        r"\(step \d, partition 1, sample 5\)",
        lines[0],
    )
    assert lines[1] == "gcdist: Traceback (most recent call last):"
    assert re.fullmatch(rf'gcdist:   File "{SCRIPT}", line \d+, in __getitem__', lines[2])
    assert lines[-1] == "gcdist: OSError: image 5 is damaged"
    assert set(re.findall(r'File "([^"]+)"', cluster.output(0))) == {str(SCRIPT)}


def test_a_worker_that_does_not_fit_is_refused_by_what_differs(tmp_path: Path, start: Start) -> None:
    cluster = start([str(SCRIPT), "differs"], ranks=6)
    assert cluster.wait(LIMIT) == [0, 0, 2, 2, 2, 2], cluster.output(0)
    assert "live 1" in cluster.output(0)
    events = (tmp_path / "runs" / "run" / "events.jsonl").read_text().splitlines()
    refusals = [event["text"] for event in map(json.loads, events) if event["kind"] == "refuse"]
    for rank, difference in {
        2: r"model \(names, shapes, dtypes, requires_grad or buffers\): '\w+', the master has '\w+'",
        3: r"number of samples in the data set: 13, the master has 12",
        4: r"gcdist version: '0.0.7', the master has '[\d.]+'",
        5: r"config: seed=7; the master has seed=0",
    }.items():
        last = cluster.output(rank).splitlines()[-1]
        found = re.fullmatch(rf"gcdist worker rank{rank}: the master refused this worker: (.*{difference})", last)
        assert found is not None, last
        assert found[1] in refusals
        assert "Traceback" not in cluster.output(rank)


@pytest.mark.slow
def test_a_lost_link_is_in_the_log_once_there_is_a_new_one(tmp_path: Path, start: Start) -> None:
    settings = "steps = 100000\nname = 'run'\n[cluster]\nsilent_after = 2.0\nlost_after = 3.0\n"
    config = tmp_path / "config.toml"
    config.write_text(settings + "[straggler]\ndeadline = 0.2\nwarmup_steps = 0\n[quantizer]\nbits = 4\n")
    cluster = start(["-m", "gcdist", "train", str(config)], ranks=3)
    cluster.wait_for("step 1/", 0, LIMIT)
    os.kill(cluster.processes[2].pid, signal.SIGSTOP)
    cluster.wait_for("members: worker 2 lost", 0, LIMIT)
    os.kill(cluster.processes[2].pid, signal.SIGCONT)
    cluster.wait_for("trying again", 2, LIMIT)
    give_up = time.monotonic() + LIMIT
    while log_of(tmp_path, 2).count("joined") < 2 and time.monotonic() < give_up:
        time.sleep(0.05)
    os.kill(cluster.processes[0].pid, signal.SIGTERM)
    assert cluster.wait(LIMIT) == [143, 0, 0], cluster.output(2)
    log = log_of(tmp_path, 2)
    assert re.search(STAMP + r"(\(\d+ s ago\) )?.*; trying again\n" + STAMP + r"joined as worker 2, life \d+", log)
