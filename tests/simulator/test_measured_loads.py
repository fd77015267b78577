"""Whole rows and measured chances: nobody gets a load that it was never seen to finish by the deadline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gcdist
from tests.simulator.test_unbiased import task, true_gradient

WORKERS, PARTITIONS, STEPS, WARM = 4, 16, 200, 40
PACE = 0.01


@pytest.mark.parametrize("code", [{"scheme": "shifted"}, {"scheme": "osgc", "partial": False}])
def test_the_best_worker_does_not_get_what_it_cannot_finish(tmp_path: Path, code: dict[str, Any]) -> None:
    """The delays grow with the load. Worker 1 was given 12 of 16 partitions by the chances that it had with 5, never was in
    time, and three quarters of the data counted in no step. The gradient's
    component along the true one is 1 within five standard deviations of ten means of 16 steps.
    """
    means = (PACE * np.linspace(1, 3, WORKERS) ** 2).tolist()
    config = gcdist.Config(
        out=tmp_path,
        cluster={"workers": WORKERS},
        code={"partitions": PARTITIONS, **code},
        quantizer={"name": "float32"},
        inject={"model": "shifted-exponential", "shift": PACE, "mean": means, "scale_with_load": True},
        simulate={"compute_seconds": 0.0},
        checkpoint={"keep": 0},
    )
    mine = task()
    true_D, lengths, loads = true_gradient(mine), [], []
    with gcdist.simulate(mine, config, folder=tmp_path / "run", say=lambda kind, text: None) as cluster:
        for step in cluster.steps(STEPS):
            step.backward()
            grads = [p.grad for p in mine.model.parameters()]
            made_D = np.concatenate([np.zeros(0) if g is None else g.numpy().ravel() for g in grads])
            lengths.append(float(made_D @ true_D / (true_D @ true_D)) if len(made_D) else 0.0)
            assert cluster.plan is not None
            loads.append(int(np.diff(cluster.plan.A_RK.indptr).max()))
    assert max(loads[WARM:]) <= 6
    means_B = np.reshape(lengths[WARM:], (10, -1)).mean(axis=1)
    assert abs(means_B.mean() - 1) < 5 * means_B.std(ddof=1) / np.sqrt(10)
    assert means_B.mean() > 0.8
