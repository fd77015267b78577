"""A recorded run, fed to a fresh master machine, gives the same instructions; and its promises follow from its past.

``replay`` and ``promises_follow`` take any record of `MasterDriver`, of the simulator or of real processes.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import gcdist
from gcdist.observe import RunFolder
from gcdist.protocol import Hello, MasterMachine
from gcdist.protocol.master_io import (
    Accumulate,
    Arrived,
    CloseStep,
    Joined,
    Lost,
    MasterEvent,
    MasterInstruction,
    Observe,
    OpenStep,
    Replan,
    SendRound,
)
from gcdist.run.cluster import Cluster
from gcdist.run.session import Session
from gcdist.simulator.world import simulated
from gcdist.tasks import digits
from gcdist.types import GradientCode

Record = list[tuple[MasterEvent, list[MasterInstruction]]]
WORKERS, STEPS = 4, 14


def replay(record: Record, workers: int, hello: Hello, code: GradientCode) -> int:
    """Feed the recorded events to a fresh machine, with fresh decoders, and compare; returns the number of steps.

    ``hello`` is the master's own; ``code`` is the one that opened the recorded steps.
    """
    machine = MasterMachine(workers, hello)
    steps = 0
    for i, (event, instructions) in enumerate(record):
        if isinstance(event, OpenStep):
            event = replace(event, decoder=code.open(event.plan, event.terms))
            steps += 1
        assert machine.handle(event) == instructions, f"event {i}, {type(event).__name__}"
    return steps


def promises_follow(record: Record, session: Session) -> int:
    """Plan, deadline, count and p of every step are functions of what was handled before its OpenStep (invariant 6)."""
    machine = MasterMachine(session.workers, session.hello("master"))
    scheme = session.scheme(lambda plan, report, deadline: None)
    steps = 0
    for event, instructions in record:
        if isinstance(event, OpenStep):
            live_N, ready_N = machine.members.live(), machine.members.ready()
            plan = scheme.plan_for(live_N)
            terms = scheme.terms(plan, live_N, ready_N)
            assert (plan.A_RK != event.plan.A_RK).nnz == 0
            assert np.array_equal(plan.bits_RS, event.plan.bits_RS)
            assert np.array_equal(plan.worker_R, event.plan.worker_R)
            assert (terms.deadline, terms.count) == (event.terms.deadline, event.terms.count)
            assert np.array_equal(terms.p_R, event.terms.p_R)
            event = replace(event, decoder=session.code.open(plan, terms))
            steps += 1
        machine.handle(event)
        for told in instructions:
            if isinstance(told, Observe):
                scheme.observe(told.seen)
            elif isinstance(told, Replan):
                scheme.outdated = True
    return steps


def recorded(scheme: str, out: Path, partial: bool | None = None) -> tuple[Record, Session]:
    """A simulated run of the digits with slow workers, one that is killed and one that leaves."""
    config = gcdist.Config(
        out=out,
        cluster={"workers": WORKERS, "min_workers": 1, "retry_first": 0.1},
        code={"scheme": scheme, "partitions": 8, "partial": partial},
        quantizer={"bits": 4},
        inject={"model": "shifted-exponential", "shift": 0.05, "mean": (0.05, 0.1, 0.2, 0.6)},
        straggler={"deadline": 0.4, "warmup_steps": 3, "replan_every": 5},
        simulate={"latency": 0.1},  # long enough for messages to be on their way when a step closes
    )
    session = Session.build(digits.build(model="mlp"), config, WORKERS)
    record: Record = []
    driver, network = simulated(session, lambda kind, text: None, record)
    with Cluster(session, driver, RunFolder(out / "run")) as cluster:
        for step in cluster.steps(STEPS):
            step.backward()
            if step.number == 6:
                network.workers[1].kill()
            if step.number == 9:
                network.workers[2].terminate()
    return record, session


@pytest.fixture(scope="module", params=["osgc", "memory"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Record, Session]:
    return recorded(request.param, tmp_path_factory.mktemp(request.param), partial=False)


def test_a_simulated_run_of_partial_rows_is_replayed(tmp_path: Path) -> None:
    record, session = recorded("osgc", tmp_path, partial=True)
    assert replay(record, session.workers, session.hello("master"), session.code) == STEPS
    cut = [event.head.done for event, _ in record if isinstance(event, Arrived) and event.work is not None]
    assert len(set(cut)) > 1


def test_a_simulated_run_is_replayed(run: tuple[Record, Session]) -> None:
    record, session = run
    assert replay(record, session.workers, session.hello("master"), session.code) == STEPS
    kinds = {type(event) for event, _ in record}
    told = [t for _, instructions in record for t in instructions]
    assert {Joined, Lost} <= kinds
    assert sum(isinstance(t, CloseStep) for t in told) == STEPS
    late = [t.late for t in told if isinstance(t, Accumulate)]
    assert any(late) == session.code.shifted
    assert any(any(t.round.shift) for t in told if isinstance(t, SendRound)) == session.code.shifted


def test_what_a_step_promises_follows_from_its_past(run: tuple[Record, Session]) -> None:
    assert promises_follow(*run) == STEPS


def test_a_changed_record_is_noticed(run: tuple[Record, Session]) -> None:
    record, session = run
    i = next(i for i, (_, told) in enumerate(record) if any(isinstance(t, Accumulate) for t in told))
    without = record[:i] + record[i + 1 :]
    with pytest.raises(AssertionError, match="event"):
        replay(without, session.workers, session.hello("master"), session.code)
