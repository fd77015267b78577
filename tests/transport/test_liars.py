"""The other end is a raw pair that says what no link says: the link alone ends, with a reason, and the process lives."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from gcdist.transport import BaseLink, Down, Frame, GlooLink, In, LinkSettings, StoreSource, TlsLink
from gcdist.transport.channel import HEADER_TAG, PIECE_TAG, Channel, ChannelError, as_tensor
from gcdist.transport.framing import BYE, HEADER_BYTES, HELLO, MESSAGE_BYTES, decode, digest, encode
from gcdist.transport.framing import Frame as Raw
from gcdist.types import U8
from tests.transport.conftest import WAIT, End, Kind, eventually, ours
from tests.transport.wires import wire_pair

SETTINGS = LinkSettings(beat=50.0, silent_after=60.0, lost_after=70.0, piece_timeout=1.0, max_bytes=100_000)
PIECE = SETTINGS.piece_bytes


class Liar:
    """A link at one end, the bare connection at the other."""

    end: End

    def say(self, message: U8) -> None:
        raise NotImplementedError

    def say_body(self, piece: U8) -> None:
        raise NotImplementedError

    def hear(self) -> Raw:
        """The header-only frame the link sends next."""
        raise NotImplementedError

    def sever(self) -> None:
        raise NotImplementedError

    def _begin(self, link: BaseLink) -> None:
        self.end.link = link
        link.start()


class GlooLiar(Liar):
    def __init__(self, source: StoreSource, key: str, settings: LinkSettings) -> None:
        built: dict[int, Channel] = {}

        def build(rank: int) -> None:
            built[rank] = Channel(source.client(), key, rank, "127.0.0.1", WAIT)

        threads = [threading.Thread(target=build, args=(rank,)) for rank in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT)
        self.raw = built[1]
        self.end = End()
        self._begin(GlooLink(built[0], self.end.events.put, settings))

    def say(self, message: U8) -> None:
        self.raw.send(as_tensor(message), HEADER_TAG).wait(WAIT)

    def say_body(self, piece: U8) -> None:
        self.raw.send(as_tensor(piece), PIECE_TAG).wait(WAIT)

    def hear(self) -> Raw:
        message = np.zeros(MESSAGE_BYTES, np.uint8)
        self.raw.receive(as_tensor(message), HEADER_TAG).wait(WAIT)
        header = decode(message, 0)
        return Raw(header.kind, header.head, message[HEADER_BYTES : HEADER_BYTES + sum(header.inline)].copy())

    def sever(self) -> None:
        self.raw.sever()


class TlsLiar(Liar):
    def __init__(self, settings: LinkSettings) -> None:
        linked, self.raw = wire_pair()
        self.end = End()
        self._begin(TlsLink(linked, self.end.events.put, settings))

    def say(self, message: U8) -> None:
        self.raw.send(message.data)

    def say_body(self, piece: U8) -> None:
        self.say(piece)

    def hear(self) -> Raw:
        fixed = np.zeros(HEADER_BYTES, np.uint8)
        self.raw.receive(fixed.data)
        header = decode(fixed, 0)
        meta = np.zeros(sum(header.inline), np.uint8)
        self.raw.receive(meta.data)
        return Raw(header.kind, header.head, meta)

    def sever(self) -> None:
        self.raw.sever()
        self.raw.close()


def a_liar(kind: Kind, source: StoreSource, key: str, settings: LinkSettings) -> Liar:
    return TlsLiar(settings) if kind == "tls" else GlooLiar(source, key, settings)


@pytest.fixture
def liar(source: StoreSource, kind: Kind, request: pytest.FixtureRequest) -> Iterator[Liar]:
    made = a_liar(kind, source, request.node.nodeid, SETTINGS)
    yield made
    made.sever()
    assert made.end.link.join(WAIT)
    left = [type(event) for event in made.end.events.queue]
    assert left in ([], [Down])  # unread by the test at most the one Down
    assert eventually(lambda: not ours()), ours()


def noise(n: int) -> U8:
    return np.random.default_rng(n).integers(0, 256, n, dtype=np.uint8)


def ends(liar: Liar, reason: str) -> None:
    """The link is down for this reason, and told the other end."""
    assert reason in liar.end.get(Down).reason
    goodbye = liar.hear()
    assert goodbye.kind == BYE
    assert goodbye.meta is not None
    assert reason in goodbye.meta.tobytes().decode()


def test_a_header_over_the_limit(liar: Liar) -> None:
    liar.say(encode(Raw(1, b"", None, noise(100_001)))[0])
    ends(liar, "header announces 100001 bytes of data; at most 100000 are allowed")


@pytest.mark.parametrize("n", [0, 1, HEADER_BYTES, MESSAGE_BYTES])
def test_garbage_for_a_header(liar: Liar, kind: Kind, n: int) -> None:
    if kind == "tls":  # a stream has no short messages: what is short waits for its rest
        n = max(n, HEADER_BYTES)
    liar.say(encode(Raw(1))[0])  # a whole one first: what it leaves in the buffers must not help
    assert liar.end.get(In).frame.kind == 1
    for _ in range(4):
        message = noise(n) if n else np.zeros(1, np.uint8)
        try:
            liar.say(message)
        except ChannelError:
            break  # the link has gone, as it should
    assert "header" in liar.end.get(Down).reason


def test_the_transports_own_kinds_cannot_be_said_again(liar: Liar) -> None:
    liar.say(encode(Raw(HELLO, b"", noise(9)))[0])
    ends(liar, f"unexpected frame of kind {HELLO}")


@pytest.mark.parametrize("n", [50, 60_000])
def test_a_wrong_digest_is_a_fault_and_the_link_goes_on(liar: Liar, n: int) -> None:
    data = noise(n)
    for wrong in (True, False):
        message, rest = encode(Raw(7, b"row 3", None, data, digest(data) ^ wrong))
        liar.say(message)
        if rest:
            liar.say_body(data)
        came = liar.end.get(In)
        assert came.frame.head == b"row 3"
        assert (came.fault is not None) == wrong
        assert came.fault is None or "digest of data" in came.fault


def test_a_body_that_stops_coming(liar: Liar) -> None:
    liar.say(encode(Raw(1, b"", None, noise(90_000)), 30_000)[0])
    liar.say_body(noise(30_000))
    assert "no progress" in liar.end.get(Down).reason


def test_a_body_that_is_left_out(liar: Liar) -> None:
    liar.say(encode(Raw(1, b"", None, noise(90_000)))[0])
    for i in range(3):
        liar.say(encode(Raw(2, bytes([i])))[0])
    assert "no progress" in liar.end.get(Down).reason  # and none of the later frames overtook it


def test_an_end_that_never_takes_anything(source: StoreSource, kind: Kind) -> None:
    liar = a_liar(kind, source, "deaf", LinkSettings(beat=0.1, silent_after=0.5, lost_after=1.0))
    for i in range(1000):
        liar.end.link.post(Frame(1, b"", None, noise(60)), newest=True)
        liar.end.link.post(Frame(2, i.to_bytes(2), None, noise(60)), newest=True)
    # whichever is noticed first on a busy machine: silence, or a piece that does not move
    reason = liar.end.until(Down).reason
    assert reason.startswith(("nothing heard for", "connection lost: no progress"))
    assert liar.end.link.join(WAIT)
    liar.sever()


def test_a_consumer_that_fails_ends_the_link(source: StoreSource, kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[object] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: told.append(args.exc_value))
    liar = a_liar(kind, source, "raising", SETTINGS)

    def refuse(n: int) -> U8:
        raise MemoryError(f"no {n} bytes")

    liar.end.link._allocate = refuse
    liar.say(encode(Raw(1, b"", None, noise(90_000)))[0])
    assert liar.end.get(Down).reason == "failed at this end: no 90000 bytes"
    assert liar.end.link.join(WAIT)
    assert [type(error) for error in told] == [MemoryError]
    liar.sever()
