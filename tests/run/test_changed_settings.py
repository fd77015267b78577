"""Resuming with other settings, optimizers, data: what a line says is what happens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import gcdist
from gcdist.cli import main
from gcdist.config import Config, setting_lines, shared_settings
from gcdist.protocol.messages import SampleSketch, ValueSketch
from gcdist.run.checkpoint import newest_checkpoint
from gcdist.run.resume import FIXED, KEPT
from gcdist.run.user_state import Parts

BASE = """
steps = 4
name = "lr"
out = "{out}"
[task]
name = "digits"
batch_size = 8
[task.options]
model = "mlp"
[cluster]
workers = 2
[optimizer]
lr = 0.1
momentum = 0.5
"""


def simulate(tmp_path: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    (tmp_path / "case.toml").write_text(BASE.format(out=tmp_path / "runs"))
    with pytest.raises(SystemExit) as ended:
        main(["simulate", str(tmp_path / "case.toml"), *arguments])
    assert ended.value.code in (0, None)
    return " ".join(capsys.readouterr().out.split())


def optimizer_at(tmp_path: Path, step: int) -> Any:
    found = newest_checkpoint(tmp_path / "runs" / "lr" / "checkpoints", lambda line: None)
    assert found is not None
    assert found.step == step
    return found.state["parts"]["optimizer"]


def test_the_settings_of_the_optimizer_are_those_of_the_config(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`resume-new-lr`: the line said the new rate, and the checkpoint's was used."""
    simulate(tmp_path, capsys)
    run = str(tmp_path / "runs" / "lr")
    before = optimizer_at(tmp_path, 4)
    changes = ["--set", "optimizer.lr=0.001", "--set", "optimizer.momentum=0.9", "--set", "optimizer.weight_decay=0.01"]
    text = simulate(tmp_path, capsys, "--resume", run, "--set", "steps=6", *changes)
    assert "optimizer.lr = 0.001 (was 0.1)" in text
    after = optimizer_at(tmp_path, 6)
    assert [after["param_groups"][0][key] for key in ("lr", "momentum", "weight_decay")] == [0.001, 0.9, 0.01]
    assert before["state"].keys() == after["state"].keys()  # the momentum itself goes on
    adamw = ["--set", "optimizer.name=adamw", "--set", "optimizer.momentum=0.0"]
    text = simulate(tmp_path, capsys, "--resume", run, "--set", "steps=8", *adamw)
    assert "optimizer is AdamW, the checkpoint has one of SGD: it begins anew" in text
    assert optimizer_at(tmp_path, 8)["param_groups"][0]["betas"] == (0.9, 0.999)


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(2, 1)


def state_of(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Any], dict[str, str]]:
    parts = Parts()
    parts.add("optimizer", optimizer)
    return parts.state_dict(), parts.kinds


def test_a_script_s_optimizer_goes_on_as_in_the_checkpoint_and_a_line_says_so() -> None:
    kept, kinds = state_of(torch.optim.SGD(model().parameters(), lr=0.1, momentum=0.9))
    other = torch.optim.SGD(model().parameters(), lr=0.01, momentum=0.9)
    line = Parts(kept, kinds).add("optimizer", other)
    assert other.param_groups[0]["lr"] == 0.1
    assert line == (
        "optimizer goes on as in the checkpoint: lr = 0.1 (the script: 0.01); set its param_groups after track to change it"
    )
    assert Parts(kept, kinds).add("optimizer", torch.optim.SGD(model().parameters(), lr=0.1, momentum=0.9)) is None


