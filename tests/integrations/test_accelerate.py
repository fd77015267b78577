"""A loop with Accelerate at the master: the numbers of the plain loop, saved states, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import gcdist
from tests.conftest import Start
from tests.integrations.by_hand import (
    EXAMPLES,
    STEPS,
    WRAPPED,
    by_hand,
    example,
    needs,
    printed_losses,
    same_state,
    simulated,
)

needs("accelerate")
accelerate_example = example("accelerate_loop")

from accelerate.state import AcceleratorState  # noqa: E402

from gcdist.integrations.accelerate import CodedAccelerator  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # of Accelerate's own packages
LIMIT = 240.0  # seconds
SYNC: gcdist.Config = accelerate_example.settings(sync=True)


@pytest.fixture(autouse=True)
def forgotten() -> None:
    """Accelerate keeps the settings of a process's first Accelerator."""
    AcceleratorState._reset_state(reset_partial_state=True)


def optimizers(model: Any) -> tuple[torch.optim.Optimizer, Any]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    return optimizer, torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, STEPS)


def losses_of(accelerator: Any, model: Any, optimizer: Any, schedule: Any, stop_at: int) -> list[float]:
    losses = []
    for step in accelerator.steps(STEPS):
        losses.append(accelerator.backward(step).loss)
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step.number + 1 == stop_at:
            break
    return losses


def test_the_losses_are_those_of_the_plain_loop_also_from_a_saved_state(tmp_path: Path) -> None:
    plain = accelerate_example.make_task()
    expected = by_hand(plain, SYNC, tmp_path / "hand", optimizers)
    found: list[float] = []
    for name, stop_at in (("first", 4), ("second", STEPS)):
        task = accelerate_example.make_task()
        with simulated(task, SYNC, tmp_path / name) as cluster:
            accelerator = CodedAccelerator(cluster, cpu=True)
            model, optimizer, schedule = accelerator.prepare(task.model, *optimizers(task.model))
            if found:
                accelerator.load_state(str(tmp_path / "state"))
            found += losses_of(accelerator, model, optimizer, schedule, stop_at)
            accelerator.save_state(str(tmp_path / "state"))
    assert found == pytest.approx(expected, rel=1e-5)
    assert same_state(task.model, plain.model)


def test_the_example_by_processes_gives_the_same_losses(tmp_path: Path, start: Start) -> None:
    expected = by_hand(accelerate_example.make_task(), SYNC, tmp_path / "hand", optimizers)
    script = [str(WRAPPED), str(EXAMPLES / "accelerate_loop.py"), "--sync", "--steps", str(STEPS), "--out"]
    cluster = start([*script, str(tmp_path / "out")], ranks=3, env={"LOCAL_RANK": "0"})
    assert cluster.wait(LIMIT) == [0, 0, 0], cluster.output(0)
    assert printed_losses(cluster.output(0)) == pytest.approx(expected, rel=1e-4)
    assert (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ({"gradient_accumulation_steps": 2}, "gradient_accumulation_steps: found 2; take more partitions"),
        ({"mixed_precision": "bf16"}, "mixed_precision: found bf16; workers compute the loss"),
    ],
)
def test_settings_that_cannot_work_are_refused(tmp_path: Path, more: dict[str, Any], line: str) -> None:
    cluster = simulated(accelerate_example.make_task(), SYNC, tmp_path / "run")
    with cluster, pytest.raises(gcdist.ConfigError, match=f"^CodedAccelerator: {line}"):
        CodedAccelerator(cluster, cpu=True, **more)


def test_losses_of_ones_own_are_refused(tmp_path: Path) -> None:
    with simulated(accelerate_example.make_task(), SYNC, tmp_path / "run") as cluster:
        accelerator = CodedAccelerator(cluster, cpu=True)
        loss: Any = torch.zeros(())
        with pytest.raises(gcdist.ConfigError, match=r"^CodedAccelerator\.backward: found Tensor; give the step of"):
            accelerator.backward(loss)
        with pytest.raises(gcdist.ConfigError, match=r"^CodedAccelerator\.accumulate: take more partitions"):
            accelerator.accumulate()
