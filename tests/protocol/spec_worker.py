"""Invariants 7, 9 and 10 as functions of a trace: shifts at both ends, and what a worker owes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from gcdist.protocol import Assignment, Peer
from gcdist.protocol import master_io as m
from gcdist.protocol import worker_io as w
from gcdist.protocol.order import partition_order
from gcdist.types import F32
from tests.protocol.book import SEEN
from tests.protocol.plans import DIMENSION
from tests.protocol.proc import MASTER, Did


def check_7(trace: list[Did]) -> None:
    """h_row is bit-equal at both ends after every RoundIn, its version is told by the round, and H = sum h_row."""
    ours: dict[int, F32] = {}
    H = np.zeros(DIMENSION)
    sent: dict[tuple[Peer, int], dict[int, bytes]] = {}
    ends: dict[tuple[int, int], _End] = {}
    zero = np.zeros(DIMENSION, np.float32)
    for did in trace:
        if did.who == MASTER:
            for told in did.out:
                match told:
                    case m.Accumulate() | m.Keep() if told.use.beta:
                        h = ours.setdefault(told.row, zero.copy())
                        H -= h
                        move(h, told.body, told.use.beta)
                        H += h
                    case m.TakeOut(row=row):
                        H -= ours.pop(row)
                    case m.SendRound():
                        sent[told.peer, told.round.step] = {r: h.tobytes() for r, h in ours.items()}
            total = sum((h.astype(np.float64) for h in ours.values()), np.zeros(DIMENSION))
            assert np.allclose(H, total, rtol=0, atol=1e-9)
            continue
        end = ends.setdefault((did.who, did.life), _End())
        end.apply(did)
        if isinstance(did.event, w.RoundIn):
            master = sent[Peer(did.who, did.inc), did.event.round.step]
            for row in end.rows:
                mine = end.h.get(row, zero).tobytes()
                assert mine == master.get(row, zero.tobytes()), f"h of row {row} differs, worker {did.who}"
                SEEN["equal shifts that are not zero"] += mine != zero.tobytes()


def move(h: F32, message: F32, beta: float) -> None:
    """As at both ends of the runtime: product, then sum, each rounded."""
    h += message * np.float32(beta)


@dataclass
class _End:
    """A worker's shifts."""

    h: dict[int, F32] = field(default_factory=dict)
    version: dict[int, int] = field(default_factory=dict)
    pending: dict[int, F32] = field(default_factory=dict)
    rows: tuple[int, ...] = ()

    def apply(self, did: Did) -> None:
        if isinstance(did.event, w.RoundIn):
            sent = did.event.round
            self.rows = sent.assignment.rows if sent.assignment else self.rows
            for row, version in zip(self.rows, sent.shift, strict=True):
                held = self.version.get(row, 0)
                assert version in (0, held, held + 1), f"row {row}: version {version} to a worker that holds {held}"
                assert version != held + 1 or row in self.pending
                self.version[row] = version
        for told in did.out:
            match told:
                case w.Commit(row=row, beta=beta):
                    move(self.h.setdefault(row, np.zeros(DIMENSION, np.float32)), self.pending.pop(row), beta)
                case w.Discard(row=row):
                    del self.pending[row]
                case w.Zero(row=row):
                    self.h.pop(row, None)
                    self.pending.pop(row, None)
                    if not isinstance(did.event, w.RoundIn) or row not in self.rows:
                        self.version.pop(row, None)
                case w.Send(head=head, body=body):
                    self.pending[head.row] = body
            SEEN[type(told).__name__] += 1


def check_9(trace: list[Did]) -> None:
    """No Compute for a step that is over, one Send at a time, one credit a round; at most one partition for an old step."""
    lives: dict[tuple[int, int], _Worker] = {}
    for did in trace:
        if did.who != MASTER:
            lives.setdefault((did.who, did.life), _Worker()).take(did)
    for life in lives.values():
        assert max(life.wasted.values(), default=0) <= 1, "two partitions for a step that is over"
        SEEN["a partition for a step that is over"] += sum(life.wasted.values())


