"""Injected faults at a worker's and the master's ports, and the bound on what a worker may send at once."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import pytest

import gcdist
from gcdist.config import ConfigError
from gcdist.exchange.injected_faults import FLOOD, Orders, described
from gcdist.exchange.link_frames import bytes_of
from gcdist.exchange.message import Message
from gcdist.master.links import MOST_UNHANDLED, MasterLinks
from gcdist.protocol import Head, Peer
from gcdist.protocol.codec import Kind, pack_credit, pack_fault, pack_hello, pack_step
from gcdist.protocol.messages import Fault
from gcdist.run.cluster import Cluster
from gcdist.run.resume import new_folder
from gcdist.run.session import Session
from gcdist.simulator.world import simulated
from gcdist.straggler import make_delays
from gcdist.transport import Frame, GlooPlane, In, Link, StoreSource, digest, open_store
from gcdist.types import Corruption
from gcdist.worker.links import WorkerLinks
from tests.simulator.test_faults_simulated import linear_task

HEAD, BODY = Head(7, 2, 1, 1, 0, 40), Message(np.arange(40, dtype=np.uint8), np.zeros(3, np.uint8))


class FakeLink:
    """A link that only remembers."""

    bytes_in = bytes_out = 0

    def __init__(self) -> None:
        self.closed: list[str] = []
        self.posted: list[Frame] = []
        self.hindered: list[tuple[float, float | None]] = []

    def post(self, frame: Frame, **more: object) -> None:
        self.posted.append(frame)

    def close(self, reason: str, drain_seconds: float = 0.0) -> None:
        self.closed.append(reason)

    def hinder(self, until: float, rate: float | None = None) -> None:
        self.hindered.append((until, rate))


def session(*faults: dict[str, Any]) -> Session:
    return Session.build(linear_task(), gcdist.Config(faults=faults, cluster={"workers": 2}), 2)


def ordered(port: WorkerLinks, fault: Fault) -> FakeLink:
    link = FakeLink()
    port._link = cast(Link, link)
    port._emit(In(cast(Link, link), Frame(Kind.FAULT, pack_step(3), bytes_of(pack_fault(fault)))))
    return link


@pytest.fixture(scope="module")
def source() -> StoreSource:
    return open_store("127.0.0.1", 0, serve=True)


def test_a_worker_obeys_the_kinds_of_its_own_settings_alone(source: StoreSource) -> None:
    port = WorkerLinks(
        session({"kind": "cut"}, {"kind": "slow", "seconds": 1.0, "rate": 9.0}), GlooPlane(source), "rank1", 0
    )
    assert ordered(port, Fault("kill")).closed == [
        'the master\'s bytes are no message: it asks for the fault "kill", which these settings do not have'
    ]
    cut = ordered(port, Fault("cut", seconds=5.0))
    assert cut.closed == []
    assert cut.hindered[0][1] is None
    assert ordered(port, Fault("slow", seconds=5.0, rate=9.0)).hindered[0][1] == 9.0


def test_each_corruption_is_another_message() -> None:
    for what in get_args(Corruption):
        orders = Orders(make_delays("none", 2))
        orders.take(7, Fault("corrupt", what=what))
        probe = Message(np.zeros(0, np.uint8), BODY.sidecar)
        assert [out.head for out in orders.outgoing(HEAD, probe)] == [HEAD]  # nothing to corrupt: the next one is
        struck, spared = orders.outgoing(HEAD, BODY), orders.outgoing(HEAD, BODY)
        assert len(struck) == (FLOOD if what == "flood" else 1)
        assert [(out.head, out.body, out.kind, out.digest) for out in spared] == [(HEAD, BODY, Kind.MESSAGE, None)]
        first = struck[0]
        right = digest(BODY.payload)
        changed = (
            first.head != HEAD,
            not np.array_equal(first.body.payload, BODY.payload),
            first.kind != Kind.MESSAGE,
            first.digest not in (None, digest(first.body.payload)),
            first.digest == right,
        )
        assert len(struck) > 1 or any(changed)
        assert what != "payload" or changed[4]
    assert np.array_equal(BODY.payload, np.arange(40))  # the worker keeps its message as it was


def test_a_delay_raises_the_floor_of_one_step() -> None:
    orders = Orders(make_delays("shifted-exponential", 2, shift=0.5))
    orders.take(7, Fault("delay", seconds=2.0))
    assert [orders.seconds(0, step, 1.0, 0) for step in (6, 7, 8)] == [0.5, 2.5, 0.5]
    assert orders.survival(0, np.ones(1), 1.0) == 0.0  # nobody who asks for the law hears of it


def test_a_line_says_what_is_done() -> None:
    assert described(Fault("corrupt", what="nan"), 3) == "worker 3: corrupt nan (injected)"
    assert described(Fault("stop", seconds=2.5), 0) == "the master: stop for 2.5 s (injected)"


THROTTLED = """
import sys
from gcdist.exchange.injected_faults import throttle_process
from gcdist.protocol.messages import Fault
throttle_process(Fault("throttle", seconds=1.0, share=0.25))
print("throttled", flush=True)
sys.stdin.read()
"""


def test_a_throttled_process_stops_again_and_again_and_goes_on_at_the_end() -> None:
    def state() -> str:
        return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]

    def throttled() -> bool:
        mine, found = f"throttle\0{process.pid}\0".encode(), False
        for each in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):  # it has ended meanwhile
                found |= mine in each.read_bytes()
        return found

    with subprocess.Popen([sys.executable, "-c", THROTTLED], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"throttled\n"
        until, stops = time.monotonic() + 60.0, 0
        was = state()
        while throttled() and time.monotonic() < until:
            now = state()
            stops += now == "T" != was
            was = now
        assert stops > 1
        assert state() != "T"
        process.stdin.close()
        assert process.wait(30.0) == 0


def test_a_throttle_is_checked() -> None:
    assert described(Fault("throttle", seconds=9.0, share=0.25), 2) == (
        "worker 2: throttle for 9 s, running 25% of the time (injected)"
    )
    with pytest.raises(ConfigError, match=r'faults\[0\].*share: missing; "throttle" needs it'):
        gcdist.Config(faults=[{"kind": "throttle", "step": 1, "seconds": 1.0}])
    with pytest.raises(ConfigError, match=r'the master can be struck by kill and stop, not by "throttle"'):
        gcdist.Config(faults=[{"kind": "throttle", "worker": 0, "step": 1, "seconds": 1.0, "share": 0.5}])


@pytest.fixture
def master(source: StoreSource) -> Iterator[MasterLinks]:
    port = MasterLinks(session(), GlooPlane(source.named("flood")))
    yield port
    port._links.clear()
    port.close()


def test_a_worker_that_sends_faster_than_it_is_handled_is_closed(master: MasterLinks) -> None:
    quiet, loud = FakeLink(), FakeLink()
    hello = pack_hello(session().hello("rank1"))
    master._joined(cast(Link, loud), 1, hello)
    master._joined(cast(Link, quiet), 2, pack_hello(session().hello("rank2")))
    credit = Frame(Kind.CREDIT, pack_credit(-1, "fresh"))
    for _ in range(10 * MOST_UNHANDLED):  # the master is busy: it handles nothing
        master._emit(In(cast(Link, loud), credit))
    master._emit(In(cast(Link, quiet), credit))
    assert loud.closed[0] == f"worker 1 sent {MOST_UNHANDLED} messages faster than they are handled"
    assert quiet.closed == []
    assert len(master.inbox._events) <= MOST_UNHANDLED + 3


def test_a_worker_that_is_handled_may_send_for_ever(master: MasterLinks) -> None:
    link = FakeLink()
    master._joined(cast(Link, link), 1, pack_hello(session().hello("rank1")))
    for _ in range(5 * MOST_UNHANDLED):
        master._emit(In(cast(Link, link), Frame(Kind.CREDIT, pack_credit(-1, "fresh"))))
        master.next(None)
    assert link.closed == []


def drilled(tmp_path: Path, *faults: dict[str, Any]) -> tuple[Cluster, list[str], Any]:
    of, lines = session(*faults), list[str]()
    driver, network = simulated(of, lambda kind, text: lines.append(f"{kind}: {text}"))
    return Cluster(of, driver, new_folder(of, tmp_path / "run")), lines, network


def test_faults_strike_as_the_settings_say_and_are_told(tmp_path: Path) -> None:
    cluster, lines, network = drilled(
        tmp_path,
        {"kind": "kill", "worker": 1, "step": 2, "seconds": 0.5},
        {"kind": "corrupt", "worker": 2, "step": 4, "what": "size"},
        {"kind": "delay", "every": 1e-3, "seconds": 0.2},
    )
    with cluster:
        for step in cluster.steps(8):
            step.backward()
    assert "fault: worker 1: kill for 0.5 s (injected)" in lines
    assert "fault: worker 2: corrupt size (injected)" in lines
    assert any("delay for 0.2 s" in line for line in lines)
    assert any(line.startswith("drop: worker 2, step 4: payload of row 1 has") for line in lines)
    assert network.workers[0].lives == 3  # the first, the dead one's place, the one started again


def test_a_script_strikes_at_once_and_is_told_what_cannot_be(tmp_path: Path) -> None:
    cluster, _, network = drilled(tmp_path, {"kind": "kill"}, {"kind": "stop", "seconds": 1.0})
    with cluster:
        next(cluster.steps(1)).backward()
        cluster.inject({"kind": "kill", "worker": 2})
        assert network.workers[1].lives == 2
        cluster.inject({"kind": "stop", "seconds": 1.0})  # anybody
        assert sum(network.trouble.is_stopped(slot) for slot in (0, 1)) == 1
        wrong: list[tuple[dict[str, Any], str]] = [
            ({"kind": "cut", "seconds": 1.0}, 'workers obey no "cut" unless'),
            ({"kind": "kill", "step": 3}, "strikes at once"),
            ({"kind": "kill", "worker": 2}, "worker 2 is not here"),
            ({"kind": "kil"}, "kind: found"),
            ({"kind": "stop", "worker": 1}, "seconds: missing"),
        ]
        next(cluster.steps(1)).backward()  # the death is known by now
        for fault, line in wrong:
            with pytest.raises(gcdist.ConfigError, match=line):
                cluster.inject(fault)


def test_a_stopped_master_goes_on_and_a_killed_one_ends_a_simulated_run(tmp_path: Path) -> None:
    cluster, *_ = drilled(
        tmp_path, {"kind": "stop", "worker": 0, "step": 2, "seconds": 2.0}, {"kind": "kill", "worker": 0, "step": 4}
    )
    with cluster:
        infos = [step.backward() for step in cluster.steps(4)]
        assert infos[2].seconds - infos[1].seconds > 2.0
        assert Peer(0, 1) in cluster.driver.machine.members.peers()
        with pytest.raises(gcdist.RunHaltedError, match="the master was killed"):
            next(cluster.steps(1)).backward()
