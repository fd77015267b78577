from __future__ import annotations

import resource
import socket
import sys
import threading

import pytest

from gcdist.transport import (
    BaseLink,
    Credentials,
    Down,
    Frame,
    GlooPlane,
    In,
    JoinError,
    LinkSettings,
    StoreSource,
    TlsPlane,
    join,
    master_place,
    open_store,
)
from gcdist.transport.descriptors import DescriptorGauge
from tests.transport.conftest import SHARED, WAIT, End, House, Kind, descriptors, eventually, ours

QUICK = LinkSettings(connect_timeout=2.0)


def test_tickets_rise_and_the_hello_comes_through(house: House) -> None:
    first, _ = house.pair()
    second, _ = house.pair()
    assert first.hello == b"hello"
    assert (first.ticket, second.ticket) == (1, 2)


def test_a_master_that_refuses_says_why(source: StoreSource, kind: Kind) -> None:
    house = House(source.named(f"refusing {kind}"), QUICK, None, kind)
    on_join = house._on_join

    def refuse(link: BaseLink, ticket: int, hello: bytes) -> None:
        on_join(link, ticket, hello)
        link.post(Frame(8, b"layouts differ"))
        link.close("refused", drain_seconds=WAIT)

    house.acceptor._on_join = refuse
    master, worker = house.pair()
    assert worker.get(In).frame.head == b"layouts differ"
    assert worker.get(Down).reason == "closed by the other end: refused"
    assert master.get(Down).reason == "refused"
    house.close()
    assert eventually(lambda: not ours()), ours()


def test_without_a_master_joining_ends_with_one_line(source: StoreSource) -> None:
    with pytest.raises(JoinError, match=r"no master of run 'nobody' within 0\.2 s at 127\.0\.0\.1"):
        join(source.named("nobody"), b"", End().events.put, QUICK, timeout=0.2)


def test_a_worker_may_come_before_its_master(source: StoreSource) -> None:
    mine = source.named("early")
    worker = End()

    def come() -> None:
        worker.link, worker.ticket = join(mine, b"early bird", worker.events.put, QUICK, timeout=WAIT)

    thread = threading.Thread(target=come)
    thread.start()
    house = House(mine, QUICK, None)
    thread.join(WAIT)
    house.links.append(worker.link)
    assert house.joined.get(timeout=WAIT).hello == b"early bird"
    house.close()


def test_a_worker_may_call_before_its_master_listens(source: StoreSource) -> None:
    first = House(source, QUICK, None, "tls")  # says which port is free
    first.close()
    worker = End()

    def come() -> None:
        worker.link, worker.ticket = first.workers.join(b"early bird", worker.events.put, QUICK, WAIT)

    thread = threading.Thread(target=come)
    thread.start()
    house = House(source, QUICK, None, "tls", first.port)
    thread.join(WAIT)
    house.links.append(worker.link)
    assert house.joined.get(timeout=WAIT).hello == b"early bird"
    house.close()


def test_without_a_master_calling_ends_with_one_line() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # taken, and nobody listens
        port = nobody.getsockname()[1]
        plane = TlsPlane("127.0.0.1", port, Credentials.from_secret(SHARED, "worker"))
        with pytest.raises(JoinError, match=rf"no master answers at 127\.0\.0\.1:{port} within 0\.3 s: .*refused"):
            plane.join(b"", End().events.put, QUICK, 0.3)


def test_a_port_that_is_taken_is_named(source: StoreSource) -> None:
    house = House(source, QUICK, None, "tls")
    with pytest.raises(JoinError, match=rf"cannot listen on 127\.0\.0\.1:{house.port}: Address already in use"):
        House(source, QUICK, None, "tls", house.port)
    house.close()


def test_a_new_master_on_the_same_store_meets_nothing_stale(source: StoreSource) -> None:
    mine = source.named("again")
    first = House(mine, QUICK, None)
    _, old = first.pair()
    first.close()
    mine.client().add("gcdist/again/tickets", 1)  # a worker took a ticket of the old master and died
    second = House(mine, QUICK, None)
    master, worker = second.pair()
    assert master.ticket == worker.ticket == old.ticket + 2
    second.close()


def test_a_ticket_nobody_comes_for_holds_nobody_up(source: StoreSource) -> None:
    mine = source.named("holes")
    house = House(mine, QUICK, None)
    mine.client().add("gcdist/holes/tickets", 5)
    master, worker = house.pair()
    assert worker.ticket == 6
    worker.link.post(Frame(1))
    master.get(In)
    house.close()
    assert eventually(lambda: not ours(), 60.0), ours()


def test_joining_again_leaves_no_thread_and_no_descriptor(house: House) -> None:
    house.pair()  # the shared device and the store's sockets
    counts = []
    for _ in range(25):
        master, worker = house.pair()
        worker.link.post(Frame(1))
        master.get(In)
        worker.link.close("again")
        assert worker.link.join(WAIT)
        assert master.link.join(WAIT)
        counts.append((descriptors(), len(ours())))
    assert eventually(lambda: descriptors() <= counts[0][0]), counts
    assert max(threads for _, threads in counts) <= counts[0][1] + 2, counts


def test_the_store_is_served_on_one_address() -> None:
    served = open_store("127.0.0.1", 0, serve=True)
    other = socket.socket()
    other.bind(("127.0.0.2", served.port))  # would be taken if the server listened everywhere
    other.close()
    with pytest.raises(JoinError, match=rf"cannot serve the store at 127\.0\.0\.1:{served.port}"):
        open_store("127.0.0.1", served.port, serve=True)


