"""Two doctors on one machine, and ends that are no doctors."""

from __future__ import annotations

import contextlib
import json
import queue
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from gcdist.doctor import serve as serving
from gcdist.doctor.connect import connect
from gcdist.doctor.pair import Paired
from gcdist.doctor.serve import serve
from gcdist.doctor.wire import BULK, HEAD, MOST, TEXT, Wire, WireError, can_reach

WAIT = 30.0


class Server:
    """A serving doctor in a thread of this process."""

    def __init__(self, secret: str | None, count: int) -> None:
        self.said: queue.Queue[str] = queue.Queue()
        self.thread = threading.Thread(target=serve, args=("127.0.0.1", 0, secret, self.said.put, count), daemon=True)
        self.thread.start()
        self.port = int(self.said.get(timeout=WAIT).split(";")[0].rpartition(":")[2])

    def end(self) -> str:
        self.thread.join(WAIT)
        assert not self.thread.is_alive()
        return self.said.get(timeout=WAIT)


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gcdist.doctor.wire.BULK_SECONDS", 0.1)
    monkeypatch.setattr("gcdist.doctor.connect.MOST_PIECES", 4)


@pytest.mark.parametrize("secret", [None, "a secret that is long"])
def test_two_doctors(secret: str | None) -> None:
    server = Server(secret, 1)
    seen = connect("127.0.0.1", server.port, secret)
    assert server.end() == "127.0.0.1 was answered"
    assert (seen.blocked_here, seen.blocked_there, seen.same_secret) == (None, None, True)
    assert isinstance(seen.pair, Paired)
    assert min(seen.up, seen.down, seen.pair.up, seen.pair.down, seen.round_trip) > 0
    assert abs(seen.skew) < 1.0  # one clock
    assert seen.versions["gcdist"]


def test_without_the_secret_nothing_is_measured() -> None:
    server = Server("right", 1)
    for wrong in (None, "wrong"):
        with pytest.raises(WireError, match=r"the other end says: the shared secret .* is not the one"):
            connect("127.0.0.1", server.port, wrong)
        assert "refused: it does not know the shared secret" in server.said.get(timeout=WAIT)
    connect("127.0.0.1", server.port, "right")  # who was refused does not count
    server.end()


def test_a_server_that_does_not_know_the_secret_is_found_out() -> None:
    server = Server(None, 1)
    assert not connect("127.0.0.1", server.port, "mine").same_secret
    server.end()


@contextmanager
def other(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """A port where something else answers."""
    with socket.create_server(("127.0.0.1", 0)) as door:

        def run() -> None:
            connection, _ = door.accept()
            with connection:
                answer(connection)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield door.getsockname()[1]
        thread.join(WAIT)


def frame(kind: int, body: bytes) -> bytes:
    return HEAD.pack(kind, len(body)) + body


@pytest.mark.parametrize(
    ("sent", "says"),
    [
        (b"", "closed the connection"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not speak as a doctor"),
        (struct.pack("!BI", TEXT, MOST[TEXT] + 1), "does not speak as a doctor"),
        (frame(TEXT, b"not json"), "no message"),
        (frame(TEXT, b"[1]"), "no message"),
        (frame(BULK, b"{}"), "no message"),
        (frame(TEXT, b"{}"), "answers as no doctor"),
        (frame(TEXT, json.dumps({"nonce": "zz"}).encode()), "answers as no doctor"),
        (frame(TEXT, json.dumps({"nonce": 5}).encode()), "answers as no doctor"),
    ],
)
def test_others_are_no_doctors(sent: bytes, says: str) -> None:
    with other(lambda connection: connection.sendall(sent)) as port, pytest.raises(WireError, match=says):
        connect("127.0.0.1", port, None)


def test_a_client_that_is_none_holds_nobody_up() -> None:
    server = Server(None, 1)
    for words in (b"GET / HTTP/1.1\r\n\r\n", frame(TEXT, b'{"nonce": "00"}'), b""):
        with socket.create_connection(("127.0.0.1", server.port), timeout=WAIT) as peer:
            peer.sendall(words)
            with contextlib.suppress(OSError):  # the other end may have closed already
                peer.shutdown(socket.SHUT_WR)
            assert server.said.get(timeout=WAIT).startswith("127.0.0.1: ")
    connect("127.0.0.1", server.port, None)
    server.end()


@pytest.mark.parametrize(
    "request_", [{"do": "reach", "port": 22}, {"do": "reach", "port": "x"}, {"do": "rm"}, {}], ids=str
)
def test_what_is_not_done_for_anybody(request_: dict[str, object]) -> None:
    ours, theirs = socket.socketpair()
    with pytest.raises(WireError, match="asked"), ours, theirs:
        serving._do(Silent(), request_)  # type: ignore[arg-type]


class Silent:
    peer = mine = "127.0.0.1"


def test_silence_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as door, socket.create_connection(door.getsockname()) as ours:
        with Wire(ours, 0.05) as wire, pytest.raises(WireError, match="nothing answers"):
            wire.hear()
        port = door.getsockname()[1]
        assert can_reach("127.0.0.1", port, WAIT) is None
    assert "refused" in str(can_reach("127.0.0.1", port, WAIT))
