"""Real processes: the main job, a slow worker, signals, refusals. Limits are generous; no test times."""

from __future__ import annotations

import json
import os
import signal
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from gcdist.transport import open_store
from tests.conftest import Start

HERE = Path(__file__).parent
LIMIT = 120.0  # seconds for everybody to be done, on a machine that is busy with something else
both_planes = pytest.mark.parametrize("transport", ["gloo", "tls"])
CONFIG = """
steps = 12
out = "runs"
name = "run"
[code]
scheme = "{scheme}"
[quantizer]
bits = 4
[inject]
model = "shifted-exponential"
shift = 0.05
mean = [0.01, 0.02, 0.3]
[straggler]
deadline = {deadline}
warmup_steps = 2
[summary]
sync_check_steps = {checks}
"""


def write_config(folder: Path, scheme: str = "osgc", deadline: str = "0.2", checks: int = 0) -> Path:
    path = folder / "config.toml"
    path.write_text(CONFIG.format(scheme=scheme, deadline=deadline, checks=checks))
    return path


def over(transport: str, config: Path, steps: int) -> tuple[list[str], dict[str, str]]:
    """Arguments and environment of a run over that plane."""
    settings = ["--set", f"steps={steps}", "--set", f'cluster.transport="{transport}"']
    return ["-m", "gcdist", "train", str(config), *settings], {"GCDIST_SECRET": "the secret of this test alone"}


def metrics_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_train_writes_a_whole_run(tmp_path: Path, start: Start) -> None:
    cluster = start(["-m", "gcdist", "train", str(write_config(tmp_path, checks=2)), "--json"], ranks=4)
    assert cluster.wait(LIMIT) == [0, 0, 0, 0]
    summary = json.loads(cluster.output(0).splitlines()[-1])
    run = tmp_path / "runs" / "run"
    metrics = metrics_of(run)
    assert [m["step"] for m in metrics] == list(range(12))
    assert metrics[-1]["loss"] < metrics[0]["loss"]
    assert all(m["step_seconds"] < 60 for m in metrics)
    assert summary["bytes_up"] < summary["bytes_up_float32"] / 4
    measured, estimated = summary["waiting_check"]
    assert measured > 0
    assert estimated > 0
    assert json.loads((run / "summary.json").read_text()) == summary
    assert (run / "plans" / "0.json").exists()
    json.loads((run / "trace.json").read_text())


def test_a_shifted_code_runs(tmp_path: Path, start: Start) -> None:
    cluster = start(["-m", "gcdist", "train", str(write_config(tmp_path, "memory")), "--set", "steps=10"], ranks=4)
    assert cluster.wait(LIMIT) == [0, 0, 0, 0], cluster.output(0)
    metrics = metrics_of(tmp_path / "runs" / "run")
    assert metrics[-1]["loss"] < metrics[0]["loss"]


@pytest.mark.parametrize("how", ["data", "injected"])
def test_a_slow_worker_skips_ahead_and_nobody_waits_for_it(how: str, tmp_path: Path, start: Start) -> None:
    cluster = start([str(HERE / "slow_worker_script.py"), str(tmp_path), how], ranks=5)
    assert cluster.wait(LIMIT) == [0] * 5, cluster.output(0)
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["replayed"] == 40  # the recorded events give the same instructions in a fresh machine
    # the deadline is 0.1 s, its partition takes 1 s: waiting for it would take ten times as long
    assert median(result["seconds"]) < 0.3
    slow, quick = result["sent"]["1"], result["sent"]["0"]
    assert len(quick) > 30
    assert slow == sorted(slow)
    assert len(slow) < 15
    assert max(b - a for a, b in pairwise(slow)) >= 4


@pytest.mark.parametrize(
    ("number", "code", "transport"),
    [(signal.SIGTERM, 143, "gloo"), (signal.SIGINT, 130, "gloo"), (signal.SIGTERM, 143, "tls")],
)
def test_a_signal_at_the_master_ends_everybody(
    tmp_path: Path, start: Start, number: int, code: int, transport: str
) -> None:
    arguments, env = over(transport, write_config(tmp_path), 100_000)
    cluster = start(arguments, ranks=4, env=env)
    cluster.wait_for("step 1/", 0, LIMIT)
    os.kill(cluster.processes[0].pid, number)
    assert cluster.wait(30.0) == [code, 0, 0, 0]
    assert "Traceback" not in cluster.output(0)


