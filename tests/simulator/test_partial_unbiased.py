"""Rows that are cut are right on average, end to end, and as noisy as math section 10 says.

As in `test_unbiased`: one z-test on many rounds at fixed parameters; |z| < 5 fails a right program with probability 6e-7 a
test; seeds are fixed. Cuts depend on times: a slow worker sends fewer of its partitions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gcdist
from gcdist.protocol import order
from gcdist.protocol import worker as worker_machine
from gcdist.worker.rows import RowMaker
from tests.simulator.test_unbiased import DEADLINE, estimates, task, true_gradient, z_scores

WORKERS, PARTITIONS = 3, 12
MISS = (0.1, 0.2, 0.35)  # chance that not even one partition is done by the deadline


def config(out: Path, p: object = "model", miss: tuple[float, ...] = MISS, scheme: str = "osgc") -> gcdist.Config:
    # l partitions take l times an exponential time: the first one is done at the time itself
    means = tuple(float(-DEADLINE / np.log(m)) for m in miss)
    return gcdist.Config(
        out=out,
        cluster={"workers": WORKERS},
        code={"scheme": scheme, "partitions": PARTITIONS},
        quantizer={"name": "bucket", "bits": 4, "downlink": "float32"},
        inject={"model": "shifted-exponential", "mean": means, "scale_with_load": True},
        straggler={"deadline": DEADLINE, "p": p, "replan_every": 10**6, "warmup_steps": 0},
        simulate={"latency": 0.0, "bandwidth": 1e18, "compute_seconds": 0.0},
    )


@pytest.mark.parametrize("scheme", ["osgc", "joint", "partial-memory"])
def test_cut_rows_are_right_on_average(tmp_path: Path, scheme: str) -> None:
    z = z_scores(estimates(config(tmp_path, scheme=scheme), tmp_path / "run", workers=WORKERS), true_gradient(task()))
    assert np.abs(z).max() < 5


def test_a_sum_that_is_not_scaled_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encode = RowMaker.encode

    def unscaled(self: RowMaker, step: int, row: int, parts: int, *rest: Any) -> Any:
        return encode(self, step, row, 1, *rest)

    monkeypatch.setattr(RowMaker, "encode", unscaled)
    z = z_scores(estimates(config(tmp_path), tmp_path / "run", workers=WORKERS), true_gradient(task()))
    assert np.abs(z).max() > 6


@pytest.mark.slow
def test_an_order_that_is_not_random_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stored(seed: int, step: int, row: int, parts: tuple[order.Part, ...]) -> tuple[order.Part, ...]:
        return parts

    monkeypatch.setattr(worker_machine, "partition_order", stored)
    monkeypatch.setattr("gcdist.protocol.master.partition_order", stored)
    monkeypatch.setattr("gcdist.master.driver.partition_order", stored)
    z = z_scores(estimates(config(tmp_path), tmp_path / "run", workers=WORKERS), true_gradient(task()))
    assert np.abs(z).max() > 6


@pytest.mark.slow
def test_a_wrong_chance_of_no_message_is_seen(tmp_path: Path) -> None:
    miss = (0.5, 0.55, 0.6)  # large, so that a tenth of it shows in so many rounds
    settings = config(tmp_path, p=tuple(1.1 * m for m in miss), miss=miss)
    z = z_scores(estimates(settings, tmp_path / "run", workers=WORKERS), true_gradient(task()))
    assert np.abs(z).max() > 6
