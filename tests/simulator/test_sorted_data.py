"""Data in blocks that differ, neighbouring partitions at the same worker: partitions of a row agree, and rows do not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

import gcdist
from gcdist.tasks import load_task

WORKERS, EACH, STEPS, WARM = 16, 4, 60, 20


def test_what_absences_cost_is_planned_from_what_rows_differ_by(tmp_path: Path) -> None:
    """Near the optimum, parameters that stay, exact gradients. 40 steps tell the mean error, which is about exponentially
    distributed, within a factor of 2 (three standard deviations); by the spread within rows it was planned twenty times
    too small.
    """
    options = {"samples": WORKERS * EACH, "blocks": 8, "differ": 1.0, "condition": 20.0, "dim": 50}
    task = load_task("quadratic", options, 1, tmp_path)
    config = gcdist.Config(
        out=tmp_path,
        cluster={"workers": WORKERS},
        code={"scheme": "joint", "partitions": WORKERS * EACH},
        straggler={"deadline": 0.17},
        inject={"model": "shifted-exponential", "shift": 0.1, "mean": 0.1, "scale_with_load": True},
        simulate={"compute_seconds": 0.0},
        checkpoint={"keep": 0},
    )
    planned, true, data = [], [], task.dataset
    x = task.model.get_parameter("x")
    with torch.no_grad():
        start = data.optimum + 0.3 * np.random.default_rng(0).standard_normal(len(data.optimum))
        x.copy_(torch.from_numpy(start.astype(np.float32)))
    true_D = data.hessian_D * (start - data.optimum)
    with gcdist.simulate(task, config, folder=tmp_path / "run", say=lambda kind, text: None) as cluster:
        for step in cluster.steps(STEPS):
            planned.append(step.backward().noise_planned)
            made = np.zeros_like(true_D) if x.grad is None else x.grad.numpy()
            true.append(float(np.sum((made - true_D) ** 2) / (true_D @ true_D)))
    assert 0.5 < np.mean(planned[WARM:]) / np.mean(true[WARM:]) < 2.0
