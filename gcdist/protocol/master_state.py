"""The memory of the master machine: its peers, the open step, the shifts."""

from __future__ import annotations

from dataclasses import dataclass, field

from gcdist.protocol.master_io import OpenStep
from gcdist.protocol.messages import Peer, SampleSketch


@dataclass(slots=True)
class Outstanding:
    """A round that a peer has been sent and has not ended by a credit."""

    step: int
    plan_id: int
    trained: tuple[int, ...] | None  # parameters in the vector of that plan
    opened: float
    sent: float
    shift: dict[int, int]  # rows still owed -> version of h_row that they subtract
    load: dict[int, int]
    partial: bool  # its rows may come cut
    aim: float | None  # seconds after the opening that its cut aims at
    ready: bool
    cold: bool


@dataclass(slots=True)
class PeerState:
    """One live worker."""

    peer: Peer
    holds: tuple[int, ...] | None = None  # partitions that it can read; None = all
    looked: tuple[SampleSketch, ...] = ()  # that the master itself could not read
    credit: bool = False
    silent: bool = False
    cold: bool = True
    plan_sent: int = -1
    last_step: int = -1
    params: int | None = None  # version that its last round brought it to; None: none, or it lost it
    outstanding: Outstanding | None = None


@dataclass(slots=True)
class OpenedStep:
    """The open step."""

    event: OpenStep
    closes: float
    ready: frozenset[int]  # workers whose credit was in
    present: frozenset[int]  # workers that were live
    counted: list[int] = field(default_factory=list)
    settled: set[int] = field(default_factory=set)  # rows that are counted, arrived as probes, or written off
    lost: set[int] = field(default_factory=set)  # written off: they cannot arrive any more
    hopeful: int = 0  # weighted rows that can still be counted
    cut: dict[int, Outstanding] = field(
        default_factory=dict
    )  # workers that had nothing done by their cut: their rounds


@dataclass(slots=True)
class Shift:
    """Version of h_row, the peer that holds the same vector, and the beta of its last move."""

    holder: Peer
    version: int
    beta: float
