"""All workers become half as fast: within a few steps as much of the data counts as before, and few steps are empty."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import gcdist
from tests.simulator.test_faults_simulated import linear_task

AT, STEPS, NOTICED = 40, 56, 3
REMEMBERING = 6  # where partitions are remembered, half of the workers may send nothing: fewer steps tell less


def half_as_fast(path: Path, workers: int, seed: int, jitter: float) -> Path:
    """Recorded seconds of an even share: 0.1 s and ``jitter`` times an exponential time, twice as much from ``AT`` on."""
    times_TN = 0.1 * (1 + jitter * np.random.default_rng(seed).exponential(size=(STEPS, workers)))
    times_TN[AT:] *= 2
    lines = ["step," + ",".join(f"worker{i + 1}" for i in range(workers))]
    lines += [",".join([str(step), *(f"{x:.5f}" for x in row)]) for step, row in enumerate(times_TN)]
    path.write_text("\n".join(lines) + "\n")
    return path


def run(
    folder: Path, workers: int, seed: int, where: str, code: dict[str, Any], jitter: float = 0.15
) -> list[gcdist.StepInfo]:
    trace = half_as_fast(folder / "times.csv", workers, seed, jitter)
    config = gcdist.Config(
        cluster={"workers": workers},
        code={"partitions": 4 * workers, **code},
        inject={"model": "trace", "file": trace, "unit": 0.25, "scale_with_load": True, "where": where},
        simulate={"compute_seconds": 0.001},
    )
    task, infos = linear_task(), []
    optimizer = torch.optim.SGD(task.model.parameters(), lr=0.05)
    with gcdist.simulate(task, config, folder=folder / "run", say=lambda kind, text: None) as cluster:
        cluster.track(optimizer=optimizer)
        for step in cluster.steps(STEPS):
            infos.append(step.backward())
            optimizer.step()
    return infos


@pytest.mark.parametrize("where", ["message", "compute"])
@pytest.mark.parametrize("workers", [4, 8])
def test_rows_that_are_cut_hold_as_much_as_before_from_the_fourth_step_on(
    tmp_path: Path, where: str, workers: int
) -> None:
    infos = run(tmp_path, workers, 0, where, {}, jitter=0.5)
    share = [info.loss_share for info in infos]
    before, after = np.mean(share[AT - 10 : AT]), np.mean(share[AT + NOTICED :])
    assert np.mean(share[AT : AT + NOTICED - 1]) < 0.7 * before  # it does matter
    assert after > 0.8 * before
    assert all(info.estimated for info in infos)
    assert infos[AT + NOTICED].deadline > 1.5 * infos[AT - 1].deadline


@pytest.mark.parametrize("where", ["message", "compute"])
def test_whole_rows_are_empty_three_times_in_a_row_at_most(tmp_path: Path, where: str) -> None:
    infos = run(tmp_path, 8, 1, where, {"scheme": "joint", "partial": False})
    empty = [not info.estimated for info in infos]
    assert max((len(list(each)) for is_empty, each in groupby(empty) if is_empty), default=0) <= NOTICED
    few = [len(info.arrived) <= 2 for info in infos[AT:]]
    assert max((len(list(each)) for is_few, each in groupby(few) if is_few), default=0) <= NOTICED


@pytest.mark.parametrize("where", ["message", "compute"])
@pytest.mark.parametrize("workers", [4, 8])
def test_gcdist_as_it_comes_cuts_later_within_six_steps(tmp_path: Path, where: str, workers: int) -> None:
    """Remembered partitions bear early cuts: what counts is that rows are not cut where nothing is done."""
    infos = run(tmp_path, workers, 0, where, {})
    arrived = [len(info.arrived) for info in infos]
    assert np.mean(arrived[AT + REMEMBERING :]) > 0.6 * np.mean(arrived[AT - 10 : AT])
    assert infos[AT + REMEMBERING].deadline > 1.3 * infos[AT - 1].deadline
    assert all(info.estimated for info in infos)
