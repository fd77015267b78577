"""Loops that are not quite right are told so; epochs of a resumed run begin where it stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import gcdist
from gcdist.config import ConfigError
from tests.simulator.test_faults_simulated import linear_task


def settings(**more: Any) -> dict[str, Any]:
    return {"cluster": {"workers": 2}, "code": {"partitions": 2}, "data": {"sampling": "epochs"}, **more}


def test_a_body_without_a_backward_pass_is_told_once(tmp_path: Path) -> None:
    lines: list[str] = []
    with gcdist.simulate(
        linear_task(), settings(), folder=tmp_path, say=lambda kind, text: lines.append(text)
    ) as cluster:
        seen = [step.number for step in cluster.steps(3) if step.number > 0 or step.backward()]
    assert seen == [0, 1, 1]
    told = [line for line in lines if "did not call step.backward()" in line]
    assert told == [
        "the loop's body did not call step.backward() in step 2: nothing was computed, and the same step comes again"
    ]


@pytest.mark.parametrize("guarded", [False, True])
def test_a_schedule_that_runs_ahead_in_empty_steps_is_told_once(tmp_path: Path, guarded: bool) -> None:
    """Steps end by their deadline before anybody can be in."""
    lines: list[str] = []
    config = settings(
        straggler={"deadline": 0.05, "p": [0.9, 0.9]}, inject={"model": "shifted-exponential", "mean": 0.3}, seed=2
    )
    with gcdist.simulate(linear_task(), config, folder=tmp_path, say=lambda kind, text: lines.append(text)) as cluster:
        optimizer = torch.optim.SGD(cluster.session.task.model.parameters(), lr=0.1)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 5)
        cluster.track(optimizer=optimizer, warming=schedule)
        infos = []
        for step in cluster.steps(60):
            infos.append(step.backward())
            optimizer.step()
            if infos[-1].estimated or not guarded:
                schedule.step()
    empty = [info.step for info in infos if not info.estimated]
    assert empty
    told = [line for line in lines if "schedule 'warming' went on" in line]
    assert len(told) == (not guarded)
    assert guarded or f"in step {empty[0] + 1}, which gave no gradient" in told[0]


def test_epochs_of_a_resumed_run_are_those_that_are_left(tmp_path: Path) -> None:
    def task() -> gcdist.Task:
        x = torch.arange(64.0)[:, None]
        return gcdist.Task(nn.Linear(1, 1), TensorDataset(x), lambda m, b: (m(b[0] / 64) ** 2).mean(), batch_size=4)

    def run(epochs: int, stop_after: int | None = None) -> list[tuple[int, int]]:
        done: list[tuple[int, int]] = []
        with gcdist.simulate(
            task(), settings(), folder=tmp_path, say=lambda kind, text: None, resume=tmp_path
        ) as cluster:
            assert cluster.steps_per_epoch == 8
            optimizer = torch.optim.SGD(cluster.session.task.model.parameters(), lr=0.1)
            cluster.track(optimizer=optimizer)
            for epoch, steps in cluster.epochs(epochs):
                count = 0
                for step in steps:
                    assert step.epoch == epoch
                    step.backward()
                    optimizer.step()
                    count += 1
                    if stop_after == step.number + 1:
                        return [*done, (epoch, count)]
                done.append((epoch, count))
            assert done == [] or done[-1][1] > 0
        return done

    each = 8  # 32 samples of a partition, 4 a step
    assert run(2) == [(0, each), (1, each)]
    assert run(2) == []  # finished ones are not given again
    assert run(4, stop_after=2 * each + 1) == [(2, 1)]
    assert run(4) == [(2, each - 1), (3, each)]


def test_settings_may_be_a_dict(tmp_path: Path) -> None:
    assert gcdist.Config({"steps": 7, "code": {"scheme": "sync"}}) == gcdist.Config(steps=7, code={"scheme": "sync"})
    assert gcdist.Config({"steps": 7}, seed=3) == gcdist.Config(steps=7, seed=3)
    with pytest.raises(ConfigError, match="stepz: unknown key"):
        gcdist.Config({"stepz": 7})
    with pytest.raises(ConfigError, match=r"found \['steps'\]; should be a dict of settings"):
        gcdist.Config(["steps"])  # type: ignore[arg-type]


def test_the_loss_is_a_float_and_the_summary_prints_itself(tmp_path: Path) -> None:
    with gcdist.simulate(linear_task(), settings(), folder=tmp_path, say=lambda kind, text: None) as cluster:
        losses = [step.backward().loss for step in cluster.steps(2)]
    assert {type(loss) for loss in losses} == {float}
    assert "virtual clock" in str(cluster.summary())


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    config = gcdist.Config(settings(out=tmp_path / "file" / "runs"))
    with pytest.raises(ConfigError, match=r"out: the run's folder .* cannot be written: Not a directory"):
        gcdist.simulate(linear_task(), config, say=lambda kind, text: None)


def test_the_package_says_what_it_has() -> None:
    assert gcdist.__version__.count(".") >= 2
    assert dir(gcdist) == sorted([*gcdist.__all__, "__version__"])
    assert {"connect", "Task", "__version__"} <= set(dir(gcdist))
