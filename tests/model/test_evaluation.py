"""The task's own evaluation on the master's model: it leaves nothing behind, and its time is not the run's."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import gcdist
from gcdist.master.ledger import Ledger
from gcdist.model.evaluation import evaluated
from gcdist.observe import Summary, metric_text, read_lines, summary_table
from gcdist.tasks import digits
from gcdist.types import RunHaltedError


def test_modes_generators_and_gradients_are_as_before() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout())
    model[1].eval()  # frozen by its owner
    torch.manual_seed(1)

    def evaluate(model: nn.Module) -> dict[str, Any]:
        assert not any(module.training for module in model.modules())
        assert not model(torch.rand(4, 2)).requires_grad
        return {"a": torch.tensor(0.5), "b": np.float32(random.random()), "c": 3}

    before = random.getstate(), torch.get_rng_state()
    metrics = evaluated(model, evaluate)
    assert (metrics["a"], metrics["c"]) == (0.5, 3.0)
    assert all(type(value) is float for value in metrics.values())
    assert [module.training for module in model.modules()] == [True, True, False, True]
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])


@pytest.mark.parametrize(
    ("found", "line"),
    [
        (0.5, "evaluate must give a dict of numbers by name, found float"),
        ({"x": torch.zeros(2)}, "evaluate: x must be one number, found Tensor"),
        ({"x": "good"}, "evaluate: x must be one number, found str"),
    ],
)
def test_other_answers_are_one_clear_line(found: Any, line: str) -> None:
    model = nn.Linear(1, 1)
    with pytest.raises(ValueError, match=f"^{line}$"):
        evaluated(model, lambda model: found)
    assert model.training


def test_evaluations_are_written_and_shown(tmp_path: Path) -> None:
    made = digits.build(model="mlp")
    settings = gcdist.Config(out=tmp_path, cluster={"workers": 3}, evaluation={"every": 2})
    with gcdist.simulate(made, settings, folder=tmp_path / "run", say=lambda kind, text: None) as cluster:
        shown = []
        for step in cluster.steps(5):
            step.backward()
            shown.append(dict(cluster.evaluation))
        assert cluster.evaluate(lambda model: {"own": 1.0}) == {"own": 1.0}
    assert shown[1] == {}
    assert set(shown[2]) == {"test_accuracy", "test_loss"}
    lines = list(read_lines(tmp_path / "run" / "evaluations.jsonl"))
    assert [line["step"] for line in lines] == [2, 4, 5]
    assert lines[0]["metrics"] == shown[2]
    bare = gcdist.Task(made.model, made.dataset, made.loss_fn)
    with gcdist.simulate(bare, settings, folder=tmp_path / "bare", say=lambda kind, text: None) as cluster:
        for step in cluster.steps(2):
            step.backward()
        assert cluster.final_evaluation() == {}
        with pytest.raises(ValueError, match="the task has no evaluate function; give one"):
            cluster.evaluate()


def test_an_error_in_it_halts_the_run_with_the_user_s_traceback() -> None:
    def fails(model: nn.Module) -> dict[str, float]:
        assert not model.training
        raise KeyError("no such metric")

    model = nn.Linear(1, 1)
    with pytest.raises(RunHaltedError) as raised:
        evaluated(model, fails)
    first, *trace = str(raised.value).splitlines()
    assert first == "evaluate raised KeyError: 'no such metric'"
    assert trace[0] == "Traceback (most recent call last):"
    assert trace[1].endswith("in fails")
    assert model.training


class Port:
    """A master's port with a clock that the test moves."""

    bytes_up = bytes_down = 0

    def __init__(self) -> None:
        self.at = 100.0

    def now(self) -> float:
        return self.at


def test_pauses_are_not_the_runs_time() -> None:
    port = Port()
    ledger = Ledger(port)  # type: ignore[arg-type]
    ledger.begin()
    port.at += 2.0
    with ledger.pause("evaluation"):
        port.at += 5.0
        with ledger.pause("checkpoint"):
            port.at += 1.0
    port.at += 1.0
    with ledger.pause("checkpoint"):
        port.at += 0.5
    assert ledger.seconds == 3.0
    assert ledger.paused == {"evaluation": 6.0, "checkpoint": 0.5}
    port.bytes_up = 70
    assert ledger.traffic() == (70, 0)
    port.bytes_up = 75
    told = ledger.state_dict()
    later, there = Ledger(other := Port()), other  # type: ignore[arg-type]
    later.load_state_dict(told)
    there.bytes_up = 1000  # of the workers that joined again
    later.begin()
    there.at += 1.0
    assert later.seconds == 4.0
    assert later.traffic() == (5, 0)
    assert later.bytes_up == 75
    assert later.paused == ledger.paused


def test_the_summary_names_the_time_apart(tmp_path: Path) -> None:
    from rich.console import Console

    summary = Summary("osgc", "float32", 2, 3, {}, 1.0, None, None, [], 1, 1, 1, 1, tmp_path, evaluation_seconds=2.04)
    console = Console(width=100)
    with console.capture() as shown:
        console.print(summary_table(summary))
    assert "not in it" in shown.get()
    assert "evaluation 2.0 s, checkpoints 0.0 s" in shown.get()
    assert metric_text("test_loss", 0.123456) == "test loss 0.1235"
