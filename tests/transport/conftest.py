"""Pairs of links inside one process, and the check that nothing of them is left behind."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import pytest

from gcdist.transport import (
    BaseLink,
    Credentials,
    Event,
    GlooPlane,
    LinkSettings,
    Plane,
    StoreSource,
    TlsDoor,
    TlsPlane,
    open_store,
)

T = TypeVar("T")
WAIT = 30.0  # generous: nothing is measured by it
SHARED = "the secret of runs on the TLS plane that have no other"
Kind = Literal["gloo", "tls"]


@dataclass
class End:
    """One end of a link and its events."""

    events: queue.Queue[Event] = field(default_factory=queue.Queue)
    link: Any = None
    ticket: int = 0
    hello: bytes = b""

    def get(self, kind: type[T], timeout: float = WAIT) -> T:
        event = self.events.get(timeout=timeout)
        assert isinstance(event, kind), event
        return event

    def until(self, kind: type[T], timeout: float = WAIT) -> T:
        """The next event of ``kind``; others before it are dropped."""
        end = time.monotonic() + timeout
        while True:
            event = self.events.get(timeout=max(0.0, end - time.monotonic()))
            if isinstance(event, kind):
                return event


class House:
    """A master's door and any number of workers' links in this process."""

    def __init__(
        self, source: StoreSource, settings: LinkSettings, secret: str | None, kind: Kind = "gloo", port: int = 0
    ) -> None:
        self.source = source
        self.settings = settings
        self.secret = secret
        self.kind = kind
        self.masters: dict[int, End] = {}
        self.joined: queue.Queue[End] = queue.Queue()
        self.links: list[BaseLink] = []
        self.refused: list[tuple[str, str]] = []
        self.plane: Plane = GlooPlane(source, secret)
        if kind == "tls":
            self.secret = secret or SHARED
            self.plane = TlsPlane("127.0.0.1", port, Credentials.from_secret(self.secret, "master"))
        self.acceptor = self.plane.open(
            self._on_join, self._emit, settings, on_refused=lambda *why: self.refused.append(why)
        )
        self.port = self.acceptor.port if isinstance(self.acceptor, TlsDoor) else source.port
        self.workers = self.plane_of(self.secret)

    def plane_of(self, secret: str | None) -> Plane:
        """The plane of a worker that knows this secret."""
        if self.kind == "gloo":
            return GlooPlane(self.source, secret)
        return TlsPlane("127.0.0.1", self.port, Credentials.from_secret(secret or "nobody's secret", "worker"))

    def _on_join(self, link: BaseLink, ticket: int, hello: bytes) -> None:
        end = End(link=link, ticket=ticket, hello=hello)
        self.masters[id(link)] = end
        self.links.append(link)
        self.joined.put(end)

    def _emit(self, event: Event) -> None:
        self.masters[id(event.link)].events.put(event)

    def pair(self, settings: LinkSettings | None = None, **options: Any) -> tuple[End, End]:
        """The master's and the worker's end of a new link."""
        worker = End()
        worker.link, worker.ticket = self.workers.join(
            b"hello", worker.events.put, settings or self.settings, WAIT, **options
        )
        self.links.append(worker.link)
        return self.joined.get(timeout=WAIT), worker

    def close(self) -> None:
        self.acceptor.close()
        for link in self.links:
            link.close("the test is over")
        for link in self.links:
            assert link.join(WAIT), f"{link} did not end"


def ours() -> list[str]:
    return [
        thread.name
        for thread in threading.enumerate()
        if thread.name.startswith("gcdist-") and thread.name != "gcdist-lock"
    ]


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def eventually(true: Callable[[], bool], timeout: float = WAIT) -> bool:
    until = time.monotonic() + timeout
    while not true():
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


@pytest.fixture(scope="session")
def source() -> StoreSource:
    return open_store("127.0.0.1", 0, serve=True, timeout=WAIT)


@pytest.fixture(params=["gloo", "tls"])
def kind(request: pytest.FixtureRequest) -> Kind:
    """The plane; `gloo_only` and `tls_only` leave one out."""
    found: Kind = request.param
    return found


gloo_only = pytest.mark.parametrize("kind", ["gloo"], indirect=True)
tls_only = pytest.mark.parametrize("kind", ["tls"], indirect=True)


@pytest.fixture
def house(source: StoreSource, kind: Kind, request: pytest.FixtureRequest) -> Iterator[House]:
    """Settings and secret come from the marker-like parameter of the test, if it has one."""
    options = getattr(request, "param", {})
    settings, secret = options.get("settings", LinkSettings()), options.get("secret")
    made = House(source.named(request.node.nodeid), settings, secret, kind)
    yield made
    made.close()
    assert eventually(lambda: not ours()), ours()
