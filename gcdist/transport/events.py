"""The events and the interface of a link, without any mention of gloo."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from gcdist.transport.framing import Frame


class Link(Protocol):
    """One duplex connection to one peer, in one of its lives. Order is kept; nothing here blocks."""

    @property
    def bytes_in(self) -> int:
        """All bytes received: headers, beats, bodies."""
        ...

    @property
    def bytes_out(self) -> int:
        """All bytes sent."""
        ...

    @property
    def data_in(self) -> int:
        """Bytes of data received in whole frames."""
        ...

    @property
    def data_out(self) -> int:
        """Bytes of data sent in whole frames."""
        ...

    def post(self, frame: Frame, *, newest: bool = False, note: object | None = None) -> None:
        """Queue ``frame``; with ``newest`` it takes the place of a waiting frame of its kind; ``note`` asks for `Sent`."""
        ...

    def hinder(self, until: float, rate: float | None = None) -> None:
        """An injected fault, until then (monotonic): send at ``rate`` bytes a second; None: send and take nothing."""
        ...

    def close(self, reason: str, drain_seconds: float = 0.0) -> None:
        """End the link; queued frames get ``drain_seconds`` to leave."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class In:
    """A frame has arrived, to its last byte. ``fault`` names an error in its bytes (head and kind are right)."""

    link: Link
    frame: Frame
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class Sent:
    """The frame posted with this note has left: the peer made room for all of it and the system took the last byte."""

    link: Link
    note: object


@dataclass(frozen=True, slots=True)
class Silent:
    """Nothing heard for ``seconds``; 0.0: heard again."""

    link: Link
    seconds: float


@dataclass(frozen=True, slots=True)
class Down:
    """The link has ended: exactly once per link, and as its last event."""

    link: Link
    reason: str


Event: TypeAlias = In | Sent | Silent | Down
Emit: TypeAlias = Callable[[Event], None]  # called from the links' threads: must not block nor raise
