"""Real processes that are stopped and go on, and a master that evaluates for long. Limits are generous; no test times."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from gcdist.observe import read_lines, read_metrics
from tests.conftest import Start

LIMIT = 120.0
CONFIG = """
steps = 30
out = "runs"
name = "run"
[optimizer]
name = "adam"
lr = 0.01
[code]
scheme = "{scheme}"
[inject]
model = "shifted-exponential"
shift = 0.05
mean = [0.01, 0.02, 0.3]
[straggler]
deadline = 0.2
warmup_steps = 2
[evaluation]
every = 10
"""


@pytest.mark.parametrize(
    ("number", "code", "scheme", "transport"),
    [
        (signal.SIGTERM, 143, "memory", "gloo"),
        pytest.param(signal.SIGINT, 130, "joint", "gloo", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 143, "joint", "tls", marks=pytest.mark.slow),
    ],
)
def test_a_stopped_run_goes_on(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch, number: int, code: int, scheme: str, transport: str
) -> None:
    monkeypatch.setenv("GCDIST_SECRET", "the secret of this test alone")
    path = tmp_path / "config.toml"
    path.write_text(CONFIG.format(scheme=scheme))
    run = tmp_path / "runs" / "run"
    command = ["-m", "gcdist", "train", str(path), "--resume", str(run), "--set", f'cluster.transport="{transport}"']
    cluster = start(command, ranks=4)
    cluster.wait_for("step 6/", 0, LIMIT)
    os.kill(cluster.processes[0].pid, number)
    assert cluster.wait(30.0) == [code, 0, 0, 0]
    assert "begins at step 0" in cluster.output(0)
    assert "Traceback" not in cluster.output(0)
    [checkpoint] = (run / "checkpoints").iterdir()
    done = len(read_metrics(run))
    assert 6 <= done < 30
    assert checkpoint.name == f"step-{done:08d}"

    cluster = start([*command, "--json"], ranks=4)
    assert cluster.wait(LIMIT) == [0, 0, 0, 0], cluster.output(0)
    metrics = read_metrics(run)
    assert [line["step"] for line in metrics] == list(range(30))
    seconds = [line["seconds"] for line in metrics]
    assert seconds == sorted(seconds)
    assert any(f"going on from {checkpoint.name}" in line["text"] for line in read_lines(run / "events.jsonl"))
    assert [line["step"] for line in read_lines(run / "evaluations.jsonl")] == [10, 20, 30]
    summary = json.loads(cluster.output(0).splitlines()[-1])
    assert summary["steps"] == 30
    assert summary["metrics"]["test_accuracy"] > 0.7
    assert summary["evaluation_seconds"] > 0
    assert summary["checkpoint_seconds"] > 0

    cluster = start([*command, "--json"], ranks=4)  # nothing is left to do
    assert cluster.wait(LIMIT) == [0, 0, 0, 0], cluster.output(0)
    assert json.loads(cluster.output(0).splitlines()[-1])["metrics"] == summary["metrics"]
    assert len(read_metrics(run)) == 30


SCRIPT = """
import json, time
from pathlib import Path
import gcdist
from gcdist.tasks import digits

def evaluate(model):
    assert not model.training
    until = time.monotonic() + 3.0
    while time.monotonic() < until:  # busy python, as a master's evaluation is
        pass
    return {"seconds": 3.0}

task = digits.build(model="mlp")
config = gcdist.Config(
    out="runs", name="run",
    cluster={"beat": 0.2, "silent_after": 0.8, "lost_after": 1.5, "join_timeout": 60.0},
    straggler={"deadline": "wait"},
)
with gcdist.connect(task, config) as cluster:
    for step in cluster.steps(6):
        info = step.backward()
        assert info.live == 3, info
        if step.number == 2:
            cluster.evaluate(evaluate)
    summary = cluster.summary()
print(json.dumps([info.seconds, summary.evaluation_seconds]))
"""


def test_links_live_through_an_evaluation_that_is_longer_than_their_patience(tmp_path: Path, start: Start) -> None:
    script = tmp_path / "evaluating.py"
    script.write_text(SCRIPT)
    cluster = start([str(script)], ranks=4)
    assert cluster.wait(LIMIT) == [0, 0, 0, 0], cluster.output(0)
    seconds, evaluation = json.loads(cluster.output(0).splitlines()[-1])
    assert evaluation >= 3.0
    run = tmp_path / "runs" / "run"
    texts = [line["text"] for line in read_lines(run / "events.jsonl") if line["kind"] == "members"]
    assert not [text for text in texts if "lost" in text]
    assert [sorted(line["arrived"]) for line in read_metrics(run)] == [[1, 2, 3]] * 6
    [line] = read_lines(run / "evaluations.jsonl")
    assert line["step"] == 3
    assert line["metrics"] == {"seconds": 3.0}
    after = read_metrics(run)[3]
    # the step after it began where the step before it had ended
    assert after["seconds"] - after["step_seconds"] - line["seconds"] < 3.0
    assert seconds >= after["seconds"]
