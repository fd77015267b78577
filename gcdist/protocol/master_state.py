"""The memory of the master machine: its peers, the open step, the shifts."""

from __future__ import annotations

from dataclasses import dataclass, field

from gcdist.protocol.master_io import OpenStep
from gcdist.protocol.messages import Peer, SampleSketch


@dataclass(slots=True)
class Outstanding:
    """A round that a peer has been sent and has not ended by a credit."""

    step: int  # of the round
    plan_id: int  # plan of its rows
    trained: tuple[int, ...] | None  # parameters in the vector of that plan
    opened: float  # when its step was opened: seconds of its messages begin there
    sent: float  # when the round was sent, at the opening or later
    shift: dict[int, int]  # rows still owed -> version of h_row that they subtract
    load: dict[int, int]  # its rows -> their partitions
    partial: bool  # its rows may come cut
    aim: float | None  # seconds after the opening that its cut aims at
    ready: bool  # the worker was ready when the step was opened
    cold: bool  # the first round of this life


@dataclass(slots=True)
class PeerState:
    """One live worker."""

    peer: Peer  # its index and life
    holds: tuple[int, ...] | None = None  # partitions that it can read; None = all
    looked: tuple[SampleSketch, ...] = ()  # that the master itself could not read
    credit: bool = False  # it is free for a round
    busy: bool = (
        False  # with a partition of its last round, which came to nothing: it is free for the next one behind that
    )
    silent: bool = False  # nothing is heard of it, its link stands: it gets no round
    cold: bool = True  # it has had no round yet
    plan_sent: int = -1  # the newest plan whose assignment it has
    last_step: int = -1  # of its newest round: one round a step
    params: int | None = None  # version that its last round brought it to; None: none, or it lost it
    outstanding: Outstanding | None = None  # the round in its hands

    @property
    def ready(self) -> bool:
        """Whether nothing older is known to keep it from the next round, and it is not silent."""
        done = self.credit or (self.outstanding is not None and not self.outstanding.shift)
        return done and not self.busy and not self.silent


@dataclass(slots=True)
class OpenedStep:
    """The open step."""

    event: OpenStep  # its plan, terms and decoder
    closes: float  # stamp of the deadline; inf: when complete
    ready: frozenset[int]  # workers that were ready
    present: frozenset[int]  # workers that were live
    counted: list[int] = field(default_factory=list)  # rows in order of arrival
    settled: set[int] = field(default_factory=set)  # rows that are counted, arrived as probes, or written off
    lost: set[int] = field(default_factory=set)  # written off: they cannot arrive any more
    hopeful: int = 0  # weighted rows that can still be counted
    # rounds that ended without their message, by the worker's index: outcomes are seen by them at the close
    cut: dict[int, Outstanding] = field(default_factory=dict)


@dataclass(slots=True)
class Shift:
    """Version of h_row, the peer that holds the same vector, and the beta of its last move."""

    holder: Peer  # who has the other end; it goes with its life
    version: int  # messages that have moved it
    beta: float  # of the last of them
