"""Data that stays where it is: plans give workers what they hold, and a run says what nobody holds."""

from __future__ import annotations

import itertools
import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import gcdist
from gcdist.coding import get_code
from gcdist.master.plan_maker import PlanMaker
from gcdist.model.state import ModelState
from gcdist.observe import RunFolder, read_metrics
from gcdist.protocol import Hello
from gcdist.quantize import get_quantizer
from gcdist.run.cluster import Cluster, StepInfo
from gcdist.run.session import Session
from gcdist.simulator.network import Network
from gcdist.simulator.world import simulated
from gcdist.straggler import WaitForAll
from gcdist.tasks import digits
from tests.conftest import Start
from tests.straggler.settings import arrivals_of

HOLDS = ((0, 1, 2), (2, 3, 4), (4, 5, 0))  # partitions 1, 3 and 5 are in one place each
LIMIT = 120.0


def with_network(out: Path, batch_size: int = 16, **more: Any) -> tuple[Cluster, Network, list[str]]:
    settings: dict[str, Any] = {
        "out": out,
        "cluster": {"workers": 3, "min_workers": 1, "retry_first": 1.0},
        "code": {"scheme": "osgc", "partitions": 6},
        "data": {"holds": HOLDS},
        "inject": {"model": "shifted-exponential", "shift": 0.1, "mean": (0.05, 0.1, 0.2)},
        "straggler": {"deadline": 0.5, "warmup_steps": 2},
    }
    session = Session.build(digits.build(batch_size, "mlp"), gcdist.Config(**{**settings, **more}), 3)
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
    return all({j for j, _ in row["parts"]} <= set(holds[row["worker"] - 1]) for row in plan["rows"])


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


def test_a_lost_workers_data_is_left_out_until_it_comes_back(tmp_path: Path) -> None:
    cluster, network, lines = with_network(tmp_path)
    with cluster:
        train(cluster, 5)
        network.workers[1].kill()
        without = train(cluster, 3)
        assert without[-1].live == 2
        assert [line for line in lines if "nobody here holds" in line] == [
            "plan: nobody here holds partitions [3]: the estimate leaves them out"
        ]
        back = train(cluster, 12)
        assert back[-1].live == 3
        plans = plans_of(cluster)
        notes = cluster.summary().notes
    assert [3] in [plan["uncovered"] for plan in plans]
    assert plans[-1]["uncovered"] == []
    assert all(keeps_to_holders(plan) for plan in plans)
    lacking = {plan["plan_id"] for plan in plans if 3 in plan["uncovered"]}
    left_out = sum(info.plan_id in lacking for info in [*without, *back])
    assert f"partitions [3] were left out in up to {left_out} of 20 steps: nobody who was here could read them" in notes
    assert f"data: {notes[0]}" in lines


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


def test_waiting_for_all_is_neither_estimated_nor_checked(tmp_path: Path) -> None:
    cluster, _, lines = with_network(tmp_path)
    with cluster:
        train(cluster, 5)
        assert cluster.check_waiting(3) is None
        summary = cluster.summary()
    assert summary.waiting_seconds is None
    assert summary.waiting_check is None
    assert "check: waiting for all is not checked: not every worker can read every partition" in lines
    assert any("is not estimated" in note for note in summary.notes)


def test_probes_are_of_held_partitions() -> None:
    state = ModelState(torch.nn.Linear(4, 1))
    rule = WaitForAll(arrivals_of(3), 60.0)
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
        WaitForAll(arrivals_of(2), 60.0),
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
        Session.build(held, settings, 3)
    with pytest.raises(gcdist.ConfigError, match=r"^data\.partition_by: found 'labels'; the task has a partitioner"):
        Session.build(cut, settings, 3)
    with pytest.raises(
        gcdist.ConfigError, match=r"^task: partition_by: the data set \(Digits\) has no attribute 'sites'"
    ):
        Session.build(good, gcdist.Config(data={"partition_by": "sites"}), 3)
    parts = Session.build(good, settings, 3).task.partitions(6)
    labels = [{good.dataset.labels[i] for i in part.tolist()} for part in parts]
    assert sum(len(held) for held in labels) == 10


def test_epochs_are_steps_of_the_largest_partition(tmp_path: Path) -> None:
    cluster, _, _ = with_network(tmp_path, epochs=2, data={"sampling": "epochs"})
    with cluster:
        # 1438 samples in 6 partitions of at most 240, in batches of 16
        assert cluster.steps_per_epoch == 15
        assert cluster.config.steps == 30
        epochs = []
        for step in cluster.steps(cluster.config.steps):
            step.backward()
            epochs.append(step.epoch)
    assert epochs == [0] * 15 + [1] * 15


SCRIPT = """
import os
import torch, gcdist
from gcdist.tasks import digits
torch.set_num_threads(1)
rank = int(os.environ["RANK"])
good = digits.build(model="mlp")
holds = [None, [0, 1, 2], [2, 3, 4], [4, 5, 0]][rank]
task = gcdist.Task(good.model, good.dataset, good.loss_fn, batch_size=16, holds=holds)
config = gcdist.Config(
    seed=3, out="runs", name="run",
    code={"scheme": "osgc", "partitions": 6},
    data={"prefetch": 2, "sampling": "epochs"},
    cluster={"min_workers": 1, "beat": 0.2, "silent_after": 4.0, "lost_after": 10.0, "retry_first": 0.1},
    straggler={"deadline": 0.3, "warmup_steps": 2},
    inject={"model": "shifted-exponential", "shift": 0.05},
)
with gcdist.connect(task, config) as cluster:
    optimizer = torch.optim.SGD(good.model.parameters(), lr=0.1)
    whole = lost = False
    for step in cluster.steps(100000):
        info = step.backward()
        optimizer.step()
        print("step", info.step, "live", info.live, "arrived", info.arrived, flush=True)
        whole |= info.live == 3
        lost |= whole and info.live == 2
        if lost and 2 in info.arrived:
            break
"""


def test_real_workers_with_data_of_their_own(tmp_path: Path, start: Start) -> None:
    """With loaders; a worker stands still until it is lost, its data with it, and comes back."""
    script = tmp_path / "local.py"
    script.write_text(SCRIPT)
    cluster = start([str(script)], ranks=4)
    cluster.wait_for("live 3", 0, LIMIT)
    os.kill(cluster.processes[2].pid, signal.SIGSTOP)
    cluster.wait_for("nobody here holds partitions [3]: the estimate leaves them out", 0, LIMIT)
    cluster.wait_for("live 2", 0, LIMIT)
    os.kill(cluster.processes[2].pid, signal.SIGCONT)
    assert cluster.wait(LIMIT) == [0, 0, 0, 0], cluster.output(0)
    run = tmp_path / "runs" / "run"
    plans = [json.loads(path.read_text()) for path in (run / "plans").glob("*.json")]
    assert all(keeps_to_holders(plan) for plan in plans)
    assert {tuple(plan["uncovered"]) for plan in plans} >= {(), (3,)}
    metrics = read_metrics(run)
    assert {m["live"] for m in metrics} >= {2, 3}
    assert all(m["data_seconds"] >= 0 and m["compute_seconds"] > 0 for m in metrics if m["arrived"])
    assert "partitions [3] were left out in up to" in cluster.output(0)