@dataclass
class _Worker:
    newest: int = -1
    round: int | None = None
    sending: bool = False
    told: list[tuple[float, int]] = field(default_factory=list)  # announcements by stamp, of this link
    wasted: Counter[int] = field(default_factory=Counter)  # partitions that ended after a newer announcement, by step

    def take(self, did: Did) -> None:
        event = did.event
        match event:
            case w.Announced(at=at, step=step):
                self.newest = max(self.newest, step)
                self.told.append((at, step))
            case w.RoundIn():
                assert self.round is None, "a round while another one is in hand"
                self.round = event.round.step
            case w.LinkLost():
                self.round, self.sending, self.newest = None, False, -1
                self.told.clear()
            case w.SentRow(step=step) if step == self.round:
                self.sending = False
            case w.PartDone(at=at, step=step):
                self.wasted[step] += any(stamp < at and newer > step for stamp, newer in self.told)
        for told in did.out:
            match told:
                case w.Compute(step=step):
                    assert step == self.round
                    assert step >= self.newest, f"computes step {step} after hearing of {self.newest}"
                case w.Send(head=head):
                    assert not self.sending
                    assert head.step == self.round
                    self.sending = True
                case w.SendCredit(step=step, why=why):
                    assert not self.sending
                    assert step == (-1 if why == "fresh" else self.round)
                    assert (why == "fresh") == isinstance(event, w.Linked)
                    self.round = None


def check_10(trace: list[Did]) -> None:
    """What is computed is the plan's alone: a row sent is its partitions, once, with their coefficients.

    It is all of them, or, where the row was cut, the first ones of an order that both ends know.
    """
    assignment: dict[tuple[int, int], Assignment] = {}
    made: dict[tuple[int, int], list[tuple[int, int, float]]] = {}
    for did in trace:
        if did.who == MASTER:
            continue
        key = (did.who, did.life)
        if isinstance(did.event, w.RoundIn):
            if did.event.round.assignment is not None:
                assignment[key] = did.event.round.assignment
            made[key] = []
        for told in did.out:
            match told:
                case w.Load(round=sent):
                    assert sent._replace(assignment=None) == did.event.round._replace(assignment=None)
                    assert sent.assignment == assignment[key], "the work of another plan"
                case w.Compute():
                    made[key].append((told.row, told.partition, told.coefficient))
                case w.Send(head=head):
                    mine = assignment[key]
                    parts = mine.parts[mine.rows.index(head.row)]
                    begun = [(j, a) for r, j, a in made[key] if r == head.row]
                    if mine.partial:  # a prefix of the order that both ends know; one more may have been under way
                        order = list(partition_order(0, head.step, head.row, parts))
                        assert sorted(order) == sorted(parts)
                        assert begun == order[: len(begun)]
                        assert 1 <= head.done <= len(begun) <= head.done + 1
                        SEEN["a row that was cut"] += head.done < len(parts)
                    else:
                        assert begun == list(parts)
                        assert head.done == len(parts)


def check_12(trace: list[Did]) -> None:
    """Differences begin at what the worker has, and are kept; every round's parameters are taken, once."""
    since: int | None = None
    ends: dict[tuple[int, int], int | None] = {}  # version that a life on its link has
    kept: dict[tuple[Peer, int], int | None] = {}
    for did in trace:
        if did.who == MASTER:
            since = did.event.since if isinstance(did.event, m.OpenStep) else since
            kept.update({(told.peer, told.round.step): since for told in did.out if isinstance(told, m.SendRound)})
            continue
        end = did.who, did.life
        taken = [told for told in did.out if isinstance(told, (w.Load, w.Take))]
        match did.event:
            case w.LinkLost() | w.Linked():
                ends[end] = None
            case w.Astray(step=step) if any(
                isinstance(told, w.SendCredit) and (told.step, told.why) == (step, "astray") for told in did.out
            ):
                ends[end] = None
                SEEN["astray"] += 1
            case w.RoundIn(round=sent):
                assert len(taken) == 1 or any(isinstance(told, w.Exit) for told in did.out)
                if sent.base is not None:
                    oldest = kept[Peer(did.who, did.inc), sent.step]
                    assert sent.base == ends[end], f"differences to {sent.base} for a worker that has {ends[end]}"
                    assert oldest is not None
                    assert sent.base >= oldest, f"differences to {sent.base} are not kept"
                    SEEN["differences over skipped versions"] += sent.base < sent.step - 1
                ends[end] = sent.params
                continue
        assert not taken
