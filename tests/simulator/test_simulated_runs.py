"""Runs on the virtual clock: every code learns, equal seeds give equal runs, losses and re-joins are survived."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import gcdist
from gcdist.observe import RunFolder
from gcdist.run.cluster import Cluster, StepInfo
from gcdist.run.session import Session
from gcdist.simulator.network import Network
from gcdist.simulator.world import simulated
from gcdist.tasks import digits


def config(out: Path, scheme: str = "osgc", **more: Any) -> gcdist.Config:
    settings: dict[str, object] = {
        "out": out,
        "cluster": {"workers": 4, "join_timeout": 30.0},
        "code": {"scheme": scheme},
        "inject": {"model": "shifted-exponential", "shift": 0.2, "mean": (0.05, 0.1, 0.2, 0.5)},
        "straggler": {"deadline": 0.5},
    }
    return gcdist.Config(**{**settings, **more})


def train(cluster: Cluster, steps: int, lr: float = 0.1) -> list[StepInfo]:
    optimizer = torch.optim.SGD(cluster.session.task.model.parameters(), lr=lr, momentum=0.8)
    infos = []
    for step in cluster.steps(steps):
        infos.append(step.backward())
        optimizer.step()
    return infos


def quiet(kind: str, text: str) -> None:
    """The log is not wanted."""


@pytest.mark.parametrize("scheme", ["osgc", "sync", "memory", "ignore-rescaled"])
def test_every_code_learns(tmp_path: Path, scheme: str) -> None:
    task = digits.build(model="mlp")
    with gcdist.simulate(task, config(tmp_path, scheme), say=quiet) as cluster:
        infos = train(cluster, 40)
    assert infos[0].loss is not None
    assert infos[-1].loss is not None
    assert infos[-1].loss < 0.5 * infos[0].loss
    assert task.evaluate is not None
    assert task.evaluate(task.model)["test_accuracy"] > 0.85


def test_equal_seeds_give_equal_runs(tmp_path: Path) -> None:
    runs = []
    for name in ("a", "b"):
        with gcdist.simulate(digits.build(model="mlp"), config(tmp_path, name=name), say=quiet) as cluster:
            runs.append(train(cluster, 12))
    assert runs[0] == runs[1]


def test_steps_end_by_their_deadline(tmp_path: Path) -> None:
    whole = config(tmp_path, code={"scheme": "osgc", "partial": False})
    with gcdist.simulate(digits.build(model="mlp"), whole, say=quiet) as cluster:
        infos = train(cluster, 30)
    late = [i for i in infos if i.deadline == 0.5]
    assert len(late) > 20
    assert all(i.step_seconds <= 0.5 + 1e-9 for i in late)
    assert any(i.why == "deadline" for i in late)
    assert {i.why for i in late} <= {"deadline", "complete"}


def with_network(out: Path, **more: Any) -> tuple[Cluster, Network]:
    session = Session.build(digits.build(model="mlp"), config(out, **more), 4)
    driver, network = simulated(session, quiet)
    return Cluster(session, driver, RunFolder(out / "run")), network


@pytest.mark.parametrize("scheme", ["osgc", "memory"])
def test_a_killed_worker_comes_back_and_is_planned_for(tmp_path: Path, scheme: str) -> None:
    cluster, network = with_network(tmp_path, code={"scheme": scheme})
    with cluster:
        train(cluster, 10)
        network.workers[1].kill()
        assert min(info.live for info in train(cluster, 2)) == 3  # the news takes its latency
        back = train(cluster, 10)
        assert back[-1].live == 4
        assert any(2 in info.arrived for info in back)


def test_shift_vectors_stay_equal_at_both_ends(tmp_path: Path) -> None:
    cluster, network = with_network(tmp_path, code={"scheme": "memory"})
    with cluster:
        train(cluster, 8)
        network.workers[2].kill()
        train(cluster, 8)
        aggregator = cluster.driver.aggregator
        compared = 0
        for slot, worker in network.workers.items():
            mine, theirs = aggregator.shift_of(slot), worker.rows.shift_of(slot)
            if mine is None or theirs is None:
                continue
            pending = worker.rows.awaits_verdict(slot)
            assert pending or np.array_equal(mine, theirs), f"worker {slot}"
            compared += not pending
        assert compared >= 1


def test_a_worker_that_leaves_costs_no_deadline(tmp_path: Path) -> None:
    cluster, network = with_network(tmp_path, straggler={"deadline": "wait"}, code={"scheme": "sync"})
    with cluster:
        train(cluster, 2)
        network.workers[3].terminate()
        infos = train(cluster, 3)
    assert [i.live for i in infos[1:]] == [3, 3]  # the news takes its latency
    assert all(i.step_seconds < 10 for i in infos)


def test_too_few_workers_end_the_run_with_a_line(tmp_path: Path) -> None:
    settings = {"workers": 4, "min_workers": 4, "join_timeout": 5.0, "retry_first": 100.0, "retry_most": 100.0}
    cluster, network = with_network(tmp_path, cluster=settings)
    with cluster:
        train(cluster, 3)
        network.workers[0].kill(None)
        with pytest.raises(gcdist.RunHaltedError, match="3 of at least 4 workers"):
            train(cluster, 2)


class Broken(digits.Digits):
    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if index == 7:
            raise OSError("disk on fire")
        return super().__getitem__(index)


def test_a_user_error_halts_the_run_with_its_text(tmp_path: Path) -> None:
    images, labels = digits.arrays()
    good = digits.build(model="mlp")
    task = gcdist.Task(good.model, Broken(images[:64], labels[:64]), good.loss_fn, batch_size=64)
    with (
        gcdist.simulate(task, config(tmp_path), say=quiet) as cluster,
        pytest.raises(gcdist.RunHaltedError, match=r"partition 0 failed 3 times[\s\S]*disk on fire"),
    ):
        train(cluster, 20)


def test_the_summary_says_what_waiting_for_all_would_have_taken(tmp_path: Path) -> None:
    with gcdist.simulate(digits.build(model="mlp"), config(tmp_path), say=quiet) as cluster:
        train(cluster, 15)
        check = cluster.check_waiting(10)
        summary = cluster.summary()
    assert check is not None
    taken, estimated = check
    assert estimated == pytest.approx(taken, rel=0.05)
    assert summary.waiting_seconds is not None
    assert summary.waiting_seconds > summary.wall_seconds * 0.9
    assert summary.steps == 15


@pytest.mark.parametrize("code", [{"scheme": "osgc"}, {"scheme": "osgc", "partial": False}])
def test_without_injected_delays_it_is_estimated_by_measured_times(tmp_path: Path, code: dict[str, Any]) -> None:
    """One of four workers runs a quarter of the time: 2 partitions of 0.05 s take it 0.4 s."""
    slow = {"kind": "throttle", "worker": 2, "step": 0, "seconds": 1e6, "share": 0.25}
    real = config(tmp_path, inject={}, faults=[slow], code=code, simulate={"compute_seconds": 0.05}, straggler={})
    with gcdist.simulate(digits.build(model="mlp"), real, say=quiet) as cluster:
        train(cluster, 30)
        check = cluster.check_waiting(5)
        summary = cluster.summary()
    assert check is not None
    assert check[1] == pytest.approx(check[0], rel=0.1)
    assert check[0] == pytest.approx(5 * 0.4, rel=0.05)
    assert summary.waiting_seconds == pytest.approx(30 * 0.4, rel=0.1)
    assert summary.waiting_by == "measured times"
    assert "by the measured times" in str(summary)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"code": {"scheme": "ogsc"}}, "code: .*ogsc.*osgc"),
        ({"quantizer": {"name": "buket"}}, "quantizer: .*buket.*bucket"),
        ({"code": {"partitions": 5000}}, r"code\.partitions: found 5000"),
        ({"inject": {"model": "shifted-exponential", "shift": (0.1, 0.2)}}, "inject.shift"),
    ],
)
def test_settings_that_do_not_fit_are_one_clear_line(tmp_path: Path, change: dict[str, Any], line: str) -> None:
    with pytest.raises(gcdist.ConfigError, match=line):
        gcdist.simulate(digits.build(model="mlp"), config(tmp_path, **change), say=quiet)


def test_a_worker_without_weight_is_probed(tmp_path: Path) -> None:
    hopeless = {"model": "shifted-exponential", "shift": (0.2, 0.2, 0.2, 0.45), "mean": (0.01, 0.01, 0.01, 0.5)}
    cluster, _ = with_network(
        tmp_path,
        code={"scheme": "joint", "load_most": 100.0},
        inject=hopeless,
        quantizer={"bits": 1},
        straggler={"deadline": 0.5, "window": 50},
    )
    with cluster:
        infos = train(cluster, 60)
        plan = cluster.plan
        assert plan is not None
        weighted = plan.weighted_R()
        assert weighted[0]
        assert not weighted[3]
        assert len(plan.parts(3)) == 1
        assert plan.parts(3)[0][1] == 0.0
        outcomes = cluster.rule.arrivals.count_N()
    assert outcomes[3] >= 45  # it is still asked and still timed
    assert not any(4 in info.arrived for info in infos[-20:])


def test_codes_that_end_steps_early_are_not_compared(tmp_path: Path) -> None:
    with gcdist.simulate(digits.build(model="mlp"), config(tmp_path, "erasurehead"), say=quiet) as cluster:
        train(cluster, 30)
        assert cluster.arrivals.early
        assert cluster.arrivals.steps_N.max() == 0


def test_the_defaults_are_as_good_as_waiting_where_nobody_is_slow(tmp_path: Path) -> None:
    results = {}
    for scheme in ("joint", "sync"):
        task = digits.build(model="mlp")
        settings = gcdist.Config(out=tmp_path, name=scheme, cluster={"workers": 8}, code={"scheme": scheme})
        with gcdist.simulate(task, settings, say=quiet) as cluster:
            infos = train(cluster, 60)
            plan = cluster.plan
            assert plan is not None
        assert task.evaluate is not None
        results[scheme] = task.evaluate(task.model)["test_accuracy"], infos[-1].seconds
        assert np.diff(plan.A_RK.indptr).max() == 2  # nobody computes more than its even share
    assert results["joint"][0] > results["sync"][0] - 0.02
    assert results["joint"][1] < 1.05 * results["sync"][1]


def test_the_check_of_waiting_runs_a_plan_of_its_own(tmp_path: Path) -> None:
    with gcdist.simulate(digits.build(model="mlp"), config(tmp_path), say=quiet) as cluster:
        train(cluster, 3)
        before = cluster.plan
        cluster.check_waiting(3)
        plans = {int(path.stem) for path in (cluster.folder.path / "plans").glob("*.json")}
    assert before is not None
    assert len(plans) == 2
    assert before.plan_id in plans


def test_the_check_of_waiting_has_an_answer_where_nobody_ever_waited(tmp_path: Path) -> None:
    slow = {"model": "shifted-exponential", "shift": (0.1, 0.1, 0.1, 3.0), "mean": 0.01}
    settings = config(tmp_path, inject=slow, straggler={"deadline": 0.4, "p": "model"})
    with gcdist.simulate(digits.build(model="mlp"), settings, say=quiet) as cluster:
        train(cluster, 5)
        check = cluster.check_waiting(3)
    assert check is not None
    assert check[1] == pytest.approx(check[0], rel=0.05)


def test_a_code_without_a_plan_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(gcdist.ConfigError, match=r"^code: "):
        gcdist.simulate(
            digits.build(model="mlp"), config(tmp_path, "frc", cluster={"workers": 3}, inject={}), say=quiet
        )
