"""The shared secret: who knows it comes in, at either end, and nothing on the wire helps anybody else."""

from __future__ import annotations

import threading
from itertools import product
from typing import Any

import pytest

from gcdist.transport import Frame, In, RefusedError, handshake, join
from gcdist.transport.framing import CHALLENGE, HELLO, PROOF, REFUSED, WELCOME
from gcdist.transport.handshake import greet, proof, receive_hello
from tests.transport.conftest import WAIT, End, House, eventually, gloo_only

SECRET = "open sesame"
guarded = pytest.mark.parametrize("house", [{"secret": SECRET}], indirect=True)


@guarded
def test_the_secret_opens(house: House) -> None:
    master, worker = house.pair()
    worker.link.post(Frame(3))
    assert master.get(In).frame.kind == 3


@gloo_only
@guarded
@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ("open barley", "the master has another one than is set here"),
        (None, "the master asks for one, and none is set"),
    ],
)
def test_a_worker_without_it_is_refused_with_the_reason(house: House, wrong: str | None, why: str) -> None:
    with pytest.raises(RefusedError, match=f"shared secret: {why}.*GCDIST_SECRET"):
        join(house.source, b"hello", End().events.put, house.settings, wrong, WAIT)
    assert house.joined.empty()
    house.pair()  # the door still works
    assert eventually(lambda: len(house.refused) == 1), house.refused
    [(ticket, reason)] = house.refused
    assert ticket == "ticket 1"
    assert "does not know the shared secret" in reason


@gloo_only
def test_a_master_without_it_is_refused_by_the_worker(house: House) -> None:
    with pytest.raises(RefusedError, match="shared secret: one is set here, and the master has none"):
        join(house.source, b"hello", End().events.put, house.settings, SECRET, WAIT)
    house.joined.get(timeout=WAIT)  # the master saw a worker that went away again


def test_a_proof_is_bound_to_everything() -> None:
    both = (b"n" * 64, b"m" * 64)
    proofs = {
        proof(s, who, run, ticket, nonces, hello)
        for s, who, run, ticket, nonces, hello in product(
            "ab", ("master", "worker"), ("c", "d"), (1, 11), both, (b"", b"x")
        )
    }
    assert len(proofs) == 64
    assert proof("s", "worker", "r", 1, b"12", b"3") != proof("s", "worker", "r", 1, b"1", b"23")


class Wire:
    """Both directions of a pair without a network; every frame that was sent is kept."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sent: list[tuple[str, int, bytes, bytes]] = []
        self._lanes: dict[str, list[tuple[int, bytes, bytes]]] = {"worker": [], "master": []}
        self._there = threading.Condition()
        monkeypatch.setattr(handshake, "_send", self._send)
        monkeypatch.setattr(handshake, "_receive", self._receive)

    def _send(self, who: Any, kind: int, head: bytes, text: bytes, seconds: float) -> None:
        with self._there:
            self.sent.append((who, kind, head, text))
            self._lanes["master" if who == "worker" else "worker"].append((kind, head, text))
            self._there.notify_all()

    def _receive(self, who: Any, seconds: float) -> tuple[int, bytes, bytes]:
        with self._there:
            assert self._there.wait_for(lambda: bool(self._lanes[who]), WAIT)
            return self._lanes[who].pop(0)

    def say(self, *frames: tuple[int, bytes, bytes]) -> None:
        """Frames of a worker that is not ours."""
        self._lanes["master"].extend(frames)


def test_the_secret_never_travels_and_no_frame_serves_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = Wire(monkeypatch)
    came: list[bytes] = []
    master = threading.Thread(target=lambda: came.append(receive_hello("master", SECRET, "run", 7, WAIT)))  # type: ignore[arg-type]
    master.start()
    greet("worker", SECRET, "run", 7, b"hello", WAIT)  # type: ignore[arg-type]
    master.join(WAIT)
    assert came == [b"hello"]
    assert [kind for _, kind, _, _ in wire.sent] == [HELLO, CHALLENGE, PROOF, WELCOME]
    assert not any(SECRET.encode() in head + text for _, _, head, text in wire.sent)

    heard = [(kind, head, text) for who, kind, head, text in wire.sent if who == "worker"]
    again = Wire(monkeypatch)
    again.say(*heard)  # said again to a master that has begun anew: same run, same ticket
    with pytest.raises(RefusedError):
        refuse(again)
    assert [kind for _, kind, _, _ in again.sent] == [CHALLENGE, REFUSED]


def refuse(wire: Wire) -> None:
    class Gone:
        def receive(self, *about: object) -> Any:
            return type("Done", (), {"wait": lambda self, seconds: None})()

        def __eq__(self, other: object) -> bool:
            return other == "master"

        def __hash__(self) -> int:
            return hash("master")

    receive_hello(Gone(), SECRET, "run", 7, WAIT)  # type: ignore[arg-type]


def test_nothing_is_proved_to_a_false_master(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = Wire(monkeypatch)
    wire._lanes["worker"] += [(CHALLENGE, bytes(64), b""), (REFUSED, b"", b"")]
    with pytest.raises(RefusedError):
        greet("worker", SECRET, "run", 7, b"hello", WAIT)  # type: ignore[arg-type]
    assert wire.sent[-1][1:] == (PROOF, b"", b"")


def test_a_first_frame_that_is_no_hello(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = Wire(monkeypatch)
    for kind, nonce in ((WELCOME, bytes(32)), (HELLO, b"short")):
        wire.say((kind, nonce, b"hello"))
        with pytest.raises(ValueError, match="not a hello"):
            receive_hello("master", SECRET, "run", 7, WAIT)  # type: ignore[arg-type]
    assert not wire.sent
    assert not wire._lanes["master"]
