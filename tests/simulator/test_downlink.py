"""Parameters as differences in whole runs: bytes, equal bits at all ends, keyframes, resuming, workers that went astray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import gcdist
from gcdist.exchange.replica import DIGEST_EVERY, Replica
from gcdist.master.downlink import Differences
from gcdist.run.cluster import Cluster
from gcdist.simulator.shared_gradients import SharedView, Version
from gcdist.tasks import digits

SLOW = {"model": "shifted-exponential", "shift": 0.1, "mean": (0.01, 0.05, 0.3, 0.6)}


def run(folder: Path, task: gcdist.Task | None = None, lines: list[str] | None = None, **more: Any) -> Cluster:
    settings: dict[str, Any] = {"cluster": {"workers": 4}, "straggler": {"deadline": 0.3}, "inject": SLOW}
    said = [] if lines is None else lines
    task = task or digits.build(model="mlp", seed=1)
    config = gcdist.Config(**{**settings, **more})
    return gcdist.simulate(task, config, folder=folder, say=lambda kind, text: said.append(f"{kind}: {text}"))


def train(cluster: Cluster, steps: int) -> list[tuple[int, int]]:
    """Bytes down of each step, and the same with float32 parameters."""
    optimizer = torch.optim.SGD(cluster.session.task.model.parameters(), lr=0.05, momentum=0.9)
    found = []
    for step in cluster.steps(steps):
        info = step.backward()
        optimizer.step()
        found.append((info.bytes_down, info.bytes_down_float32))
    return found


def views(cluster: Cluster) -> dict[int, SharedView]:
    """What each simulated worker holds."""
    workers = cluster.driver.port.workers  # type: ignore[attr-defined]
    return {slot: worker.rows._gradients for slot, worker in workers.items()}


def master_of(cluster: Cluster) -> Differences:
    assert isinstance(cluster.driver.downlink, Differences)
    return cluster.driver.downlink


def test_bytes_down_are_an_eighth_and_skipped_versions_come_together(tmp_path: Path) -> None:
    with run(tmp_path) as cluster:
        found = train(cluster, 60)
        assert found[0][0] == pytest.approx(found[0][1], rel=0.01)  # the first step has all parameters
        sent, whole = np.array(found[5:]).sum(0)
        summary = cluster.summary()
    assert 4 < whole / sent < 8  # slow workers get two and more differences at once
    assert summary.bytes_down == sum(down for down, _ in found)
    assert summary.bytes_down_float32 == sum(down for _, down in found)


def test_every_worker_holds_a_version_of_the_master_s_to_the_bit(tmp_path: Path) -> None:
    held: dict[int, bytes] = {}
    versions = set()
    with run(tmp_path, faults=[{"kind": "kill", "worker": 2, "step": 9}]) as cluster:
        optimizer = torch.optim.SGD(cluster.session.task.model.parameters(), lr=0.05)
        for step in cluster.steps(40):
            step.backward()
            optimizer.step()
            replica = master_of(cluster).replica
            assert replica.version == step.number
            held[step.number] = replica.vector.tobytes()
            for view in views(cluster).values():
                if view.version is not None:
                    mine = view.version.replica
                    assert mine.version is not None
                    assert mine.vector.tobytes() == held[mine.version]
                    versions.add(step.number - mine.version)
    assert versions


def test_the_replica_follows_the_parameters_and_these_are_the_optimizer_s(tmp_path: Path) -> None:
    with run(tmp_path) as cluster:
        state = cluster.session.state
        optimizer = torch.optim.SGD(cluster.session.task.model.parameters(), lr=0.05)
        for step in cluster.steps(20):
            before = state.read_vector(np.empty(state.layout.d, np.float32)).copy()
            xr = master_of(cluster).replica.vector.copy()
            step.backward()
            if step.number:
                gap, first = before - master_of(cluster).replica.vector, before - xr
                assert gap @ gap <= 0.1 * (first @ first)
            assert np.array_equal(before, state.read_vector(np.empty(state.layout.d, np.float32)))
            optimizer.step()


def test_a_vector_that_grew_and_numbers_that_are_not_finite_go_whole(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 40), nn.BatchNorm1d(40), nn.ReLU(), nn.Linear(40, 10))
    for p in model[1].parameters():
        p.requires_grad_(False)
    good = digits.build(model="mlp")
    task = gcdist.Task(model, good.dataset, good.loss_fn, 16)
    with run(tmp_path, task, inject={}, straggler={"deadline": "wait"}) as cluster:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        whole = []
        for step in cluster.steps(9):
            if step.number == 4:
                for p in model[1].parameters():
                    p.requires_grad_(True)
            info = step.backward()
            optimizer.step()
            if info.bytes_down_float32 - info.bytes_down < 0.1 * info.bytes_down:
                whole.append(step.number)
        assert whole == [0, 4]
        assert len(master_of(cluster).replica.vector) == cluster.session.state.layout.d
    state = cluster.session.state
    downlink = Differences(state, cluster.driver.downlink.replica.coder)  # type: ignore[attr-defined]
    since = []
    for version in range(6):
        with torch.no_grad():
            list(model.parameters())[-1][3] = float("nan") if version in (2, 3) else 0.5
        since.append(downlink.next(version).since)
    assert since == [0, 0, 2, 3, 4, 4]  # what is not finite begins anew, and so does what follows it
    assert np.isfinite(downlink.replica.vector).all()


@pytest.mark.parametrize("scheme", ["joint", "shifted"])
def test_a_resumed_run_gives_the_same_numbers_and_bytes(tmp_path: Path, scheme: str) -> None:
    def go(folder: Path, steps: int, resume: bool) -> tuple[list[Any], bytes]:
        task = digits.build(model="mlp", seed=1)
        config = gcdist.Config(
            cluster={"workers": 4},
            straggler={"deadline": 0.3},
            inject=SLOW,
            code={"scheme": scheme},
            checkpoint={"every": 10},
        )
        with gcdist.simulate(task, config, folder=folder, say=lambda kind, text: None, resume=resume) as cluster:
            optimizer = torch.optim.SGD(task.model.parameters(), lr=0.05)
            cluster.track(optimizer=optimizer)
            infos = []
            for step in cluster.steps(steps):
                infos.append(step.backward())
                optimizer.step()
            return [(i.loss, i.seconds, i.bytes_down, i.bytes_up) for i in infos], master_of(
                cluster
            ).replica.vector.tobytes()

    through, last = go(tmp_path / "through", 30, False)
    go(tmp_path / "broken", 20, False)
    rest, again = go(tmp_path / "broken", 30, True)
    assert rest == through[20:]
    assert again == last


def test_a_worker_that_went_astray_gets_all_parameters_and_one_line_is_logged(tmp_path: Path) -> None:
    lines: list[str] = []
    with run(tmp_path, lines=lines, cluster={"workers": 1}, inject={}, straggler={"deadline": "wait"}) as cluster:
        optimizer = torch.optim.SGD(cluster.session.task.model.parameters(), lr=0.05)
        astray = []
        for step in cluster.steps(2 * DIGEST_EVERY + 4):
            if step.number == 5:
                (view,) = views(cluster).values()
                assert view.version is not None
                wrong: Replica = view.version.replica.copy()
                wrong.vector[7] += np.float32(0.25)
                view.version = Version(wrong, view.version.body)
            info = step.backward()
            optimizer.step()
            if not info.arrived:
                astray.append(step.number)
        (view,) = views(cluster).values()
        assert view.version is not None
        assert view.version.replica.vector.tobytes() == master_of(cluster).replica.vector.tobytes()
    assert astray == [DIGEST_EVERY]
    told = [line for line in lines if "not the master's" in line]
    assert told == [
        f"drop: worker 1, step {DIGEST_EVERY}: its parameters are not the master's: it gets all of them with its next round"
    ]


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_other_widths_learn_too(tmp_path: Path, bits: int) -> None:
    with run(tmp_path, quantizer={"downlink_bits": bits}, inject={}, straggler={"deadline": "wait"}) as cluster:
        train(cluster, 40)
        assert cluster.evaluate()["test_accuracy"] > 0.9
