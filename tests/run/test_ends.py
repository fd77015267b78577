"""Every end of a run leaves a checkpoint, and says how to go on: simulated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import gcdist
from gcdist.observe import read_lines, read_metrics
from gcdist.run.cluster import Cluster


def build(evaluate: Callable[[nn.Module], dict[str, float]] | None = None) -> gcdist.Task:
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    data = TensorDataset(torch.randn(64, 4), torch.randn(64, 1))
    return gcdist.Task(model, data, lambda m, b: nn.functional.mse_loss(m(b[0]), b[1]), 8, evaluate=evaluate)


def begin(
    folder: Path, evaluate: Callable[[nn.Module], dict[str, float]] | None = None, resume: bool = False, **more: Any
) -> Cluster:
    settings: dict[str, Any] = {"cluster": {"workers": 2}, "checkpoint": {"every": 25}, **more}
    say = lambda kind, text: None  # noqa: E731
    return gcdist.simulate(build(evaluate), gcdist.Config(**settings), folder=folder, say=say, resume=resume)


def train(cluster: Cluster, count: int = 100, stop: int | None = None, error: Exception | None = None) -> None:
    optimizer = torch.optim.SGD(cluster.session.task.model.parameters(), lr=0.05)
    cluster.track(optimizer=optimizer)
    for step in cluster.steps(count):
        info = step.backward()
        optimizer.step()
        if info.step == stop:
            if error is not None:
                raise error
            break


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def test_a_break_leaves_a_checkpoint_at_once(tmp_path: Path) -> None:
    with begin(tmp_path / "run") as cluster:
        train(cluster, stop=37)
        assert names(tmp_path / "run") == ["step-00000025", "step-00000038"]
    assert names(tmp_path / "run") == ["step-00000025", "step-00000038"]  # not another one at the close


def test_an_error_in_the_loop_leaves_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ConnectionError, match="tracker"), begin(tmp_path / "run") as cluster:
        train(cluster, stop=37, error=ConnectionError("the tracker is down"))
    assert names(tmp_path / "run") == ["step-00000025", "step-00000038"]


def test_an_evaluation_that_raises_leaves_a_checkpoint_and_comes_again(tmp_path: Path) -> None:
    evaluated: list[int] = []

    def broken(model: nn.Module) -> dict[str, float]:
        raise ValueError("only one class present")

    def good(model: nn.Module) -> dict[str, float]:
        evaluated.append(1)
        return {"score": 1.0}

    every: dict[str, Any] = {"evaluation": {"every": 50}, "checkpoint": {"every": 50}}
    with (
        pytest.raises(gcdist.RunHaltedError, match="only one class"),
        begin(tmp_path / "run", broken, **every) as first,
    ):
        train(first)
    assert names(tmp_path / "run") == ["step-00000050"]
    with begin(tmp_path / "run", good, resume=True, **every) as cluster:
        train(cluster)
        assert cluster.final_evaluation() == {"score": 1.0}
    assert len(evaluated) == 2  # at 50 and at 100
    assert [line["step"] for line in read_lines(tmp_path / "run" / "evaluations.jsonl")] == [50, 100]
    with begin(tmp_path / "run", good, resume=True, **every) as cluster:  # the last one is known, behind its checkpoint
        train(cluster)
        assert cluster.final_evaluation() == {"score": 1.0}
        assert cluster.summary().evaluation_seconds == 0.0  # of the virtual clock
    assert len(evaluated) == 2


def test_none_is_written_where_none_is_wanted_or_nothing_is_new(tmp_path: Path) -> None:
    with begin(tmp_path / "none", checkpoint={"keep": 0}) as cluster:
        train(cluster, 5, stop=3)
    assert not (tmp_path / "none" / "checkpoints").exists()
    with begin(tmp_path / "run") as cluster:
        train(cluster, 5)
        cluster.check_waiting(3)  # steps that train nothing
    assert names(tmp_path / "run") == ["step-00000005"]
    begin(tmp_path / "unused").close()
    assert not (tmp_path / "unused" / "checkpoints").exists()


def test_use_after_the_close_is_an_error_that_says_so(tmp_path: Path) -> None:
    with begin(tmp_path / "run") as cluster:
        steps = cluster.steps(3)
        step = next(steps)
        step.backward()
    for use in (lambda: cluster.steps(3), step.backward, cluster.save, cluster.track, cluster.evaluate):
        with pytest.raises(RuntimeError, match="this run is over, its cluster is closed"):
            use()


def test_a_run_without_a_single_gradient_does_not_end_well(tmp_path: Path) -> None:
    never: dict[str, Any] = {
        "inject": {"model": "shifted-exponential", "shift": 50.0},
        "straggler": {"deadline": 0.5, "warmup_steps": 0},
    }
    with pytest.raises(gcdist.RunHaltedError, match=r"nothing was learned.*in any of 4 steps"):  # noqa: SIM117
        with begin(tmp_path / "run", **never) as cluster:
            train(cluster, 4)
    assert len(read_metrics(tmp_path / "run")) == 4


def test_saving_evaluating_and_deadlines_are_events(tmp_path: Path) -> None:
    with begin(tmp_path / "run", lambda model: {"score": 1.0}, evaluation={"every": 25}) as cluster:
        train(cluster, 50)
    events = list(read_lines(tmp_path / "run" / "events.jsonl"))
    assert [line["text"].split(" in ")[0] for line in events if line["kind"] == "evaluation"] == [
        "after 25 steps,",
        "after 50 steps,",
    ]
    assert [line["text"].split(":")[0] for line in events if line["kind"] == "checkpoint"] == [
        "step-00000025",
        "step-00000050",
    ]
    assert any(line["kind"] == "deadline" for line in events)


def test_a_second_wish_to_end_is_the_end_of_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever breaks off the writing does not get another one at the close."""
    tries: list[int] = []

    def interrupted(*about: Any, **more: Any) -> None:
        tries.append(1)
        raise KeyboardInterrupt

    monkeypatch.setattr("gcdist.run.checkpoint.save_file", interrupted)
    with pytest.raises(KeyboardInterrupt), begin(tmp_path / "run") as cluster:
        train(cluster)
    assert len(tries) == 1
    assert names(tmp_path / "run") == []


def test_by_the_clock_when_no_steps_are_given(tmp_path: Path) -> None:
    """The rule itself: minutes, but never over 1% of the time; never on a virtual clock."""
    from gcdist.run.checkpoints import Checkpoints

    with begin(tmp_path / "run", checkpoint={"every": 0}) as cluster:
        train(cluster, 2)
        now = [0.0]
        session, driver = cluster.session, cluster.driver
        about = (session, driver, cluster.checkpoints._scheme, cluster.accounts, tmp_path / "other")
        by_clock = Checkpoints(*about, clock=lambda: now[0])
        assert not by_clock.due()
        now[0] = 299.0
        assert not by_clock.due()
        now[0] = 300.0
        assert by_clock.due()
        by_clock._took = 30.0  # seconds to write: one in 3,000
        assert not by_clock.due()
        now[0] = 3000.0
        assert by_clock.due()
        assert not Checkpoints(*about, standstill=cluster.checkpoints._standstill, clock=lambda: now[0]).due()
