"""The automatic scheme's memory of partitions: chosen where gradients last, never where they are noise, and unbiased."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import gcdist
from gcdist.types import F64
from gcdist.worker import rows as rows_module
from tests.simulator.test_auto import PACE, PARTITIONS, settings
from tests.simulator.test_unbiased import Points, task, true_gradient

SLOW = {"model": "shifted-exponential", "shift": PACE, "mean": PACE, "scale_with_load": True}


def many_points() -> gcdist.Task:
    """Twenty points a partition, alike in all of them, of which a batch has two: nearly all is sampling noise."""
    points, rng = Points(), np.random.default_rng(5)
    points.x = torch.from_numpy(rng.standard_normal((20 * PARTITIONS, 4)).astype(np.float32))
    points.y = torch.from_numpy(rng.standard_normal((20 * PARTITIONS, 1)).astype(np.float32))
    return replace(task(), dataset=points, batch_size=2)


def run(folder: Path, steps: int, mine: gcdist.Task) -> tuple[list[F64], list[str], list[float]]:
    """The estimates at parameters that stay, the lines of the choices, and the deadlines."""
    config = settings(folder, inject=SLOW, quantizer={"name": "bucket", "bits": 4, "downlink": "float32"})
    estimates, deadlines = [], []
    with gcdist.simulate(mine, config, folder=folder / "run", say=lambda kind, text: None) as cluster:
        for step in cluster.steps(steps):
            deadlines.append(step.backward().deadline)
            grads = [parameter.grad for parameter in cluster.session.task.model.parameters()]
            estimates.append(np.concatenate([g.numpy().ravel().astype(np.float64) for g in grads if g is not None]))
    events = [json.loads(line) for line in (folder / "run" / "events.jsonl").read_text().splitlines()]
    return estimates, [event["text"] for event in events if event["kind"] == "auto"], deadlines


def test_gradients_that_stay_are_remembered_and_cut_rows_lose_their_noise(tmp_path: Path) -> None:
    estimates, lines, deadlines = run(tmp_path, 60, task())
    assert any("a memory of each partition at all workers" in line for line in lines)
    assert any("times as fast as without a memory" in line for line in lines)
    assert deadlines[-1] < 0.3  # rows are cut
    truth = true_gradient(task())
    errors = [float(np.sum((each - truth) ** 2) / np.sum(truth**2)) for each in estimates]
    assert max(errors[-15:]) < 0.01


def test_noise_of_small_batches_is_never_remembered(tmp_path: Path) -> None:
    lines = run(tmp_path, 60, many_points())[1]
    assert lines
    assert not any("memory" in line for line in lines)


def test_where_there_is_no_room_nothing_is_remembered_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows_module, "free_bytes", lambda: 0)
    lines = run(tmp_path, 30, task())[1]
    assert not any("memory" in line for line in lines)


def test_room_that_is_gone_when_it_is_needed_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = iter([10**9] * 8)
    monkeypatch.setattr(rows_module, "free_bytes", lambda: next(room, 0))
    assert len(run(tmp_path, 40, task())[0]) == 40
