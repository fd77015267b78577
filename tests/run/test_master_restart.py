"""The master dies and is started again with --resume: the workers have waited for it, and the run goes on."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from gcdist.observe import read_lines, read_metrics
from tests.conftest import Start

LIMIT = 120.0
SECRET = {"GCDIST_SECRET": "the secret of this test alone"}
STEPS = 60
CONFIG = f"""
steps = {STEPS}
out = "runs"
name = "run"
[optimizer]
name = "adam"
lr = 0.01
[inject]
model = "shifted-exponential"
shift = 0.05
mean = 0.02
[straggler]
deadline = 0.3
warmup_steps = 2
[checkpoint]
every = 5
[cluster]
retry_first = 0.2
retry_most = 1.0
"""


@pytest.mark.parametrize("transport", ["gloo", "tls"])
def test_the_workers_of_a_killed_master_go_on_with_the_next_one(transport: str, tmp_path: Path, start: Start) -> None:
    (tmp_path / "config.toml").write_text(CONFIG + f'transport = "{transport}"\n')
    run = tmp_path / "runs" / "run"
    cluster = start(["-m", "gcdist", "train", "config.toml", "--resume", "runs/run"], ranks=4, env=SECRET)
    workers = [process.pid for process in cluster.processes[1:]]
    give_up = time.monotonic() + LIMIT
    while not (run / "checkpoints" / "step-00000010").exists():
        assert cluster.processes[0].poll() is None, cluster.output(0)
        assert time.monotonic() < give_up, cluster.output(0)
        time.sleep(0.05)
    os.kill(cluster.processes[0].pid, signal.SIGKILL)
    cluster.processes[0].wait()
    before = len(read_metrics(run))
    cluster.begin(0)
    assert cluster.wait(LIMIT) == [0, 0, 0, 0], cluster.output(0)

    assert [process.pid for process in cluster.processes[1:]] == workers
    metrics = read_metrics(run)
    assert [line["step"] for line in metrics] == list(range(STEPS))
    assert metrics[-1]["arrived"] == [1, 2, 3]
    [text] = [line["text"] for line in read_lines(run / "events.jsonl") if "going on from" in line["text"]]
    resumed_at = int(text.split("step-")[1][:8])
    assert 10 <= resumed_at <= before  # only the steps since the last checkpoint are done again
    assert before - resumed_at < 2 * 5
    assert metrics[-1]["loss"] < metrics[0]["loss"]
