"""What a peer can make the other end keep, print or try is bounded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest

from gcdist.exchange.link_frames import MOST_TEXT, bytes_of, link_settings, short_text, text_of
from gcdist.master.links import LEAST_STEPS_QUEUED, MOST_NAME, MOST_REASONS, MasterLinks
from gcdist.protocol import Peer
from gcdist.protocol.codec import Kind, pack_failed, pack_head, pack_hello
from gcdist.protocol.master_io import Admit, Failed, Joined
from gcdist.protocol.worker_io import LinkLost, Refused, SendFailed
from gcdist.transport import Frame, In, Link, LinkSettings, Plane, RefusedError, open_store
from gcdist.worker.links import WorkerLinks
from tests.exchange.test_injected_faults import HEAD, FakeLink, session
from tests.transport.conftest import House


class NoPlane:
    """Nobody can join; what the master's door would call is kept."""

    refuse: Callable[[str, str], None]

    def open(self, *about: object, on_refused: Callable[[str, str], None], on_notice: object) -> Any:
        type(self).refuse = staticmethod(on_refused)
        return type("Door", (), {"close": lambda self, over=False: None})()

    def join(self, *about: object) -> Any:
        raise RefusedError("not with me")

    def is_over(self) -> bool:
        return False


PLANE = cast(Plane, NoPlane())


class Master:
    def __init__(self) -> None:
        self.logged: list[tuple[int, str]] = []
        self.said: list[str] = []
        self.port = MasterLinks(session(), PLANE, lambda *line: self.logged.append(line), self.said.append)

    def join(self, name: str, ticket: int) -> FakeLink:
        link = FakeLink()
        self.port._joined(cast(Link, link), ticket, pack_hello(session().hello(name)))
        return link


@pytest.fixture
def master() -> Master:
    return Master()


def test_log_lines_count_only_after_admission(master: Master) -> None:
    link = master.join("rank1", 1)
    line = In(cast(Link, link), Frame(Kind.LOG, meta=bytes_of("hello")))
    master.port._emit(line)
    assert master.logged == []
    master.port.tell(Admit(Peer(0, 1)))
    master.port._emit(line)
    assert master.logged == [(1, "hello")]


@pytest.mark.parametrize("name", ["rank" + "9" * 5000, "x" * (MOST_NAME + 1)])
def test_long_names_are_refused_in_one_line(master: Master, name: str) -> None:
    link = master.join(name, 1)
    [reason] = link.closed
    assert len(reason) < 100
    assert master.port._links == {}


@pytest.mark.parametrize("name", ["rank" + "9" * 20, "rank٣", "rank-1", "rank", ""])
def test_odd_names_get_a_place_like_any_other(master: Master, name: str) -> None:
    master.join(name, 1)
    joined = master.port.next(None)
    assert isinstance(joined, Joined)
    assert joined.peer == Peer(0, 1)


def test_texts_are_cut(master: Master) -> None:
    huge = "é" * 10_000_000
    link = master.join("rank1", 1)
    master.port.next(None)
    master.port._emit(In(cast(Link, link), Frame(Kind.FAILED, pack_failed(0, 0), bytes_of(huge))))
    failed = master.port.next(None)
    assert isinstance(failed, Failed)
    assert len(failed.text.encode()) < MOST_TEXT + 100
    assert f"({len(huge.encode()) - MOST_TEXT} more bytes are left out)" in failed.text
    assert text_of(Frame(1, meta=bytes_of("short"))) == "short"
    assert len(short_text(huge).encode()) <= MOST_TEXT


def test_a_text_that_is_no_utf8_reaches_the_master() -> None:
    port = WorkerLinks(session(), PLANE, "rank1", 0)
    link = FakeLink()
    port._link = cast(Link, link)
    port.tell(SendFailed(3, 1, "cannot open \udcff.png" + "x" * 10**6))
    [frame] = [frame for frame in link.posted if frame.kind == Kind.FAILED]
    assert text_of(frame).startswith("cannot open \\udcff.png")
    assert len(text_of(frame)) <= MOST_TEXT


def test_bytes_that_wait_for_the_master_are_bounded(master: Master) -> None:
    link, limit = master.join("rank1", 1), link_settings(session()).max_bytes
    body = np.zeros(limit, np.uint8)
    message = In(cast(Link, link), Frame(Kind.MESSAGE, pack_head(HEAD), None, body))
    handled = 0
    for _ in range(100):  # handled at once: any number may come
        master.port._emit(message)
        while handled < 1 or master.port.inbox._events:
            master.port.next(None)
            handled += 1
    assert link.closed == []
    sent = 0
    while not link.closed:
        master.port._emit(message)
        sent += 1
        assert sent < 64
    assert sent >= LEAST_STEPS_QUEUED
    assert "bytes faster than they are handled" in link.closed[0]


def test_refusals_are_counted_by_reason_and_told_rarely(master: Master) -> None:
    refuse = NoPlane.refuse
    for _ in range(1000):
        refuse("192.0.2.1", "it said nothing for too long")
    refuse("192.0.2.2", "another reason")
    assert len(master.said) == 11
    assert master.said[-2] == "a peer was refused, 512 so far: it said nothing for too long (192.0.2.1)"
    for i in range(10_000):
        refuse("192.0.2.1", f"reason {i}")
    assert len(master.said) < MOST_REASONS + 30


def test_a_refusal_ends_only_a_worker_that_was_never_in_the_run() -> None:
    port = WorkerLinks(session(), PLANE, "rank1", 0)
    port._connect(0.0)
    first = port.inbox.get()
    assert isinstance(first, Refused)
    assert first.reason == "not with me"
    port.ever_linked = True
    port._connect(0.0)
    assert isinstance(port.inbox.get(), LinkLost)


def test_an_impostor_that_welcomes_and_refuses_ends_nobody() -> None:
    port = WorkerLinks(session(), PLANE, "rank1", 0)
    link = FakeLink()
    port.ever_linked = True
    port._emit(In(cast(Link, link), Frame(Kind.REFUSE, meta=bytes_of("go away"))))
    assert link.closed == ["the master refuses: go away"]  # then the link is down, and the worker joins again
    assert not port.inbox._events


def test_a_ticket_counter_that_somebody_raised_is_not_believed() -> None:
    source = open_store("127.0.0.1", 0, serve=True).named("raised")
    house = House(source, LinkSettings(), None)
    for _ in range(2):
        source.client().add("gcdist/raised/tickets", 10**12)
        master, _ = house.pair()
        assert master.ticket > 10**12
    house.close()
