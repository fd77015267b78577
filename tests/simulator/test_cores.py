"""Cores that simulated workers share, against a fluid computed step by step; and what a run makes of them."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

import gcdist
from gcdist.simulator.clock import Clock
from gcdist.simulator.cores import Cores
from gcdist.tasks import digits


def fluid(begins: list[float], needs: list[float], cores: int, gone: dict[int, float]) -> list[float]:
    """When each job ends if all that are there share the cores evenly, each on one at most; ``gone``: given up then."""
    now, left, ends = 0.0, list(needs), [np.inf] * len(needs)
    while True:
        here = [i for i in range(len(left)) if begins[i] <= now < gone.get(i, np.inf) and np.isinf(ends[i])]
        rate = min(1.0, cores / len(here)) if here else 1.0
        changes = [t for t in (*begins, *gone.values()) if t > now] + [now + left[i] / rate for i in here]
        if not changes:
            return ends
        then = min(changes)
        for i in here:
            left[i] -= rate * (then - now)
            if left[i] <= 1e-12:
                ends[i] = then
        now = then


@pytest.mark.parametrize("seed", range(20))
def test_jobs_share_the_cores_evenly(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count, cores = int(rng.integers(1, 30)), int(rng.integers(1, 6))
    begins, needs = rng.uniform(0, 3, count).round(2).tolist(), rng.exponential(1.0, count).tolist()
    gone = {i: begins[i] + float(rng.uniform(0, 1)) for i in range(count) if rng.random() < 0.2}
    clock, ends = Clock(), [np.inf] * count
    shared = Cores(clock, cores)

    def end(i: int) -> None:
        ends[i] = clock.now

    def begin(i: int) -> None:
        job = shared.work(needs[i], partial(end, i))
        if i in gone:
            clock.at(gone[i], lambda: shared.give_up(job) if np.isinf(ends[i]) else None)

    for i in range(count):
        clock.at(begins[i], partial(begin, i))
    while clock.next_at() is not None:
        clock.step()
    np.testing.assert_allclose(ends, fluid(begins, needs, cores, gone), rtol=1e-9)


@pytest.mark.parametrize(("cores", "seconds"), [(0, 0.8), (4, 0.8), (2, 1.6), (1, 3.2)])
def test_a_round_takes_what_the_cores_allow(tmp_path: Path, cores: int, seconds: float) -> None:
    """Four workers with four partitions of 0.2 s each."""
    config = gcdist.Config(
        out=tmp_path,
        cluster={"workers": 4},
        code={"scheme": "sync", "partitions": 16},
        simulate={"latency": 0.0, "bandwidth": 1e18, "compute_seconds": 0.2, "cores": cores},
    )
    with gcdist.simulate(digits.build(model="mlp"), config, say=lambda kind, text: None) as cluster:
        infos = [step.backward() for step in cluster.steps(3)]
    assert [info.step_seconds for info in infos] == pytest.approx([seconds] * 3, rel=1e-6)
    assert infos[0].cpu_seconds == 0.2


def test_a_worker_that_dies_leaves_its_core_to_the_others(tmp_path: Path) -> None:
    config = gcdist.Config(
        out=tmp_path,
        cluster={"workers": 2, "min_workers": 1},
        code={"scheme": "ignore", "partitions": 2},
        straggler={"deadline": 10.0},
        simulate={"latency": 0.0, "bandwidth": 1e18, "compute_seconds": 1.0, "cores": 1},
        faults=[{"kind": "kill", "worker": 2, "step": 1}],
    )
    with gcdist.simulate(digits.build(model="mlp"), config, say=lambda kind, text: None) as cluster:
        infos = [step.backward() for step in cluster.steps(2)]
    assert infos[0].step_seconds == pytest.approx(2.0)
    assert infos[1].arrived == (1,)
    assert infos[1].step_seconds < 2.0
