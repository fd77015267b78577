"""Rounds and messages that pass the master one after another, and choices that take time."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import gcdist
from gcdist.run.step import StepInfo
from gcdist.simulator.clock import Clock
from gcdist.simulator.cores import Cores
from gcdist.simulator.link_turns import LinkTurns
from gcdist.tasks import convex

N, TURN = 6, 0.001


def infos(out: Path, steps: int = 6, **sections: Any) -> list[StepInfo]:
    """The steps of a run whose time is that of the links' turns."""
    simulate = {"compute_seconds": 0.0, "latency": 0.0, "bandwidth": 1e15, "link_seconds": TURN}
    config = gcdist.Config(
        steps=steps,
        checkpoint={"keep": 0},
        **{
            "cluster": {"workers": N},
            "code": {"scheme": "sync", "partitions": N},
            "quantizer": {"name": "float32", "bits": 32},
            **sections,
            "simulate": {**simulate, **sections.get("simulate", {})},
        },
    )
    task = convex.quadratic(batch_size=1, samples=N, dim=20, blocks=N)
    with gcdist.simulate(task, config, folder=out, say=lambda kind, text: None) as cluster:
        return [step.backward() for step in cluster.steps(steps)]


@pytest.mark.parametrize("cores", [0, 2])
def test_all_at_once_wait_for_each_other_both_ways(tmp_path: Path, cores: int) -> None:
    """Equal delays: the last round is down after N turns, and its message comes up behind the others."""
    inject = {"model": "shifted-exponential", "shift": 0.05, "mean": 0.0}
    for info in infos(tmp_path / "run", simulate={"cores": cores}, inject=inject):
        assert info.step_seconds == pytest.approx(0.05 + (N + 1) * TURN)


def test_a_deadline_takes_those_whose_turn_has_come(tmp_path: Path) -> None:
    """A message is late by the turns before it, not because the mean of all is: some of equal workers are in time."""
    inject = {"model": "shifted-exponential", "shift": 0.05, "mean": 0.0}
    straggler = {"deadline": 0.05 + 3.5 * TURN}
    code = {"scheme": "ignore-rescaled", "partitions": N}
    steps = infos(tmp_path / "run", 40, inject=inject, straggler=straggler, code=code)[10:]
    first = [info for info in steps if info.why == "deadline"]
    assert first
    assert all(0 < len(info.arrived) < N for info in first)
    assert len({info.arrived for info in first}) > 1  # who comes first is drawn anew


def test_a_turn_takes_a_core_from_computing_and_is_not_slowed_by_it() -> None:
    clock, ended = Clock(), dict[str, float]()
    cores = Cores(clock, 1)
    turns = LinkTurns(clock, cores, 0.5, 0)
    for name in ("a", "b"):
        cores.work(1.0, lambda name=name: ended.update({name: clock.now}))  # type: ignore[misc]
    turns.take(lambda: ended.update({"message": clock.now}))
    while clock.next_at() is not None:
        clock.step()
    assert ended == {"message": 0.5, "a": 2.5, "b": 2.5}


def test_short_work_waits_for_a_core() -> None:
    clock, ended = Clock(), list[float]()
    cores = Cores(clock, 2)
    for _ in range(5):
        cores.work_shortly(1.0, lambda: ended.append(clock.now))
    while clock.next_at() is not None:
        clock.step()
    assert ended == [1.0, 1.0, 2.0, 2.0, 3.0]


def test_a_worker_that_dies_takes_its_waiting_round_with_it(tmp_path: Path) -> None:
    """Also what its link has behind that round; the next process begins with a link of its own."""
    faults = [{"kind": "kill", "worker": 2, "step": 2, "seconds": 0.05}]
    steps = infos(
        tmp_path / "run",
        25,
        faults=faults,
        cluster={"workers": N, "min_workers": N - 1},
        straggler={"deadline": 0.02},
        code={"scheme": "ignore-rescaled", "partitions": N},
        inject={"model": "shifted-exponential", "shift": 0.01, "mean": 0.01},
    )
    away = [info.step for info in steps if 2 in info.away]
    assert away
    assert any(2 in info.arrived for info in steps if info.step > away[-1])


def test_an_automatic_choice_takes_the_masters_time(tmp_path: Path) -> None:
    """Its seconds lie between two steps, and only where there is a choice."""
    inject = {"model": "shifted-exponential", "shift": 0.02, "mean": 0.02}
    sections: dict[str, Any] = {"code": {"scheme": "auto", "partitions": N}, "quantizer": {"bits": 4}, "inject": inject}
    steps = infos(tmp_path / "run", 12, **sections, simulate={"choice_seconds": 0.5})
    between = [b.seconds - a.seconds - b.step_seconds for a, b in pairwise(steps)]
    choices = [seconds for seconds in between if seconds > 0.1]
    assert all(seconds == pytest.approx(0.5, abs=0.01) for seconds in choices)
    assert 2 <= len(choices) < len(between)
