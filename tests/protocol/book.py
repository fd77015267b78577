"""Who is here, what is owed and what may still count: bookkeeping of a trace, apart from the machines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import inf
from typing import Any, Literal

from gcdist.protocol import Assignment, Head, Peer, Round
from gcdist.protocol import master_io as m
from gcdist.types import Plan
from tests.protocol.proc import Did
from tests.protocol.world import at_master

SEEN: Counter[str] = Counter()  # situations that the checks came across: do the schedules reach them?
Verdict = Literal["stranger", "broken", "probe", "count", "late"]


@dataclass
class Owed:
    """A round on its way or in work."""

    sent: Round
    rows: dict[int, int]  # row -> shift, not yet arrived


@dataclass
class Book:
    """Who is here and what is owed, as the events and the sent rounds say."""

    peers: dict[int, Peer] = field(default_factory=dict)
    credit: set[Peer] = field(default_factory=set)
    owed: dict[Peer, Owed] = field(default_factory=dict)
    last: dict[Peer, int] = field(default_factory=dict)
    knows: dict[Peer, tuple[int, Assignment]] = field(default_factory=dict)
    plan: Plan | None = None
    vectors: dict[int, tuple[int, ...] | None] = field(default_factory=dict)  # plan -> parameters in its vector
    open: m.OpenStep | None = None
    closes: float = inf
    counted: list[int] = field(default_factory=list)
    possible: set[int] = field(default_factory=set)  # rows that may still be counted

    def here(self, peer: Peer) -> bool:
        return self.peers.get(peer.worker) == peer

    def verdict(self, event: m.Arrived) -> Verdict:
        """What must become of a message."""
        if not self.here(event.peer):
            return "stranger"
        owed, head = self.owed.get(event.peer), event.head
        if (
            event.fault is not None
            or owed is None
            or (head.step, head.plan_id) != (owed.sent.step, owed.sent.plan_id)
            or head.row not in owed.rows
            or owed.rows[head.row] != head.shift
            or not self._could_be_done(event.peer, head)
        ):
            return "broken"
        if self.open is None or head.step != self.open.step or event.at > self.closes:
            return "late"
        assert self.plan is not None
        return "count" if self.plan.bits_RS[head.row].any() else "probe"

    def _could_be_done(self, peer: Peer, head: Head) -> bool:
        """Whether a message may hold so many partitions."""
        work = self.knows[peer][1]
        load = len(work.parts[work.rows.index(head.row)])
        return head.done == load or (work.partial and 1 <= head.done < load)

    def _too_late(self, peer: Peer, at: float) -> bool:
        """Whether a round that left now would be cut before anything could be done."""
        if self.open is None or self.open.terms.cut_N is None:
            return False
        return bool(self.open.terms.cut_N[peer.worker] - max(0.0, at - self.open.at) <= 0)

    def in_turn(self, event: m.Credit) -> bool:
        """Whether a credit of somebody who is here is one that was owed."""
        owed = self.owed.get(event.peer)
        if event.peer in self.credit:
            return False
        if owed is None:
            return event.why == "fresh" and event.step == -1
        return event.why != "fresh" and event.step == owed.sent.step and not (event.why == "sent" and owed.rows)

    def before(self, event: Any) -> None:
        """A deadline that has passed ends the step before the event is looked at."""
        if self.open is not None and event.at > self.closes:
            self.open = None

    def after(self, event: Any, out: list[Any]) -> None:
        """Take in the event, then the instructions."""
        match event:
            case m.Arrived() if (verdict := self.verdict(event)) in ("count", "probe", "late"):
                del self.owed[event.peer].rows[event.head.row]
                if verdict != "late":
                    self.possible.discard(event.head.row)
                if verdict == "count":
                    self.counted.append(event.head.row)
            case m.Credit() if self.here(event.peer) and self.in_turn(event):
                owed = self.owed.pop(event.peer, None)
                if owed is not None and self.open is not None and owed.sent.step == self.open.step:
                    self.possible -= set(owed.rows)
                self.credit.add(event.peer)
                if self._too_late(event.peer, event.at):
                    self._written_off(event.peer)
            case m.Lost(peer=peer) | m.Leaving(peer=peer):
                self._gone(peer)
            case m.OpenStep():
                self.open, self.plan, self.counted = event, event.plan, []
                self.vectors[event.plan.plan_id] = event.plan.trained
                self.closes = event.at + event.terms.deadline
                self.possible = {
                    row
                    for row in range(event.plan.rows)
                    if event.plan.weighted_R()[row] and int(event.plan.worker_R[row]) in self.peers
                }
                for peer in self.credit:
                    if self._too_late(peer, event.at):
                        self._written_off(peer)
        for told in out:
            match told:
                case m.CloseLink(peer=peer):
                    self._gone(peer)
                case m.Admit(peer=peer):
                    self.peers[peer.worker] = peer
                case m.SendRound(peer=peer, round=sent):
                    if sent.assignment is not None:
                        self.knows[peer] = (sent.plan_id, sent.assignment)
                    self.owed[peer] = Owed(sent, dict(zip(self.knows[peer][1].rows, sent.shift, strict=True)))
                    self.credit.discard(peer)
                    self.last[peer] = sent.step
                case m.CloseStep():
                    self.open = None
                case m.Leave(peer=peer):
                    self._gone(peer)

    def _written_off(self, peer: Peer) -> None:
        assert self.plan is not None
        self.possible -= {r for r in range(self.plan.rows) if int(self.plan.worker_R[r]) == peer.worker}

    def _gone(self, peer: Peer) -> None:
        if self.here(peer):
            del self.peers[peer.worker]
            self.credit.discard(peer)
            self.owed.pop(peer, None)
            if self.plan is not None:
                self.possible -= {r for r in range(self.plan.rows) if int(self.plan.worker_R[r]) == peer.worker}


def booked(trace: list[Did]) -> Iterator[tuple[Did, Book]]:
    """The master's events with the book as it was when each was looked at."""
    book = Book()
    for did in at_master(trace):
        book.before(did.event)
        yield did, book
        book.after(did.event, did.out)


def every(out: list[Any], *kinds: type[Any]) -> list[Any]:
    return [told for told in out if isinstance(told, kinds)]