@both_planes
def test_a_worker_that_is_asked_to_go_goes_and_the_others_train_on(
    transport: str, tmp_path: Path, start: Start
) -> None:
    arguments, env = over(transport, write_config(tmp_path), 60)
    cluster = start(arguments, ranks=4, env=env)
    cluster.wait_for("step 1/", 0, LIMIT)
    os.kill(cluster.processes[2].pid, signal.SIGTERM)
    assert cluster.wait(LIMIT) == [0, 0, 0, 0]
    metrics = metrics_of(tmp_path / "runs" / "run")
    assert len(metrics) == 60
    assert metrics[-1]["live"] == 2


@both_planes
def test_a_killed_worker_does_not_stop_the_run(transport: str, tmp_path: Path, start: Start) -> None:
    arguments, env = over(transport, write_config(tmp_path), 60)
    cluster = start(arguments, ranks=4, env=env)
    cluster.wait_for("step 1/", 0, LIMIT)
    os.kill(cluster.processes[1].pid, signal.SIGKILL)
    assert cluster.wait(LIMIT) == [0, -signal.SIGKILL, 0, 0]
    metrics = metrics_of(tmp_path / "runs" / "run")
    assert len(metrics) == 60
    assert metrics[-1]["live"] == 2
    assert metrics[-1]["arrived"]


def test_a_worker_with_other_settings_is_refused_by_name(tmp_path: Path, start: Start) -> None:
    config = write_config(tmp_path)
    script = tmp_path / "mismatch.py"
    script.write_text(
        "import os, sys\n"
        "from gcdist.cli import main\n"
        "seed = '1' if os.environ['RANK'] == '2' else '0'\n"
        f"main(['train', {str(config)!r}, '--set', 'seed=' + seed, '--set', 'cluster.join_timeout=15',"
        " '--set', 'cluster.min_workers=2'])\n"
    )
    cluster = start([str(script)], ranks=4)
    codes = cluster.wait(LIMIT)
    assert codes[2] == 2, cluster.output(2)
    assert "differs in its config: seed=1; the master has seed=0" in cluster.output(2)
    assert "Traceback" not in cluster.output(2)
    assert codes[0] == 0, cluster.output(0)


def test_the_example_script_runs(tmp_path: Path, start: Start) -> None:
    example = HERE.parents[1] / "examples" / "digits.py"
    cluster = start([str(example)], ranks=5)
    assert cluster.wait(2 * LIMIT) == [0] * 5, cluster.output(0)
    accuracy = float(cluster.output(0).split("test accuracy")[1].split("%")[0])
    assert accuracy > 90


def test_a_script_without_a_with_block_releases_its_workers(tmp_path: Path, start: Start) -> None:
    script = tmp_path / "plain.py"
    script.write_text(
        "import gcdist\n"
        "from gcdist.tasks import digits\n"
        "cluster = gcdist.connect(digits.build(model='mlp'), gcdist.Config())\n"
        "next(cluster.steps(1)).backward()\n"
    )
    cluster = start([str(script)], ranks=3)
    assert cluster.wait(LIMIT) == [0, 0, 0], cluster.output(0)


def test_a_worker_that_slept_through_the_end_ends_too(tmp_path: Path, start: Start) -> None:
    # the store must outlive the master, as torchrun's agent does: this process serves it
    store = open_store("127.0.0.1", 0, serve=True)
    env = {"TORCHELASTIC_USE_AGENT_STORE": "True", "MASTER_PORT": str(store.port)}
    quick = ["--set", "cluster.silent_after=2.0", "--set", "cluster.lost_after=3.0", "--set", "steps=25"]
    cluster = start(["-m", "gcdist", "train", str(write_config(tmp_path)), *quick], ranks=4, env=env)
    cluster.wait_for("step 1/", 0, LIMIT)
    os.kill(cluster.processes[2].pid, signal.SIGSTOP)
    assert cluster.wait(LIMIT, [0, 1, 3]) == [0, 0, 0]
    os.kill(cluster.processes[2].pid, signal.SIGCONT)
    assert cluster.wait(LIMIT, [2]) == [0], cluster.output(2)
