"""A worker that is gone for good: its partitions and bits go to the others with the next plan; a newcomer is taken in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import gcdist
from gcdist.exchange.link_frames import link_settings
from gcdist.run.session import Session
from gcdist.simulator.world import simulated
from gcdist.tasks import load_task
from gcdist.types import Plan
from tests.simulator.test_faults_simulated import linear_task

WORKERS, PARTITIONS, BITS = 4, 8, 4


@pytest.mark.parametrize("scheme", ["osgc", "joint", "memory"])
def test_partitions_and_bits_go_to_those_who_are_here(scheme: str) -> None:
    config = gcdist.Config(
        cluster={"workers": WORKERS, "min_workers": 1},
        code={"scheme": scheme, "partitions": PARTITIONS},
        quantizer={"bits": BITS},
        straggler={"deadline": 1.0, "warmup_steps": 1, "replan_every": 10**6},
    )
    session = Session.build(linear_task(), config, WORKERS)
    driver, network = simulated(session, lambda kind, text: None)
    scheme_in_use = session.scheme(lambda plan, report, deadline: None)
    number = iter(range(100))

    def after(steps: int) -> Plan:
        for _ in range(steps):
            plan = driver.run_round(next(number), scheme_in_use).plan
        return plan

    def owners(plan: Plan) -> set[int]:
        assert plan.covered_K.all()
        np.testing.assert_allclose(np.asarray(plan.A_RK.sum(axis=0)), 1)
        return set(plan.worker_R[plan.weighted_R()].tolist())

    assert owners(after(3)) == {0, 1, 2, 3}
    network.workers[1].kill(None)
    plan = after(2)  # the step in which it dies, and the next one
    assert owners(plan) == {0, 2, 3}
    if scheme != "memory":
        assert plan.bits_RS[plan.weighted_R()].sum() == BITS * 3
    network.workers[1].kill(0.0)  # another host in its place
    for _ in range(20):  # until it has joined
        if not driver.machine.members.live().all():
            after(1)
    assert owners(after(1)) == {0, 1, 2, 3}


def test_no_frame_may_be_larger_than_the_model_needs() -> None:
    session = Session.build(linear_task(), gcdist.Config(), 2)
    assert session.state.nbytes < link_settings(session).max_bytes < 100_000


@pytest.mark.parametrize("scheme", ["frc", "cyclic", "sgc", "bgc", "expander", "adjacency", "erasurehead"])
def test_a_code_from_the_literature_outlives_its_workers(scheme: str) -> None:
    """`frc`: seven of eight workers had no plan, so that one death ended the run."""
    lines: list[str] = []
    settings = {
        "cluster": {"workers": WORKERS, "min_workers": 1},
        "code": {"scheme": scheme, "partitions": PARTITIONS},
        "straggler": {"deadline": 1.0, "warmup_steps": 1},
        "faults": [{"kind": "kill", "worker": worker, "step": 2 * worker} for worker in (1, 2, 3)],
    }
    with gcdist.simulate(linear_task(), settings, say=lambda kind, text: lines.append(text)) as cluster:
        infos = [step.backward() for step in cluster.steps(12)]
    assert [len(info.arrived) for info in infos[-5:]] == [1] * 5
    less = [line for line in lines if f"{scheme}: " in line and " in place of " in line]
    assert bool(less) == (scheme not in ("expander", "erasurehead"))


def test_chances_that_an_allocation_has_no_plan_for_do_not_end_the_run(tmp_path: Path) -> None:
    """Signs of "star" depend on the measured chances: there was a plan at first, and none after some steps."""
    lines: list[str] = []
    settings = {
        "cluster": {"workers": 8},
        "code": {"scheme": "joint", "partitions": 16, "allocation": "star", "partial": False},
        "straggler": {"deadline": 0.012, "warmup_steps": 1},
        "inject": {"model": "shifted-exponential", "shift": 0.005, "mean": tuple(0.001 * 2**i for i in range(8))},
    }
    task = load_task("quadratic", {"samples": 64, "dim": 8, "blocks": 16}, 4, tmp_path)
    with gcdist.simulate(task, settings, say=lambda kind, text: lines.append(text)) as cluster:
        steps = [step.backward() for step in cluster.steps(30)]
    assert len(steps) == 30
    assert any('the allocation "star" has no plan for these workers' in line for line in lines)
