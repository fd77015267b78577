"""Somebody on the network who does not know the secret: nothing of what he does gets in, and links of others live on."""

from __future__ import annotations

import os
import socket
import ssl
import time
from collections.abc import Iterator

import numpy as np
import pytest

from gcdist.transport import (
    Credentials,
    Down,
    Frame,
    In,
    JoinError,
    LinkSettings,
    RefusedError,
    TlsPlane,
    tls_strangers,
)
from gcdist.transport.framing import HELLO, encode
from gcdist.transport.tls_certificates import MASTER_NAME
from gcdist.transport.tls_door import TlsDoor
from tests.transport.conftest import SHARED, WAIT, End, House, descriptors, eventually, tls_only
from tests.transport.wires import Tap, master_credentials, worker_credentials

QUICK = LinkSettings(connect_timeout=1.0)
pytestmark = [tls_only, pytest.mark.parametrize("house", [{"settings": QUICK}], indirect=True)]


def through(tap: Tap) -> TlsPlane:
    return TlsPlane("127.0.0.1", tap.port, worker_credentials())


@pytest.fixture
def taps() -> Iterator[list[Tap]]:
    made: list[Tap] = []
    yield made
    for tap in made:
        tap.close()


def still_works(house: House) -> None:
    """A worker comes in, and a frame through."""
    master, worker = house.pair()
    worker.link.post(Frame(3, b"", None, np.ones(50_000, np.uint8)))
    frame = master.get(In).frame
    assert frame.data is not None
    assert frame.data.all()
    worker.link.close("seen")


def refused(house: House, why: str) -> None:
    assert eventually(lambda: any(why in reason for _, reason in house.refused)), house.refused
    assert house.joined.empty()


def test_another_secret_is_refused_at_both_ends(house: House) -> None:
    with pytest.raises(RefusedError, match=r"does not prove itself: .*another authority.*GCDIST_SECRET") as error:
        house.plane_of("not the secret, but as long").join(b"", End().events.put, QUICK, 1.0)
    assert "\n" not in str(error.value)
    refused(house, "it says that this master's certificate is of another authority")
    still_works(house)


