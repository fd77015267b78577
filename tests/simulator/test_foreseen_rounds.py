"""A round that is one event on the clock is interrupted at any moment, and nobody can tell."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

import gcdist
from gcdist.exchange.setup import Setup
from gcdist.observe import RunFolder
from gcdist.protocol.messages import Fault
from gcdist.run.cluster import Cluster
from gcdist.run.session import Session
from gcdist.simulator import simulated
from gcdist.simulator.worker import SimulatedWorker
from gcdist.tasks import load_task

WORKERS, STEPS = 6, 15


def run(folder: Path, scheme: str, seed: int, event_by_event: bool) -> tuple[list[Any], int]:
    """What a run gave whose workers are killed, slowed and cut off at random moments; and how often it replayed."""
    config = gcdist.Config(
        steps=STEPS,
        task={
            "name": "quadratic",
            "batch_size": 2,
            "options": {"samples": 60, "blocks": 12, "dim": 300},
        },
        code={"scheme": scheme, "partitions": 12},
        straggler={"deadline": 0.2, "warmup_steps": 2},
        inject={"model": "shifted-exponential", "shift": 0.1, "mean": 0.05},
        cluster={"workers": WORKERS, "min_workers": 1},
        checkpoint={"keep": 0},
        simulate={"pack_messages": event_by_event},
    )
    task = load_task("quadratic", dict(config.task.options), 2, Path())
    session: Setup = Session.build(task, config, WORKERS)
    assert isinstance(session, Session)
    lines: list[str] = []
    driver, network = simulated(session, lambda kind, text: lines.append(text))
    draw, replays = random.Random(seed), 0
    for worker in network.workers.values():
        assert isinstance(worker, SimulatedWorker)
        replay = worker._replay

        def counted(found: Any, replay: Any = replay) -> None:
            nonlocal replays
            replays += 1
            replay(found)

        worker._replay = counted  # type: ignore[method-assign]

    def strike() -> None:
        worker = network.workers[draw.randrange(WORKERS)]
        kind = draw.randrange(5)
        if worker.is_over() or worker.inc < 0:
            return
        if kind == 0:
            worker.kill(0.3)
        elif kind == 1:
            worker.throttle(0.2, 0.5)
        elif kind == 2:
            network.trouble.reborn(worker.slot)  # known to have had trouble: its rounds are not foreseen from then on
        else:
            peer = next((peer for peer in driver.machine.members.peers() if peer.worker == worker.slot), None)
            if peer is not None:
                step = driver._step
                fault = Fault("delay", seconds=0.05) if kind == 3 else Fault("cut", seconds=0.15)
                network.inject(peer, step, fault)

    for _ in range(12):
        network.clock.at(draw.uniform(0.0, 2.5), strike, pressing=False)
    infos, weights = [], []
    with Cluster(session, driver, RunFolder(folder)) as cluster:
        optimizer = torch.optim.SGD(task.model.parameters(), 0.1)
        for step in cluster.steps(STEPS):
            infos.append(step.backward())
            optimizer.step()
        weights = [parameter.tolist() for parameter in task.model.parameters()]
    told = [line for line in lines if str(folder) not in line]
    return [infos, weights, told, (folder / "workers.jsonl").read_text()], replays


@pytest.mark.parametrize("scheme", ["joint", "shifted", "partial-memory"])
@pytest.mark.parametrize("seed", range(4))
def test_interrupted_rounds_are_the_same_to_the_last_bit(tmp_path: Path, scheme: str, seed: int) -> None:
    foreseen, replays = run(tmp_path / "foreseen", scheme, seed, event_by_event=False)
    each, none = run(tmp_path / "each", scheme, seed, event_by_event=True)
    assert foreseen == each
    assert replays > 0
    assert none == 0
