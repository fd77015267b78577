"""A run does not die of what it prints: stderr closed, stdout full, a pipe that nobody reads, bytes that are no text."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gcdist.observe import read_metrics
from tests.conftest import Start

LIMIT = 120.0


@pytest.mark.parametrize("where", ["2>&-", ">&-", ">/dev/full", "2>/dev/full", "2>&1 | head -n 1", ">/dev/full 2>&-"])
def test_a_simulated_run_goes_on_whatever_becomes_of_its_lines(tmp_path: Path, where: str) -> None:
    config = tmp_path / "config.toml"
    config.write_text('steps = 30\nname = "run"\n[task.options]\nmodel = "mlp"\n[cluster]\nworkers = 2\n')
    command = f'"{sys.executable}" -m gcdist simulate config.toml {where}'
    env = {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"}
    subprocess.run(["sh", "-c", command], cwd=tmp_path, env=env, timeout=LIMIT, check=False, capture_output=True)
    run = tmp_path / "runs" / "run"
    assert len(read_metrics(run)) == 30
    assert json.loads((run / "summary.json").read_text())["steps"] == 30
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-00000030"]


def test_a_stopped_simulated_run_leaves_a_checkpoint(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('steps = 1000000\nname = "run"\n[task.options]\nmodel = "mlp"\n[cluster]\nworkers = 2\n')
    command = [sys.executable, "-m", "gcdist", "simulate", "config.toml"]
    env = {**os.environ, "PYTHONSAFEPATH": "1"}
    run = tmp_path / "runs" / "run"
    with (tmp_path / "err").open("wb") as err:
        process = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.DEVNULL, stderr=err)
    try:
        until = time.monotonic() + LIMIT
        while not ((run / "metrics.jsonl").exists() and (run / "metrics.jsonl").stat().st_size):
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGTERM)  # a repeat: the same wish
        assert process.wait(LIMIT) == 143
    finally:
        process.kill()
        process.wait()
    [checkpoint] = (run / "checkpoints").iterdir()
    assert checkpoint.name == f"step-{len(read_metrics(run)):08d}"
    assert "Traceback" not in (tmp_path / "err").read_text()


SCRIPT = r"""
import os, sys, time, torch, gcdist
from gcdist.master import driver
from torch import nn
from torch.utils.data import TensorDataset

rank = os.environ["RANK"]
if rank == "0" and sys.argv[1] == "closed":
    os.close(1)
    os.close(2)

calls = 0

def loss(model, batch):
    global calls
    calls += 1
    if rank == "2" and sys.argv[1] == "hangs" and calls > 4:
        time.sleep(3600.0)
    if rank == "2" and sys.argv[1] == "bytes":
        raise ValueError("caf\udce9 \ud800 " + "x" * 100_000)
    if rank == "2" and sys.argv[1] == "large":
        return 1e37 * nn.functional.mse_loss(model(batch[0]), batch[1])
    return nn.functional.mse_loss(model(batch[0]), batch[1])

driver.STUCK_SECONDS = 2.0
x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
model = nn.Linear(4, 1)
task = gcdist.Task(model, TensorDataset(x, x.sum(1, keepdim=True)), loss, 8)
straggler = {"deadline": 1.0, "warmup_steps": 0}
config = gcdist.Config(out="runs", name="run", code={"scheme": "ignore", "partitions": 2}, straggler=straggler)
with gcdist.connect(task, config) as cluster:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    cluster.track(optimizer=optimizer)
    for step in cluster.steps(100_000 if sys.argv[1] == "hangs" else 8):
        step.backward()
        optimizer.step()
        if sys.argv[1] == "hangs" and "still computing" in (cluster.folder.path / "events.jsonl").read_text():
            break
"""


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("closed", None),
        ("bytes", r"worker 2: ValueError: caf\udce9 \ud800 xxx"),
        ("large", "worker 2: ValueError: the coded gradient is not finite in weight"),
    ],
)
def test_real_processes_say_what_they_can(tmp_path: Path, start: Start, how: str, says: str | None) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    cluster = start([str(script), how], ranks=3)
    codes = cluster.wait(LIMIT)
    run = tmp_path / "runs" / "run"
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    errors = [event["text"] for event in events if event["kind"] == "error"]
    if says is None:
        assert codes == [0, 0, 0]
        assert len(read_metrics(run)) == 8
        return
    if how == "large":  # the others train on
        assert codes == [0, 0, 0], cluster.output(0)
        assert len(read_metrics(run)) == 8
        assert 1 < len(errors) <= 8  # a line for each of its messages
    assert errors, cluster.output(0)
    assert errors[0].startswith(says), errors[0][:200]
    assert max(map(len, errors)) < 20_000
    assert says in cluster.output(0)


def test_a_worker_that_hangs_in_the_user_s_code_is_said(tmp_path: Path, start: Start) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    cluster = start([str(script), "hangs"], ranks=3)
    assert cluster.wait(LIMIT, [0, 1]) == [0, 0], cluster.output(0)  # the one that hangs holds nobody up
    assert "gcdist warning: still computing: worker 2 at step " in cluster.output(0)
    assert cluster.output(0).count("still computing") == 1
