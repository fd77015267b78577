"""Data that stays where it is: plans give workers what they hold, and a run says what nobody holds."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import gcdist
from gcdist.coding import get_code
from gcdist.observe import RunFolder
from gcdist.protocol import Hello
from gcdist.quantize import get_quantizer
from gcdist.runtime.cluster import Cluster, StepInfo
from gcdist.runtime.plans import PlanMaker
from gcdist.runtime.session import Session
from gcdist.runtime.simulator import Network, simulated
from gcdist.runtime.state import ModelState
from gcdist.straggler import Arrivals, WaitForAll
from gcdist.tasks import digits

HOLDS = ((0, 1, 2), (2, 3, 4), (4, 5, 0))  # partitions 1, 3 and 5 are in one place each


def with_network(out: Path, batch_size: int = 16, **more: Any) -> tuple[Cluster, Network, list[str]]:
    settings: dict[str, Any] = {
        "out": out,
        "cluster": {"workers": 3, "min_workers": 1, "retry_first": 1.0},
        "code": {"scheme": "osgc", "partitions": 6},
        "data": {"holds": HOLDS},
        "inject": {"model": "shifted-exponential", "shift": 0.1, "mean": (0.05, 0.1, 0.2)},
        "straggler": {"deadline": 0.5, "warmup_steps": 2},
    }
    session = Session.build(digits.build(batch_size, "mlp"), gcdist.Config(**{**settings, **more}), 3, own=False)
    lines: list[str] = []
    driver, network = simulated(session, lambda kind, text: lines.append(f"{kind}: {text}"))
    return Cluster(session, driver, RunFolder(out / "run")), network, lines


def train(cluster: Cluster, steps: int) -> list[StepInfo]:
    optimizer = torch.optim.SGD(cluster.session.task.model.parameters(), lr=0.1)
    infos = []
    for step in cluster.steps(steps):
        infos.append(step.backward())
        optimizer.step()
    return infos


def plans_of(cluster: Cluster) -> list[dict[str, Any]]:
    folder = cluster.folder.path / "plans"
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"), key=lambda path: int(path.stem))]


def keeps_to_holders(plan: dict[str, Any], holds: tuple[tuple[int, ...], ...] = HOLDS) -> bool:
    return all({j for j, _ in row["parts"]} <= set(holds[row["worker"]]) for row in plan["rows"])


@pytest.mark.parametrize(
    "code",
    [
        {"scheme": "osgc"},
        {"scheme": "osgc", "allocation": "full"},
        {"scheme": "joint"},
        {"scheme": "joint", "allocation": "replicated:2"},
        {"scheme": "self-normalised"},
        {"scheme": "shifted"},
        {"scheme": "sync"},
        {"scheme": "memory"},
        {"scheme": "ignore-rescaled"},
    ],
    ids=lambda code: "-".join(code.values()),
)
def test_workers_compute_what_they_hold(tmp_path: Path, code: dict[str, Any]) -> None:
    cluster, _, lines = with_network(tmp_path, code={**code, "partitions": 6})
    with cluster:
        infos = train(cluster, 25)
        assert infos[0].loss is not None
        assert infos[-1].loss is not None
        assert infos[-1].loss < infos[0].loss
        plans = plans_of(cluster)
    assert all(keeps_to_holders(plan) and not plan["uncovered"] for plan in plans)
    assert {j for row in plans[-1]["rows"] for j, _ in row["parts"]} == set(range(6))
    if code["scheme"] == "sync":
        assert sorted(j for row in plans[-1]["rows"] for j, _ in row["parts"]) == list(range(6))
    assert not any("nobody here" in line for line in lines)


@pytest.mark.parametrize(
    "code",
    [*({"scheme": name} for name in ("frc", "cyclic", "bgc", "sgc", "erasurehead", "expander", "adjacency")),
     *({"scheme": "osgc", "allocation": name} for name in ("star", "papers-chain"))],
)  # fmt: skip
def test_codes_that_need_all_the_data_everywhere_are_refused(tmp_path: Path, code: dict[str, Any]) -> None:
    options = {"options": {"s": 2}} if code["scheme"] in ("frc", "cyclic") else {}
    with pytest.raises(gcdist.ConfigError, match=r"^code: .* needs workers that can read every partition$"):
        with_network(tmp_path, code={**code, **options, "partitions": 6})


def test_the_estimate_is_the_gradient_of_what_is_held(tmp_path: Path) -> None:
    """Whole partitions, exact messages, waiting for all: the covered partitions' share of the mean loss's gradient."""
    cluster, _, lines = with_network(
        tmp_path,
        batch_size=2000,
        data={"holds": ((0, 1), (1, 2), (3,))},  # nobody holds 4 and 5
        quantizer={"name": "float32"},
        straggler={"deadline": "wait"},
        code={"scheme": "sync", "partitions": 6},
    )
    session = cluster.session
    task, batches = session.task, session.gradients.batches
    parameters = list(task.model.parameters())
    expected = torch.zeros(session.state.layout.d)
    for j in range(4):
        loss = task.loss(task.model, batches.batch(0, j).batch)
        expected += float(session.sizes_K[j]) * torch.cat(
            [g.reshape(-1) for g in torch.autograd.grad(loss, parameters)]
        )
    with cluster:
        info = next(cluster.steps(1)).backward()
        found = torch.cat([p.grad.reshape(-1) for p in parameters if p.grad is not None])
    assert "plan: nobody here holds partitions [4, 5]: the estimate leaves them out" in lines
    assert info.arrived == (1, 2, 3)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def test_probes_are_of_held_partitions() -> None:
    state = ModelState(torch.nn.Linear(4, 1))
    rule = WaitForAll(Arrivals(3), 60.0)
    maker = PlanMaker(
        get_code("sync"),
        get_quantizer("float32"),
        lambda: state.shape,
        np.full(4, 0.25),
        32,
        np.full(3, 32),
        rule,
        itertools.count(),
    )
    # worker 0 alone holds 0 and 1; 2 and 3 are anybody's; load is balanced, so that worker 0 has its own and no more
    holds = {1: [2], 2: [2]}
    probed = set()
    for _ in range(6):
        plan, _ = maker.make(np.ones(3, bool), holds)
        idle = [row for row in range(3) if not plan.weighted_R()[row]]
        assert len(idle) == 1
        assert [a for _, a in plan.parts(idle[0])] == [0.0]
        probed |= {j for j, _ in plan.parts(idle[0])}
    assert probed == {2}


def test_everybody_holding_everything_is_no_restriction() -> None:
    state = ModelState(torch.nn.Linear(4, 1))
    maker = PlanMaker(
        get_code("frc", s=1),
        get_quantizer("float32"),
        lambda: state.shape,
        np.full(4, 0.25),
        32,
        np.full(2, 32),
        WaitForAll(Arrivals(2), 60.0),
        itertools.count(),
    )
    plan, _ = maker.make(np.ones(2, bool), {0: [3, 1, 2, 0]})
    assert plan.covered_K.all()
    with pytest.raises(ValueError, match="frc needs workers that can read every partition"):
        maker.make(np.ones(2, bool), {0: [1, 2, 3]})


@pytest.mark.parametrize(
    ("holds", "difference"),
    [
        ((0, 3), None),
        (None, None),
        ((0, 4, 9), "partitions held: 4, 9; the master has 0 to 3"),
        ((-1,), "partitions held: -1; the master has 0 to 3"),
        (tuple(range(20)), "partitions held: 4, 5, 6, 7, 8, ...; the master has 0 to 3"),
        ((), "partitions held: none; the master has 0 to 3"),
    ],
)
def test_a_hello_with_other_partitions_is_refused(holds: tuple[int, ...] | None, difference: str | None) -> None:
    master = Hello("master", 1, "0", "f", 10, "c", holds=(0, 1, 2, 3))
    assert master.difference(master._replace(name="w", holds=holds)) == difference


def test_partitions_and_holders_are_said_once(tmp_path: Path) -> None:
    good = digits.build(model="mlp")
    held = gcdist.Task(good.model, good.dataset, good.loss_fn, holds=[0])
    cut = gcdist.Task(good.model, good.dataset, good.loss_fn, partitioner=gcdist.partition_by("labels"))
    settings = gcdist.Config(out=tmp_path, data={"holds": HOLDS, "partition_by": "labels"}, code={"partitions": 6})
    with pytest.raises(gcdist.ConfigError, match=r"^data\.holds: the task has holds of its own: give one of them$"):
        Session.build(held, settings, 3, own=False)
    with pytest.raises(gcdist.ConfigError, match=r"^data\.partition_by: found 'labels'; the task has a partitioner"):
        Session.build(cut, settings, 3, own=False)
    with pytest.raises(
        gcdist.ConfigError, match=r"^task: partition_by: the data set \(Digits\) has no attribute 'sites'"
    ):
        Session.build(good, gcdist.Config(data={"partition_by": "sites"}), 3, own=False)
    parts = Session.build(good, settings, 3, own=False).task.partitions(6)
    labels = [{good.dataset.labels[i] for i in part.tolist()} for part in parts]
    assert sum(len(held) for held in labels) == 10