def test_what_a_schedule_moves_needs_no_line() -> None:
    first = torch.optim.SGD(model().parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.ExponentialLR(first, 0.5)
    first.step()
    schedule.step()
    kept, kinds = state_of(first)
    again = torch.optim.SGD(model().parameters(), lr=0.1)
    torch.optim.lr_scheduler.ExponentialLR(again, 0.5)
    assert Parts(kept, kinds).add("optimizer", again) is None
    assert again.param_groups[0]["lr"] == 0.05


@pytest.mark.parametrize("kinds", [{"optimizer": "SGD"}, None])
def test_an_optimizer_of_another_kind_is_one_line(kinds: dict[str, str] | None) -> None:
    kept, _ = state_of(torch.optim.SGD(model().parameters(), lr=0.1))
    with pytest.raises(
        ValueError, match=r"^track: optimizer is of type Adam, the checkpoint has one of .*another name"
    ):
        Parts(kept, kinds).add("optimizer", torch.optim.Adam(model().parameters()))
    line = Parts(kept, kinds).add("adam", torch.optim.Adam(model().parameters()))
    assert line == "adam is not in the checkpoint: it begins anew"


def test_adam_does_not_become_adamw_in_silence() -> None:
    """Both have the same settings by name; one of them says which of the two it is."""
    kept, kinds = state_of(torch.optim.Adam(model().parameters()))
    with pytest.raises(ValueError, match=r"is of type AdamW, the checkpoint has one of Adam:"):
        Parts(kept, kinds).add("optimizer", torch.optim.AdamW(model().parameters()))


def test_every_setting_is_used_refused_or_kept() -> None:
    """Refused: what decides the gradient of a step. Kept: where the run is. Everything else is used from now on."""
    config = Config(code={"partitions": 4})
    shared = {line.split("=", 1)[0] for line in shared_settings(config).splitlines()}
    refused = {key for key in setting_lines(config) if key.startswith(FIXED) and key in shared}
    assert refused == {
        "seed",
        "code.partitions",
        "data.partition_by",
        "data.sampling",
        "task.batch_size",
        "task.name",
        "task.options",
    }
    assert set(KEPT) <= setting_lines(config).keys()


def task(cut: int = 8, **more: Any) -> gcdist.Task:
    data = TensorDataset(torch.arange(32.0).reshape(16, 2), torch.zeros(16, 1))
    parts = lambda dataset, k: [np.arange(cut), np.arange(cut, 16)]  # noqa: E731
    return gcdist.Task(
        model(), data, lambda m, b: nn.functional.mse_loss(m(b[0]), b[1]), batch_size=4, partitioner=parts, **more
    )


def run(task: gcdist.Task, folder: Path, resume: bool, lines: list[str], **more: Any) -> gcdist.Cluster:
    settings: dict[str, Any] = {"cluster": {"workers": 2}, "code": {"scheme": "osgc", "partitions": 2}, **more}
    where: dict[str, Any] = {"resume": folder} if resume else {"folder": folder}
    return gcdist.simulate(task, Config(**settings), say=lambda kind, text: lines.append(text), **where)


def train(cluster: gcdist.Cluster, steps: int) -> None:
    for step in cluster.steps(steps):
        step.backward()


def test_other_data_are_refused(tmp_path: Path) -> None:
    lines: list[str] = []
    with run(task(), tmp_path / "run", False, lines) as cluster:
        cluster.session.looked.append(SampleSketch(3, 0, (ValueSketch("int ()", (1.0,)),)))
        train(cluster, 2)
    with pytest.raises(gcdist.ConfigError, match=r"task: other data than those of the run in .*holds other samples"):
        run(task(cut=9), tmp_path / "run", True, lines)
    found = newest_checkpoint(tmp_path / "run" / "checkpoints", lines.append)
    assert found is not None
    assert found.state["data"]["looked"] == [[3, 0, [["int ()", [1.0]]]]]


def test_the_folder_stays_and_a_quantizer_s_noise_is_measured_anew(tmp_path: Path) -> None:
    lines: list[str] = []
    with run(task(), tmp_path / "run", False, lines, quantizer={"name": "bucket"}) as cluster:
        train(cluster, 3)
        assert cluster._scheme.maker.state_dict()["expected"] > 0
    with run(task(), tmp_path / "run", True, lines, quantizer={"name": "dither"}, name="other") as cluster:
        assert cluster._scheme.maker.state_dict()["expected"] == 0
    assert f"the run stays in {tmp_path / 'run'}: name would apply to a new run only" in lines
    with run(task(), tmp_path / "run", True, lines, quantizer={"name": "bucket"}) as cluster:
        assert cluster._scheme.maker.state_dict()["expected"] > 0