def bare_client(**options: object) -> ssl.SSLContext:
    """Takes any certificate and shows none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    for name, value in options.items():
        setattr(context, name, value)
    return context


def call(house: House, context: ssl.SSLContext, data: bytes = b"") -> bytes:
    """What the master says to a bare TLS client before it hangs up."""
    with (
        socket.create_connection(("127.0.0.1", house.port), timeout=WAIT) as plain,
        context.wrap_socket(plain, server_hostname=MASTER_NAME) as secured,
    ):
        secured.sendall(data)
        return secured.recv(100)


def test_without_a_certificate_nobody_comes_in(house: House) -> None:
    hello, _ = encode(Frame(HELLO, b"", np.zeros(5, np.uint8)))
    with pytest.raises(ssl.SSLError, match="CERTIFICATE_REQUIRED"):
        call(house, bare_client(), hello.tobytes())
    refused(house, "peer did not return a certificate")
    still_works(house)


def test_with_another_authoritys_certificate_nobody_comes_in(house: House) -> None:
    context = bare_client()
    Credentials.from_secret("the secret of somebody else", "worker")._load(context)
    context.verify_mode = ssl.CERT_NONE  # he does not mind who the master is
    with pytest.raises(ssl.SSLError, match="ALERT"):
        call(house, context, b"x")
    refused(house, "its certificate is refused: it is of another authority")


def test_an_older_tls_is_refused(house: House) -> None:
    with pytest.raises(ssl.SSLError):
        call(house, bare_client(maximum_version=ssl.TLSVersion.TLSv1_2))
    refused(house, "it does not speak TLS 1.3")
    still_works(house)


def test_a_worker_does_not_follow_a_downgrade(house: House) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    master_credentials()._load(context)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        calls = TlsPlane("127.0.0.1", listener.getsockname()[1], worker_credentials())
        tls, incoming, outgoing = calls.credentials.wrap()
        assert tls.context.minimum_version == ssl.TLSVersion.TLSv1_3
        with pytest.raises(ssl.SSLWantReadError):
            tls.do_handshake()
        server_in, server_out = ssl.MemoryBIO(), ssl.MemoryBIO()
        old = context.wrap_bio(server_in, server_out, server_side=True)
        server_in.write(outgoing.read())
        with pytest.raises(ssl.SSLError, match="UNSUPPORTED_PROTOCOL"):
            old.do_handshake()
        incoming.write(server_out.read())
        with pytest.raises(ssl.SSLError, match="ALERT_PROTOCOL_VERSION"):
            tls.do_handshake()


def test_a_worker_is_not_taken_in_by_somebody_who_only_knows_workers(house: House) -> None:
    # he has a worker's certificate and key, and poses as the master
    impostor = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    worker_credentials()._load(impostor)
    tls, incoming, outgoing = worker_credentials().wrap()
    theirs_in, theirs_out = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = impostor.wrap_bio(theirs_in, theirs_out, server_side=True)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    theirs_in.write(outgoing.read())
    with pytest.raises(ssl.SSLWantReadError):
        server.do_handshake()
    incoming.write(theirs_out.read())
    with pytest.raises(ssl.SSLCertVerificationError) as error:
        tls.do_handshake()
    assert "not for this use" in worker_credentials().explain(error.value)


@pytest.mark.parametrize(
    "bytes_",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        bytes(200),
        os.urandom(300),
        b"\x16\x03\x01\x40\x00" + bytes(100),
        b"\x16\x03\x03\xff\xff",
    ],
    ids=["http", "zeros", "noise", "half a hello", "too long a record"],
)
def test_bytes_that_are_no_handshake(house: House, bytes_: bytes) -> None:
    with socket.create_connection(("127.0.0.1", house.port)) as stranger:
        stranger.sendall(bytes_)
        assert eventually(lambda: bool(house.refused)), "nobody was refused"
    still_works(house)


def test_a_recorded_handshake_opens_nothing(house: House, taps: list[Tap]) -> None:
    taps.append(Tap(house.port))
    worker = End()
    worker.link, _ = through(taps[0]).join(b"hello", worker.events.put, QUICK, WAIT)
    house.links.append(worker.link)
    house.joined.get(timeout=WAIT)
    worker.link.post(Frame(9, b"again!"))
    recorded = bytes(taps[0].heard["worker"])
    assert len(recorded) > 1000
    for cut in (len(recorded), len(recorded) // 2):
        with socket.create_connection(("127.0.0.1", house.port)) as replayed:
            replayed.sendall(recorded[:cut])
            replayed.settimeout(WAIT)
            while replayed.recv(4096):
                pass
    refused(house, "bad record mac")
    assert worker.events.empty()  # the link that was recorded does not notice


def joined_through(house: House, tap: Tap) -> tuple[End, End]:
    worker = End()
    worker.link, _ = through(tap).join(b"hello", worker.events.put, QUICK, WAIT)
    house.links.append(worker.link)
    return house.joined.get(timeout=WAIT), worker


def test_nothing_that_travels_can_be_read_and_no_session_is_resumed(house: House, taps: list[Tap]) -> None:
    taps.append(Tap(house.port))
    master, worker = joined_through(house, taps[0])
    mark = b"a line that nobody else may read"
    worker.link.post(Frame(9, b"", None, np.frombuffer(mark * 1000, np.uint8)))
    frame = master.get(In).frame
    assert frame.data is not None
    assert frame.data.tobytes() == mark * 1000
    master.link.post(Frame(9, b"", np.frombuffer(mark, np.uint8)))
    worker.get(In)
    for heard in taps[0].heard.values():
        assert len(heard) > 1000 or heard is taps[0].heard["master"]
        for plain in (mark, b"hello", SHARED.encode()):
            assert plain not in heard
    tls = worker.link._wire._tls
    assert tls.version() == "TLSv1.3"
    assert not tls.session_reused
    assert tls.session is None or not tls.session.has_ticket


@pytest.mark.parametrize("what", ["flip", "add", "drop", "swap", "repeat"])
def test_any_change_to_what_travels_ends_that_link_alone(house: House, taps: list[Tap], what: str) -> None:
    begun: list[int] = []

    def change(who: str, data: bytes, at: int) -> bytes:
        if who != "worker" or not begun or len(data) < 3000:
            return data
        begun.clear()
        middle = len(data) // 2
        match what:
            case "flip":
                return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
            case "add":
                return data[:middle] + b"\x17\x03\x03\x00\x20" + bytes(32) + data[middle:]
            case "drop":
                return data[:middle] + data[middle + 1 :]
            case "swap":
                return data[middle:] + data[:middle]
        return data + data

    taps.append(Tap(house.port, change))
    master, worker = joined_through(house, taps[0])
    other, there = house.pair()
    worker.link.post(Frame(1, b"before"))
    assert master.get(In).frame.head == b"before"
    begun.append(1)
    for _ in range(3):
        worker.link.post(Frame(2, b"", None, np.ones(5000, np.uint8)))
    down = master.until(Down)
    assert "its bytes are not the other end's" in down.reason
    assert master.events.empty()
    there.link.post(Frame(4, b"still here"))
    assert other.get(In).frame.head == b"still here"


def test_a_stream_that_is_cut_off_is_lost_and_no_goodbye(house: House, taps: list[Tap]) -> None:
    taps.append(Tap(house.port))
    master, worker = joined_through(house, taps[0])
    taps[0].cut()
    for end in (master, worker):
        assert end.get(Down).reason.startswith("connection lost: ")


def test_half_a_frame_is_never_handed_over(house: House, taps: list[Tap]) -> None:
    passed = [10**9]

    def change(who: str, data: bytes, at: int) -> bytes:
        if who == "worker" and at > passed[0]:
            raise ConnectionError
        return data

    taps.append(Tap(house.port, change))
    master, worker = joined_through(house, taps[0])
    passed[0] = len(taps[0].heard["worker"]) + 300_000
    worker.link.post(Frame(2, b"", None, np.ones(4_000_000, np.uint8)))
    assert master.get(Down).reason.startswith("connection lost: ")


def test_a_man_in_the_middle_with_certificates_of_his_own_is_refused(house: House) -> None:
    false = TlsDoor(
        "127.0.0.1", 0, Credentials.from_secret("the secret of somebody else", "master"),
        lambda *about: None, lambda event: None, QUICK,
    )  # fmt: skip
    with pytest.raises(RefusedError, match="does not prove itself"):
        TlsPlane("127.0.0.1", false.port, worker_credentials()).join(b"", End().events.put, QUICK, 1.0)
    false.close()


def test_a_port_where_nobody_speaks_tls_is_no_refusal(house: House) -> None:
    with socket.create_server(("127.0.0.1", 0)) as plain:  # takes calls and says nothing
        silent = TlsPlane("127.0.0.1", plain.getsockname()[1], worker_credentials())
        with pytest.raises(JoinError, match="no link to the master at 127"):
            silent.join(b"", End().events.put, QUICK, 1.0)


def test_half_open_connections_cost_little_and_are_let_go(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    before = descriptors()
    strangers = [socket.create_connection(("127.0.0.1", house.port)) for _ in range(400)]
    assert eventually(lambda: len(house.refused) >= 400 - tls_strangers.MOST_STRANGERS)
    assert descriptors() - before - len(strangers) <= tls_strangers.MOST_STRANGERS + 2
    still_works(house)  # while they hold on
    refused_for = {reason for _, reason in house.refused}
    assert refused_for <= {"there are too many callers at one time", "it said nothing for too long"}
    assert eventually(lambda: len(house.refused) == 400)  # their second is over
    assert eventually(lambda: descriptors() - len(strangers) <= before + 1)
    for stranger in strangers:
        stranger.close()


def pour(line: socket.socket, bytes_: bytes, at_once: int, pause: float) -> None:
    """Send until the other end has hung up; OSError then."""
    until = time.monotonic() + WAIT
    for lo in range(0, len(bytes_), at_once):
        assert time.monotonic() < until
        line.sendall(bytes_[lo : lo + at_once])
        time.sleep(pause)


def test_a_trickle_before_the_proof_is_cut(house: House) -> None:
    tls, _, outgoing = worker_credentials().wrap()
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    with socket.create_connection(("127.0.0.1", house.port)) as slow, pytest.raises(ConnectionError):
        pour(slow, outgoing.read(), 1, 0.05)
    assert {reason for _, reason in house.refused} == {"it did not finish its handshake for too long"}


def test_a_flood_before_the_proof_is_cut(house: House) -> None:
    begins_a_long_hello = b"\x16\x03\x01\x40\x00\x01\x00\xff\xff"
    with socket.create_connection(("127.0.0.1", house.port)) as loud, pytest.raises(ConnectionError):
        pour(loud, begins_a_long_hello + bytes(50 << 20), 1 << 14, 0.0)
    still_works(house)


def test_more_bytes_than_a_hello_takes_are_cut(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tls_strangers.STRANGER_BYTES == 64 << 10
    monkeypatch.setattr(tls_strangers, "STRANGER_BYTES", 100)
    with pytest.raises((JoinError, RefusedError)):
        house.workers.join(b"hello", End().events.put, QUICK, 1.0)
    refused(house, "it sent more than 100 bytes before its hello was in")


def test_an_endless_hello_of_somebody_proven_is_cut(house: House) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    worker_credentials()._load(context)
    for hello, why in (
        (b"x" * 200, "its hello cannot be read: not a gcdist header"),
        (encode(Frame(HELLO, b"", np.zeros(20_000, np.uint8)))[0].tobytes(), "first frame has 20000 bytes"),
        (encode(Frame(3))[0].tobytes(), "first frame is of kind 3, not a hello"),
    ):
        assert call(house, context, hello) == b""
        refused(house, why)
    still_works(house)


def test_names_in_the_log_are_short_and_whole(house: House) -> None:
    with socket.create_connection(("127.0.0.1", house.port)) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\n" + b"\n\x1b[31m" * 100)
        assert eventually(lambda: bool(house.refused))
    [(who, why)] = house.refused
    assert who == "127.0.0.1"
    assert why.isprintable()
    assert SHARED not in why