def test_a_forwarded_address_needs_an_interface() -> None:
    env = {"MASTER_ADDR": "192.0.2.1", "MASTER_PORT": "0", "RANK": "0"}  # of a network that no machine is in
    with pytest.raises(JoinError, match=r"MASTER_ADDR 192\.0\.2\.1: cannot be listened on .*cluster\.interface"):
        StoreSource.from_env(env)
    with pytest.raises(JoinError, match=r"no network interface 'nope0' with an address; there are: .*lo"):
        StoreSource.from_env(env | {"GLOO_SOCKET_IFNAME": "nope0"})
    assert StoreSource.from_env(env | {"GLOO_SOCKET_IFNAME": "lo"}).host == "127.0.0.1"


def test_the_environment_says_who_serves() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    env = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": "1"}
    assert StoreSource.from_env(env)._server is None
    assert StoreSource.from_env(env | {"RANK": "0", "TORCHELASTIC_USE_AGENT_STORE": "True"})._server is None
    served = StoreSource.from_env(env | {"RANK": "0", "TORCHELASTIC_RUN_ID": "job 7"})
    assert (served.run_id, served._server is None) == ("job 7", False)
    assert served.client().add("x", 2) == 2


def test_the_port_of_the_tls_plane() -> None:
    env = {"MASTER_ADDR": "192.0.2.1", "MASTER_PORT": "29500", "RANK": "1"}
    assert master_place(env) == ("192.0.2.1", 29500)
    assert master_place(env, 443) == ("192.0.2.1", 443)
    under_torchrun = env | {"TORCHELASTIC_USE_AGENT_STORE": "True"}  # its own store is at MASTER_PORT
    assert master_place(under_torchrun) == ("192.0.2.1", 29501)
    with pytest.raises(JoinError, match=r"MASTER_ADDR 192\.0\.2\.1: cannot be listened on"):
        master_place(env | {"RANK": "0"})
    assert master_place(env | {"RANK": "0", "GLOO_SOCKET_IFNAME": "lo"}) == ("127.0.0.1", 29500)
    with pytest.raises(JoinError, match="MASTER_PORT not set"):
        master_place({"MASTER_ADDR": "h", "RANK": "1"})


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ({"MASTER_ADDR": "h", "RANK": "0"}, "MASTER_PORT not set"),
        ({"MASTER_ADDR": "h", "MASTER_PORT": "x", "RANK": "0"}, "MASTER_PORT='x'"),
        (
            {"MASTER_ADDR": "192.0.2.1", "MASTER_PORT": "0", "RANK": "0"},
            r"MASTER_ADDR 192\.0\.2\.1: cannot be listened on",
        ),
    ],
)
def test_a_wrong_environment_is_named(env: dict[str, str], says: str) -> None:
    with pytest.raises(JoinError, match=says):
        StoreSource.from_env(env)


def test_a_door_s_thread_outlives_its_own_errors(source: StoreSource, monkeypatch: pytest.MonkeyPatch) -> None:
    failures: list[int] = []
    read = DescriptorGauge.read

    def fails_once(self: DescriptorGauge, count: int | None = None) -> str | None:
        if not failures:
            failures.append(1)
            raise ZeroDivisionError("once")
        return read(self, count)

    monkeypatch.setattr(DescriptorGauge, "read", fails_once)
    mine = source.named("failing")
    house = House(mine, QUICK, None)
    master, worker = house.pair()
    assert failures
    worker.link.post(Frame(1))
    master.get(In)
    house.close()


def test_descriptors_that_run_out_are_told(source: StoreSource, monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["gcdist.transport.join"]  # the package has a function of that name
    monkeypatch.setattr(module, "DescriptorGauge", lambda: DescriptorGauge(limit=1))
    told: list[str] = []
    plane = GlooPlane(source.named("few"))
    door = plane.open(lambda *about: None, lambda event: None, QUICK, on_notice=told.append)
    assert eventually(lambda: bool(told))
    door.close()
    assert "descriptors are in use; gloo never lets a stranger's connection go" in told[0]


def test_a_master_that_others_reach_warns_of_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    monkeypatch.setattr("gcdist.transport.plane.listening_address", lambda host, port: "10.0.0.7")
    lines = GlooPlane(StoreSource("10.0.0.7", 1)).notes()
    assert sum("no shared secret: whoever reaches 10.0.0.7 can join this run" in text for _, text in lines) == 1
    assert sum("not encrypted" in text for _, text in lines) == 1
    assert len(GlooPlane(StoreSource("10.0.0.7", 1), "a secret").notes()) == 1
    monkeypatch.undo()
    assert GlooPlane(StoreSource("127.0.0.1", 1)).notes() == []


def test_tls_says_what_it_protects() -> None:
    [(kind, line)] = TlsPlane("127.0.0.1", 1, Credentials.from_secret("a secret of this test", "master")).notes()
    assert kind == "transport"
    assert "links to 127.0.0.1:1 are encrypted and authenticated by the shared secret" in line
    assert "sizes and times of messages stay visible, and workers that belong to the run are trusted" in line


def test_the_limit_of_descriptors_is_raised_when_the_door_opens(source: StoreSource) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 1024), hard))
    try:
        house = House(source.named("many"), QUICK, None)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
        house.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
