"""Parameters that are unfrozen mid-run: the vector grows with a new plan, and nothing of the older one is mixed in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import gcdist
from gcdist.observe import RunFolder
from gcdist.protocol.master_io import Drop, DropWhy, MasterEvent, MasterInstruction, SendRound, TakeOut
from gcdist.run.cluster import Cluster
from gcdist.run.session import Session
from gcdist.simulator.network import Network
from gcdist.simulator.world import simulated


def task() -> gcdist.Task:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1))
        data = TensorDataset(torch.randn(24, 3), torch.randn(24, 1))
    model[0].requires_grad_(False)
    model[2].requires_grad_(False)
    return gcdist.Task(model, data, squares, batch_size=24)


def squares(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.mse_loss(model(batch[0]), batch[1])


Trace = list[tuple[MasterEvent, list[MasterInstruction]]]


def run(out: Path, **more: Any) -> tuple[Cluster, Network, Trace]:
    settings: dict[str, Any] = {
        "out": out,
        "cluster": {"workers": 3},
        "code": {"scheme": "sync", "partitions": 6},
        "quantizer": {"name": "float32"},
        "inject": {"model": "shifted-exponential", "shift": 0.2, "mean": (0.05, 0.1, 0.4)},
        "straggler": {"deadline": "wait"},
    }
    session = Session.build(task(), gcdist.Config(**{**settings, **more}), 3)
    record: Trace = []
    driver, network = simulated(session, lambda kind, text: None, record)
    return Cluster(session, driver, RunFolder(out / "run")), network, record


def true_gradients(of: gcdist.Task) -> list[Tensor]:
    trained = [p for p in of.model.parameters() if p.requires_grad]
    return list(torch.autograd.grad(squares(of.model, of.dataset.tensors), trained))


def backward(cluster: Cluster, steps: int = 1) -> None:
    for step in cluster.steps(steps):
        step.backward()


def check(cluster: Cluster) -> None:
    """With sync, float32 and whole batches the gradient is the plain one, and None of what is frozen."""
    of = cluster.session.task
    backward(cluster)
    found = [p.grad for p in of.model.parameters() if p.requires_grad]
    torch.testing.assert_close(found, true_gradients(of), rtol=1e-5, atol=1e-7)
    assert all(p.grad is None for p in of.model.parameters() if not p.requires_grad)


def test_gradients_are_the_plain_ones_before_and_after(tmp_path: Path) -> None:
    cluster, network, record = run(tmp_path)
    model = cluster.session.task.model
    with cluster:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for change in (None, (2, True), None, (0, True), (2, False), None):
            if change is not None:
                model.get_submodule(str(change[0])).requires_grad_(change[1])
            check(cluster)
            optimizer.step()
        network.workers[1].kill()  # it comes back with the vector of the start, and is told of the present one
        backward(cluster, 12)
        check(cluster)
    sent = [(told.peer, told.round.assignment) for _, out in record for told in out if isinstance(told, SendRound)]
    rejoined = [assignment for peer, assignment in sent if peer.inc > 3]
    assert rejoined[0] is not None
    assert rejoined[0].trained == (0, 1, 2, 3, 4, 5)
    assert [a.trained for _, a in sent if a is not None][:9:3] == [None, (2, 3, 4, 5), (0, 1, 2, 3, 4, 5)]
    assert cluster.session.state.fingerprint == cluster.session.hello("master").fingerprint


@pytest.mark.parametrize("scheme", ["memory", "shifted", "osgc"])
def test_shifts_begin_anew_and_late_messages_of_the_older_vector_are_dropped(tmp_path: Path, scheme: str) -> None:
    options = {"decoding": "predictor"} if scheme == "osgc" else {}
    whole = {"partial": False}  # a cut row is in by its deadline: no message would be late
    cluster, network, record = run(
        tmp_path,
        code={"scheme": scheme, "partitions": 6, "options": options, **whole},
        quantizer={"name": "dither", "bits": 4},
        straggler={"deadline": 0.5, "p": "model", "warmup_steps": 0, "replan_every": 5},
        simulate={"latency": 0.1},  # messages are on their way when their step ends
    )
    model = cluster.session.task.model
    aggregator = cluster.driver.aggregator
    with cluster:
        backward(cluster, 8)
        held = aggregator.shifts(), aggregator.predictor()
        assert bool(held[0]) == (scheme != "osgc")
        assert (held[1] is not None) == (scheme == "osgc")
        begun = len(record)
        model[0].requires_grad_(True)  # type: ignore[index]
        backward(cluster, 12)
        assert model.get_parameter("0.weight").grad is not None
        assert model.get_parameter("2.weight").grad is None
        shifts, predictor = aggregator.shifts(), aggregator.predictor()
        vectors = [*shifts.values(), *([] if predictor is None else [predictor])]
        assert vectors
        assert {len(vector) for vector in vectors} == {cluster.session.state.layout.d} == {4 * 4 + 5}
        for slot, worker in network.workers.items():
            mine, theirs = aggregator.shift_of(slot), worker.rows.shift_of(slot)
            if mine is not None and theirs is not None and not worker.rows.awaits_verdict(slot):
                np.testing.assert_array_equal(mine, theirs)
    after = [told for _, out in record[begun:] for told in out]
    assert len([t for t in after if isinstance(t, TakeOut)]) >= len(held[0])
    assert not [
        t for t in after if isinstance(t, Drop) and t.why not in (DropWhy.LATE, DropWhy.STALE, DropWhy.CUT)
    ]  # nobody's link was closed
    assert [t for t in after if isinstance(t, Drop) and t.why is DropWhy.LATE and t.step < 8], (
        "none came: this shows nothing"
    )


def test_the_predictor_and_shifts_of_a_checkpoint_are_taken_back(tmp_path: Path) -> None:
    cluster, _, _ = run(tmp_path, code={"scheme": "memory", "partitions": 6})
    with cluster:
        backward(cluster, 3)
        aggregator = cluster.driver.aggregator
        shifts, predictor = aggregator.shifts(), aggregator.predictor()
        assert predictor is None
        aggregator.restore({}, np.ones(5, np.float32))
        assert aggregator.shifts() == {}
        aggregator.restore(shifts, None)
        assert {row: h.tobytes() for row, h in aggregator.shifts().items()} == {
            row: h.tobytes() for row, h in shifts.items()
        }
        with pytest.raises(ValueError, match=r"h of row 1 has shape \(2,\), must have \(5,\)"):
            aggregator.restore({1: np.ones(2, np.float32)}, None)
