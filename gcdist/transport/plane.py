"""The two planes that links can travel on, behind one interface: gloo, for private networks, and TLS, for any."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from gcdist.transport.base import BaseLink, LinkSettings
from gcdist.transport.channel import is_loopback, listening_address
from gcdist.transport.events import Emit
from gcdist.transport.join import Acceptor, OnJoin, is_over, join
from gcdist.transport.store import StoreSource
from gcdist.transport.tls_credentials import Credentials
from gcdist.transport.tls_door import OnRefused, TlsDoor
from gcdist.transport.tls_join import tls_join
from gcdist.types import U8

Allocate = Callable[[int], U8]
OnNotice = Callable[[str], None]  # one line for the log


class Door(Protocol):
    """The master's end of a plane: it lets workers in."""

    def close(self, over: bool = False) -> None:
        """Let no more workers in; ``over``: the run has ended, and the plane announces it if it can."""
        ...


class Plane(Protocol):
    """A way for the master and the workers of a run to make their links."""

    @property
    def name(self) -> str:
        """As the settings name it."""
        ...

    def open(
        self,
        on_join: OnJoin,
        emit: Emit,
        settings: LinkSettings,
        *,
        allocate: Allocate | None = None,
        on_refused: OnRefused = lambda who, reason: None,
        on_notice: OnNotice = lambda text: None,
    ) -> Door:
        """Be the master: see `Acceptor` and `TlsDoor`. JoinError."""
        ...

    def join(
        self,
        hello: bytes,
        emit: Emit,
        settings: LinkSettings,
        timeout: float = 60.0,
        *,
        allocate: Allocate | None = None,
    ) -> tuple[BaseLink, int]:
        """Be a worker: the running link and this life's ticket. JoinError, RefusedError."""
        ...

    def is_over(self) -> bool:
        """Whether the master has ended the run, as far as it is known."""
        ...

    def notes(self) -> list[tuple[str, str]]:
        """The line on the plane for the master's log: kind and text."""
        ...


@dataclass(frozen=True, slots=True)
class GlooPlane:
    """torch's gloo, met through a store. Not encrypted; the secret guards joining alone."""

    source: StoreSource
    secret: str | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """As the settings name it."""
        return "gloo"

    def open(
        self,
        on_join: OnJoin,
        emit: Emit,
        settings: LinkSettings,
        *,
        allocate: Allocate | None = None,
        on_refused: OnRefused = lambda who, reason: None,
        on_notice: OnNotice = lambda text: None,
    ) -> Acceptor:
        """Be the master. JoinError."""
        return Acceptor(
            self.source,
            on_join,
            emit,
            settings,
            self.secret,
            allocate=allocate,
            on_refused=lambda ticket, reason: on_refused(f"ticket {ticket}", reason),
            on_notice=on_notice,
        )

    def join(
        self,
        hello: bytes,
        emit: Emit,
        settings: LinkSettings,
        timeout: float = 60.0,
        *,
        allocate: Allocate | None = None,
    ) -> tuple[BaseLink, int]:
        """Be a worker. JoinError, RefusedError."""
        return join(self.source, hello, emit, settings, self.secret, timeout, allocate=allocate)

    def is_over(self) -> bool:
        """Whether the store has the mark of the end."""
        return is_over(self.source)

    def notes(self) -> list[tuple[str, str]]:
        """A warning of open links if others reach this machine; ChannelError without a route to the store."""
        address = listening_address(self.source.host, self.source.port)
        if is_loopback(address):
            return []
        lines = [("transport", "gloo: links are not encrypted; the network must be private (docs/security.md)")]
        if self.secret is None:
            lines.append(
                ("warning", f"no shared secret: whoever reaches {address} can join this run (docs/security.md)")
            )
        return lines


@dataclass(frozen=True, slots=True)
class TlsPlane:
    """TLS 1.3 to the master's one port; no store."""

    host: str
    port: int
    credentials: Credentials

    @property
    def name(self) -> str:
        """As the settings name it."""
        return "tls"

    def open(
        self,
        on_join: OnJoin,
        emit: Emit,
        settings: LinkSettings,
        *,
        allocate: Allocate | None = None,
        on_refused: OnRefused = lambda who, reason: None,
        on_notice: OnNotice = lambda text: None,
    ) -> TlsDoor:
        """Be the master. JoinError."""
        return TlsDoor(
            self.host, self.port, self.credentials, on_join, emit, settings, allocate=allocate, on_refused=on_refused
        )

    def join(
        self,
        hello: bytes,
        emit: Emit,
        settings: LinkSettings,
        timeout: float = 60.0,
        *,
        allocate: Allocate | None = None,
    ) -> tuple[BaseLink, int]:
        """Be a worker. JoinError, RefusedError."""
        return tls_join(self.host, self.port, self.credentials, hello, emit, settings, timeout, allocate=allocate)

    def is_over(self) -> bool:
        """Not known: a worker without release looks for a master until its timeout."""
        return False

    def notes(self) -> list[tuple[str, str]]:
        """The line on the protection of the links."""
        by = "the shared secret" if self.credentials.shared == "secret" else "certificates"
        return [
            (
                "transport",
                f"tls: links to {self.host}:{self.port} are encrypted and authenticated by {by}; sizes and times of "
                "messages stay visible, and workers that belong to the run are trusted",
            ),
            *(("warning", text) for text in self.credentials.warnings),
        ]
