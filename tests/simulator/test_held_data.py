"""Data that only a slow worker can read: no deadline is chosen as if others could take it over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import gcdist
from gcdist.tasks import load_task

WORKERS, PARTITIONS, STEPS, WARM = 5, 20, 150, 30
PACE = 0.01


@pytest.mark.parametrize(
    ("code", "batch", "least"),  # exact gradients with a batch of 8: `auto` remembers each partition's
    [
        ({"scheme": "auto"}, 1, 0.2),
        ({"scheme": "auto"}, 8, 0.08),
        ({"scheme": "joint"}, 1, 0.25),
        ({"scheme": "osgc", "partial": False}, 1, 0.25),
    ],
)
def test_a_slow_worker_with_data_of_its_own_is_heard(
    tmp_path: Path, code: dict[str, Any], batch: int, least: float
) -> None:
    """Workers 1 to 4 can read 16 partitions each, of the 20; only worker 5, ten times slower, reads the rest.

    While deadlines were chosen by these numbers alone it was heard in none of the steps with `joint` and with whole rows,
    whose gradient had 0.8 of its length, and in 1% and 4% with `auto`. Of what is remembered one step in ten is enough.
    """
    options = {"samples": 8 * PARTITIONS, "blocks": PARTITIONS, "differ": 0.5, "condition": 20.0, "noise": 0.3}
    mine = load_task("quadratic", options, batch, tmp_path)
    paces = [PACE, PACE, PACE, PACE, 10 * PACE]
    config = gcdist.Config(
        out=tmp_path,
        cluster={"workers": WORKERS},
        code={**code, "partitions": PARTITIONS},
        data={"holds": [list(range(16))] * 4 + [list(range(16, 20))]},
        inject={"model": "shifted-exponential", "shift": paces, "mean": paces, "scale_with_load": True},
        simulate={"compute_seconds": 0.0},
        checkpoint={"keep": 0},
    )
    heard, lengths, data = [], [], mine.dataset
    x = mine.model.get_parameter("x")
    true_D = data.hessian_D * (x.detach().numpy().astype(np.float64) - data.optimum)
    with gcdist.simulate(mine, config, folder=tmp_path / "run", say=lambda kind, text: None) as cluster:
        for step in cluster.steps(STEPS):
            info = step.backward()
            heard.append(WORKERS in info.arrived)
            assert x.grad is not None
            lengths.append(float(x.grad.numpy() @ true_D / (true_D @ true_D)))
    assert np.mean(heard[WARM:]) > least
    means_B = np.reshape(lengths[WARM:], (10, -1)).mean(axis=1)
    assert abs(means_B.mean() - 1) < max(0.05, 5 * means_B.std(ddof=1) / np.sqrt(10))


def test_data_that_two_can_read_are_computed_by_the_one_who_is_heard(tmp_path: Path) -> None:
    """The last two of 16 workers are ten times slower, and each partition has a second reader half the cluster away.

    Gradients are exact, so that partitions are remembered. Rows of workers that never do anything by the cut were planned
    all the same: what they remembered grew old, the estimate became 0 far from the optimum, and the loss stood at 9e-5.
    """
    workers, each = 16, 4
    k = workers * each
    options = {"samples": k, "blocks": 8, "differ": 1.0, "condition": 20.0, "dim": 50}
    mine = load_task("quadratic", options, 1, tmp_path)
    own = [list(range(each * i, each * (i + 1))) for i in range(workers)]
    slow = [10.0 if i >= workers - 2 else 1.0 for i in range(workers)]
    config = gcdist.Config(
        out=tmp_path,
        cluster={"workers": workers},
        code={"partitions": k},
        data={"holds": [own[i] + own[(i + workers // 2) % workers] for i in range(workers)]},
        inject={
            "model": "shifted-exponential", "shift": [PACE * s for s in slow], "mean": [PACE / 5 * s for s in slow],
            "scale_with_load": True, "where": "compute",
        },
        simulate={"compute_seconds": 0.0},
        checkpoint={"keep": 0},
    )  # fmt: skip
    optimizer = torch.optim.SGD(mine.model.parameters(), 1.0)
    with gcdist.simulate(mine, config, folder=tmp_path / "run", say=lambda kind, text: None) as cluster:
        for step in cluster.steps(200):
            step.backward()
            optimizer.step()
        assert mine.evaluate is not None
        assert mine.evaluate(mine.model)["excess_loss"] < 1e-6
