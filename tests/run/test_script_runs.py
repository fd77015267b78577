"""What a script's run shows and leaves, and that a run's settings are read from any folder."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import gcdist
from gcdist.cli import main
from gcdist.config import ConfigError, load_config
from gcdist.run.as_run import optimizer_settings
from gcdist.run.session import load_user_task

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPT = """
import sys, torch, gcdist
from torch import nn
from torch.utils.data import TensorDataset

x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
model = nn.Linear(4, 1)
task = gcdist.Task(model, TensorDataset(x, x.sum(1, keepdim=True)), lambda m, b: nn.functional.mse_loss(m(b[0]), b[1]), 8)
delays = {"model": "shifted-exponential", "shift": 0.1}
config = gcdist.Config(code={"scheme": "joint"}, cluster={"workers": 2}, inject=delays)
resume = sys.argv[1] if len(sys.argv) > 1 else False
with gcdist.simulate(task, config, resume=resume) as cluster:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    cluster.track(optimizer=optimizer)
    for epoch in range(2):
        for step in cluster.steps(20):
            step.backward()
            optimizer.step()
"""


def test_a_script_s_run_shows_and_leaves_what_the_command_does(tmp_path: Path) -> None:
    script = tmp_path / "mine.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout == ""  # that is the script's own
    [run] = (tmp_path / "runs").iterdir()
    assert run.name.startswith("mine-joint-")
    lines = done.stderr.splitlines()
    assert lines[0] == f"run folder: runs/{run.name}"
    assert any(line.startswith("step 30/40  loss ") and line.endswith(" left") for line in lines)
    assert any(line.startswith("bytes up") for line in lines)
    assert lines[-1] == f"run folder: runs/{run.name}"
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["steps"], summary["workers"]) == (40, 2)
    text = (run / "config.toml").read_text()
    config = load_config(run / "config.toml")
    assert text.startswith(f"# The run of a script, {script}: its task is built there.")
    assert (config.task.batch_size, config.steps, config.out) == (8, 40, tmp_path / "runs")
    assert (config.optimizer.name, config.optimizer.lr, config.optimizer.weight_decay) == ("adamw", 0.02, 0.01)
    with pytest.raises(ConfigError, match=rf"it was built by a script: run {script}") as told:
        load_user_task(config, run)
    assert "\n" not in str(told.value)
    moved = tmp_path / "elsewhere.py"
    script.rename(moved)
    again = subprocess.run(
        [sys.executable, moved, run], cwd="/", capture_output=True, text=True, check=True, timeout=120
    )
    assert "going on from step-00000040" in again.stderr
    assert "settings that differ from the run so far" not in again.stderr


def test_optimizers_that_settings_name() -> None:
    p = [nn.Parameter(torch.zeros(2))]
    sgd = optimizer_settings(torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.5))
    assert sgd is not None
    assert (sgd.name, sgd.lr, sgd.momentum, sgd.weight_decay) == ("sgd", 0.1, 0.9, 0.5)
    scheduled = torch.optim.Adam(p, lr=0.1)
    torch.optim.lr_scheduler.ConstantLR(scheduled, factor=0.5)
    adam = optimizer_settings(scheduled)
    assert adam is not None
    assert (adam.name, adam.lr) == ("adam", 0.1)
    two: list[dict[str, Any]] = [{"params": [nn.Parameter(torch.zeros(1))]}, {"params": p, "lr": 0.5}]
    for other in (
        torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
        torch.optim.Adam(p, betas=(0.5, 0.9)),
        torch.optim.RMSprop(p),
        torch.optim.SGD(two, lr=0.1),
    ):
        assert optimizer_settings(other) is None


def test_silence_is_possible_and_the_summary_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = TensorDataset(torch.ones(8, 2), torch.ones(8, 1))
    task = gcdist.Task(nn.Linear(2, 1), data, lambda m, b: nn.functional.mse_loss(m(b[0]), b[1]), 4)
    config = gcdist.Config(code={"scheme": "joint"}, cluster={"workers": 2})
    with gcdist.simulate(task, config, folder=tmp_path / "run", show=False) as cluster:
        optimizer = torch.optim.RMSprop(task.model.parameters())
        cluster.track(optimizer=optimizer)
        for step in cluster.steps(3):
            step.backward()
            optimizer.step()
        assert "3 steps of joint, 2 workers" in str(cluster.summary())
    assert "step 1/" not in capsys.readouterr().err
    assert "# The section optimizer is not the script's: RMSprop" in (tmp_path / "run" / "config.toml").read_text()
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps"] == 3


def test_a_run_s_settings_are_read_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("settings", "work", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "settings" / "mine.py").write_text("from gcdist.tasks import digits\n\nbuild = digits.build\n")
    config = tmp_path / "settings" / "run.toml"
    config.write_text(
        'steps = 2\nname = "one"\n[task]\nname = "mine.py:build"\noptions = {model = "mlp"}\n[cluster]\nworkers = 2\n'
    )
    monkeypatch.chdir(tmp_path / "work")
    main_quietly(["simulate", "../settings/run.toml"])
    run = tmp_path / "work" / "runs" / "one"
    assert tomllib.loads((run / "config.toml").read_text())["task"]["name"] == f"{tmp_path}/settings/mine.py:build"
    monkeypatch.chdir(tmp_path / "other")
    main_quietly(["simulate", str(run / "config.toml"), "--set", "name=two"])
    assert (run.parent / "two" / "summary.json").exists()
    main_quietly(["simulate", "../settings/run.toml", "--set", "steps=4", "--resume", str(run)])
    told = (run / "events.jsonl").read_text()
    assert "settings that differ from the run so far: steps = 4 (was 2)" in told


def main_quietly(words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code in (0, None)


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.toml")))
def test_examples_work_from_any_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = load_config(EXAMPLES / name)
    if "root" in config.task.options and not Path(config.task.options["root"]).exists():
        pytest.skip("the images are not beside the checkout")
    assert len(load_user_task(config, EXAMPLES).dataset) > 0
