"""The ring of the last events: bounded, without bodies, in JSON, and written when a run halts or a bug shows."""

from __future__ import annotations

import json
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor, nn

import gcdist
from gcdist.protocol.last_events import HELD, TEXT, LastEvents
from gcdist.protocol.master_io import Arrived, Credit, Drop, DropWhy, Lost
from gcdist.protocol.messages import Head, Peer, Tick
from gcdist.types import RunHaltedError
from gcdist.worker.log import WorkerLog
from gcdist.worker.main import EVENTS_TOLD, _tell
from tests.run.own_parts import task

LAST = "last-events.jsonl"


class Body:
    """A message's body, of which nothing must be kept."""


def test_the_oldest_go_and_no_body_is_held() -> None:
    ring, body = LastEvents(), Body()
    gone = weakref.ref(body)
    ring.add(Arrived(0.5, Peer(2, 1), Head(0, 0, 2, 1, 0, 8), body), [Drop(Peer(2, 1), 0, DropWhy.LATE)])
    del body
    assert gone() is None
    first = json.loads(next(ring.lines()))
    assert first["peer"] == {"worker": 3, "life": 1}
    assert first["instructions"] == [
        {"do": "Drop", "peer": {"worker": 3, "life": 1}, "step": 0, "why": "late", "text": ""}
    ]
    for at in range(HELD + 10):
        ring.add(Tick(float(at)), [])
    lines = [json.loads(line) for line in ring.lines()]
    assert [line["at"] for line in lines] == [float(at) for at in range(10, HELD + 10)]


def test_texts_are_short_and_infinities_are_null() -> None:
    ring = LastEvents()
    ring.add(Lost(float("inf"), Peer(0, 1), "x" * 10_000), [])
    [line] = map(json.loads, ring.lines())
    assert (line["at"], line["reason"]) == (None, "x" * TEXT)


def simulated(folder: Path, mine: gcdist.Task | None = None) -> gcdist.Cluster:
    config = gcdist.Config(cluster={"workers": 3}, quantizer={"name": "float32"}, code={"partitions": 6})
    return gcdist.simulate(mine or task(), config, folder=folder)


def run(cluster: gcdist.Cluster) -> None:
    with cluster:
        for step in cluster.steps(6):
            step.backward()


def bad_loss(model: nn.Module, batch: object) -> Tensor:
    raise FloatingPointError("0/0")


def test_a_run_that_halts_leaves_its_last_events(tmp_path: Path) -> None:
    cluster = simulated(tmp_path / "run", replace(task(), loss_fn=bad_loss))
    with pytest.raises(RunHaltedError, match="failed 3 times in a row"):
        run(cluster)
    events = [json.loads(line) for line in (tmp_path / "run" / LAST).read_text().splitlines()]
    halting = [each for each in events if any(told["do"] == "Halt" for told in each["instructions"])]
    assert [each["event"] for each in halting] == ["Failed"]
    assert events[0]["event"] == "Joined"
    assert {"OpenStep", "Credit", "Stop"} <= {each["event"] for each in events}
    assert all(1 <= each["peer"]["worker"] <= 3 for each in events if "peer" in each)


def test_a_bug_leaves_the_event_that_showed_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = simulated(tmp_path / "run")
    handle = cluster.driver.machine.handle

    def with_a_bug(event: object) -> object:
        if isinstance(event, Credit) and event.why == "sent":
            raise KeyError("a row that is not there")
        return handle(event)  # type: ignore[arg-type]

    monkeypatch.setattr(cluster.driver.machine, "handle", with_a_bug)
    with pytest.raises(KeyError, match="a row that is not there"):
        run(cluster)
    last = json.loads((tmp_path / "run" / LAST).read_text().splitlines()[-1])
    assert (last["event"], last["why"], last["instructions"]) == ("Credit", "sent", [])


def test_a_run_that_ends_well_leaves_none(tmp_path: Path) -> None:
    run(simulated(tmp_path / "run"))
    assert not (tmp_path / "run" / LAST).exists()


def test_a_worker_tells_its_last_events_in_its_log() -> None:
    told: list[str] = []
    log, ring = WorkerLog("rank1", told.append, clock=lambda: 0.0), LastEvents(EVENTS_TOLD)
    for at in range(EVENTS_TOLD + 20):
        ring.add(Arrived(float(at), Peer(0, 1), Head(at, 0, 0, 1, 0, 8), np.zeros(3)), [])
    log.ready()
    _tell(log, ring, "KeyError: 7")
    log.last("12 rounds")
    lines = "\n".join(told).splitlines()
    assert lines[0] == "this worker ends: KeyError: 7; its last events:"
    assert [json.loads(line)["at"] for line in lines[1:-1]] == [float(at) for at in range(20, EVENTS_TOLD + 20)]
    assert lines[-1] == "12 rounds"
