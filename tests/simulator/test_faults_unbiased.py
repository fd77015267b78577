"""Faults that strike by a known law, whatever the gradient is: the mean of the estimates is the gradient.

In each step each worker is struck with its own chance q, and then misses the step: it is stopped or cut off until the
deadline is over, is delayed beyond it, dies, or sends garbage. p = q is given. The parameters stay as they are.
"""

from __future__ import annotations

from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch

import gcdist
from gcdist.protocol.messages import Fault
from gcdist.run.session import Session
from gcdist.simulator.world import simulated
from gcdist.types import F64
from tests.simulator.test_faults_simulated import DATA, linear_task, loss_fn

WORKERS, ROUNDS, DEADLINE = 4, 1000, 1.0
CHANCE = (0.15, 0.3, 0.45, 0.25)
# seconds after the opening: the deaths of a step must not be known when it opens; before a round is there
STRIKE = 0.005
BEYOND = DEADLINE - STRIKE + 1e-6
FAULTS = (
    Fault("stop", seconds=BEYOND),
    Fault("cut", seconds=BEYOND),
    Fault("delay", seconds=DEADLINE),
    Fault("kill", seconds=0.5 * DEADLINE),
    Fault("corrupt", what="garbage"),
    Fault("corrupt", what="checksum"),
)


def errors(scheme: str, p: tuple[float, ...]) -> tuple[F64, F64]:
    """Estimates minus the gradient, (T, d), and the gradient (d,)."""
    config = gcdist.Config(
        cluster={"workers": WORKERS, "min_workers": 1, "retry_first": 0.25},
        code={"scheme": scheme, "partitions": 6, "partial": False},  # p is given for whole rows by the deadline
        quantizer={"name": "bucket", "bits": 3},
        straggler={"deadline": DEADLINE, "p": p, "warmup_steps": 0, "replan_every": 10**6},
        simulate={"latency": 2 * STRIKE, "bandwidth": 1e18, "compute_seconds": 0.0},
    )
    session = Session.build(linear_task(), config, WORKERS)
    driver, network = simulated(session, lambda kind, text: None)
    scheme_in_use = session.scheme(lambda plan, report, deadline: None)
    model = session.task.model
    torch.autograd.backward(loss_fn(model, (DATA.x, DATA.y)))
    g_D = torch.cat([p.grad.reshape(-1) for p in model.parameters() if p.grad is not None]).double().numpy()
    rng = np.random.default_rng(0)
    rows, seen = [], Counter[str]()
    for step in range(ROUNDS):
        driver.drain()
        for peer in driver.machine.members.peers():
            if rng.random() < CHANCE[peer.worker]:
                fault = FAULTS[rng.integers(len(FAULTS))]
                seen[fault.kind] += 1
                network.clock.at(driver.port.now() + STRIKE, partial(network.inject, peer, step, fault))
        made = driver.run_round(step, scheme_in_use).gradient
        rows.append(np.zeros(len(g_D)) if made is None else made.astype(np.float64))
    assert min(seen.values()) > 50
    return np.stack(rows) - g_D, g_D


def z_scores(error_TD: F64, g_D: F64) -> F64:
    """z of the mean error along g and of every coordinate, (1 + d,)."""
    columns: F64 = np.column_stack([error_TD @ g_D, error_TD])
    z: F64 = columns.mean(axis=0) / (columns.std(axis=0) / np.sqrt(len(columns)))
    return z


@pytest.mark.parametrize("scheme", ["osgc", "shifted"])
def test_estimates_are_unbiased_under_faults(scheme: str) -> None:
    # errors have no mean given their past; 9 z-scores, |z| < 5: a right program fails with probability 6e-6; fixed seed
    assert np.abs(z_scores(*errors(scheme, CHANCE))).max() < 5


def test_a_wrong_law_is_seen() -> None:
    assert np.abs(z_scores(*errors("osgc", (0.15, 0.3, 0.25, 0.25)))).max() > 5
