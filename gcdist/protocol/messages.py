"""What master and worker say to each other, and what both machines share: the tick and the wake-up.

A ``body`` is opaque to the machines: they pass it through and never look inside.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

from gcdist.types import Corruption, FaultKind

PROTOCOL = 4  # raised when a message changes; peers of another number are refused

CODED_SUM, THE_MODEL = -1, -2  # in the place of a partition, where something else failed

Body: TypeAlias = Any
CreditWhy: TypeAlias = Literal["fresh", "sent", "stale", "failed"]
CloseWhy: TypeAlias = Literal["complete", "deadline", "count", "stop"]


class Peer(NamedTuple):
    """One life of one worker, authenticated by its link and never read from a message."""

    worker: int  # slot 0..n-1, stable (the worker's name maps to it)
    inc: int  # incarnation ticket; larger is newer

    @property
    def rank(self) -> int:
        """How texts for people count workers: 1..n, the master is 0."""
        return self.worker + 1


class Hello(NamedTuple):
    """What a worker says of itself when it joins; the master refuses a mismatch and names the difference."""

    name: str
    protocol: int
    version: str
    fingerprint: str  # Layout.fingerprint of the start, also after parameters were unfrozen
    samples: int  # length of the data set
    config: str  # the settings that both ends must share, key=value a line, sorted
    proof: str = ""  # of the shared secret, checked by the transport
    holds: tuple[int, ...] | None = None  # partitions it can read; None = all; the master's: all that there are

    def difference(self, theirs: Hello) -> str | None:
        """The first thing in which a worker's Hello differs from the master's and must not, in words; else None.

        >>> Hello("m", 1, "0.1", "aa", 10, "c").difference(Hello("w", 1, "0.1", "aa", 12, "c"))
        'number of samples in the data set: 12, the master has 10'
        """
        for key, what in _MUST_AGREE.items():
            if key == "config" and self.config != theirs.config:
                mine, other = set(self.config.splitlines()), set(theirs.config.splitlines())
                odd = sorted(other - mine)[:3], sorted(mine - other)[:3]
                return f"{what}: {', '.join(odd[0]) or 'nothing'}; the master has {', '.join(odd[1]) or 'nothing'}"
            if getattr(self, key) != getattr(theirs, key):
                return f"{what}: {getattr(theirs, key)!r}, the master has {getattr(self, key)!r}"
        if theirs.holds is None:
            return None
        beyond = sorted(set(theirs.holds).difference(self.holds or theirs.holds))
        if beyond or not theirs.holds:
            found = ", ".join(map(str, beyond[:5])) + ", ..." * (len(beyond) > 5) if beyond else "none"
            return f"partitions held: {found}; the master has {_span(self.holds or ())}"
        return None


def _span(parts: tuple[int, ...]) -> str:
    return f"{min(parts)} to {max(parts)}" if parts else "not said which there are"


_MUST_AGREE = {
    "protocol": "protocol number",
    "version": "gcdist version",
    "fingerprint": "model (names, shapes, dtypes, requires_grad or buffers)",
    "samples": "number of samples in the data set",
    "config": "config",
}


class Assignment(NamedTuple):
    """What one worker does in every round of one plan."""

    rows: tuple[int, ...]
    parts: tuple[tuple[tuple[int, float], ...], ...]  # per row: (partition, coefficient)
    bits: tuple[tuple[int, ...], ...]  # per row: packed bits per segment; all zero = probe
    trained: tuple[int, ...] | None = None  # parameters in the vector, by number; None: those of the Hello


class Round(NamedTuple):
    """Master to worker: one step's work. The parameters (and float32 buffers) follow as body."""

    step: int
    plan_id: int
    params: int  # version carried
    base: int | None  # version it is a difference to; None = whole
    shift: tuple[int, ...]  # per row of this worker: the master's version of h_row; 0 = set h_row to zero
    beta: tuple[float, ...]  # per row: what the master applied to the pending message, where shift is the worker's + 1
    assignment: Assignment | None  # exactly when this incarnation has not been sent plan_id


class Head(NamedTuple):
    """Worker to master, fixed size; body = payload + sidecar (losses, energies, errors, times, buffers).

    The checksum of the body is the link's business: it covers every frame.
    """

    step: int
    plan_id: int
    row: int
    shard: int
    shift: int  # version of h_row that was subtracted
    nbytes: int  # of the payload


class Fault(NamedTuple):
    """Master to worker: something to do to itself on purpose, if its own settings allow this kind."""

    kind: FaultKind
    seconds: float | None = None
    rate: float | None = None  # bytes a second
    what: Corruption = "payload"  # of a corrupt message


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passes (either machine); handled last among events of equal stamp."""

    at: float


@dataclass(frozen=True, slots=True)
class Wake:
    """Deliver a Tick at this time (either machine); replaces the previous one."""

    at: float
