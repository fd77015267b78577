"""A worker whose uplink becomes slow: its messages are late, p rises, and partitions and bits go to the others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gcdist
from gcdist.run.session import Session
from gcdist.simulator.world import simulated
from gcdist.types import Plan
from tests.simulator.test_faults_simulated import linear_task

WORKERS, BITS, SLOW, RATE = 4, 4, 1, 300.0  # a message of some 300 bytes takes about the deadline of 1 s


def load(plan: Plan, worker: int) -> int:
    return sum(len(plan.parts(int(row))) for row in np.flatnonzero(plan.worker_R == worker))


@pytest.mark.parametrize("code", [{"scheme": "joint", "partial": False}, {"scheme": "osgc", "partial": False}])
def test_p_rises_and_partitions_and_bits_go_to_the_others(code: dict[str, Any]) -> None:
    config = gcdist.Config(
        cluster={"workers": WORKERS, "min_workers": 1},
        code={"partitions": 8, **code},
        quantizer={"name": "dither", "bits": BITS},
        inject={"model": "shifted-exponential", "shift": 0.1, "mean": 0.1},
        straggler={"deadline": 1.0, "warmup_steps": 1, "replan_every": 10, "window": 20},
        simulate={"bandwidth": 1e5},
    )
    session = Session.build(linear_task(), config, WORKERS)
    driver, network = simulated(session, lambda kind, text: None)
    scheme = session.scheme(lambda plan, report, deadline: None)
    before = [driver.run_round(step, scheme).plan for step in range(40)][-1]
    network.trouble.slow(SLOW, 1e9, RATE)
    rounds = [driver.run_round(step, scheme) for step in range(40, 120)]
    after = rounds[-1].plan
    assert before.p_R.max() < 0.1
    assert after.p_R[SLOW] > 0.5
    assert np.delete(after.p_R, SLOW).max() < 0.1
    assert 0 < load(after, SLOW) < load(before, SLOW)
    if code["scheme"] == "joint":
        bits = after.bits_RS[:, 0]
        assert bits[SLOW] < BITS < np.delete(bits, SLOW).min()
        assert bits.sum() == BITS * WORKERS  # of the whole step
    assert all(result.live_N.all() for result in rounds)  # late, not lost
