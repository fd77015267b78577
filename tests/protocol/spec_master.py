"""Invariants 1 to 6 and 8 as functions of a trace: what the master owes."""

from __future__ import annotations

from collections import Counter
from math import inf

from gcdist.protocol import Peer
from gcdist.protocol import master_io as m
from gcdist.protocol import worker_io as w
from gcdist.protocol.messages import Tick
from tests.protocol.book import SEEN, Book, booked, every
from tests.protocol.proc import MASTER, Did
from tests.protocol.world import at_master


def check_1(trace: list[Did]) -> None:
    """Every OpenStep has one CloseStep, in time; earlier only for a reason."""
    opened: m.OpenStep | None = None
    done = 0
    book = Book()
    for did in at_master(trace):
        event = did.event
        if isinstance(event, m.OpenStep):
            assert opened is None
            opened = event
        closes = every(did.out, m.CloseStep)
        if opened is None:
            assert not closes, "closed without being open"
            book.before(event)
            book.after(event, did.out)
            continue
        due = opened.at + opened.terms.deadline
        overdue = event.at > due or (isinstance(event, Tick) and event.at >= due)
        assert len(closes) <= 1
        assert closes or not overdue, f"step {opened.step} is open after its deadline"
        if overdue:
            assert closes[0].why == "deadline"
        book.before(event)
        book.after(event, did.out)
        if closes:
            close = closes[0]
            assert close.step == opened.step
            SEEN[f"close {close.why}"] += 1
            alive = {r for r in book.possible if opened.decoder.counted_R[r]}  # type: ignore[attr-defined]
            match close.why:
                case "deadline":
                    assert overdue
                case "complete":
                    assert not alive, f"step {opened.step} closed while rows {alive} could come"
                case "count":
                    assert len(close.rows) == opened.terms.count
                case "stop":
                    assert isinstance(event, m.Stop)
            done += 1
            opened = None
        else:
            assert book.possible, f"step {opened.step} is open and nothing can come"
    assert opened is None
    assert done == sum(isinstance(did.event, m.OpenStep) for did in at_master(trace))


def check_2(trace: list[Did]) -> None:
    """A row counts at most once; CloseStep.rows are the rows of its Accumulate and Keep, and the ones recomputed here."""
    rows: list[int] = []
    for did, book in booked(trace):
        for told in did.out:
            match told:
                case m.Accumulate(late=False) | m.Keep():
                    rows.append(told.row)
                case m.CloseStep():
                    assert list(told.rows) == rows
                    assert len(set(rows)) == len(rows), f"step {told.step} counted {rows}"
                    before = [] if isinstance(did.event, m.OpenStep) else book.counted
                    own = isinstance(did.event, m.Arrived) and book.verdict(did.event) == "count"
                    assert rows == [*before, *([did.event.head.row] if own else [])]
                    rows = []


def check_3(trace: list[Did]) -> None:
    """A message counts if and only if its stamp is within the deadline, however late it is handled."""
    for did, book in booked(trace):
        event = did.event
        if not isinstance(event, m.Arrived):
            continue
        verdict = book.verdict(event)
        counts = [t for t in every(did.out, m.Accumulate, m.Keep) if not getattr(t, "late", False)]
        assert bool(counts) == (verdict == "count"), f"{verdict}: {did.out}"
        if counts:
            assert (counts[0].row, counts[0].step, counts[0].body is event.body) == (
                event.head.row,
                event.head.step,
                True,
            )
            SEEN["counted in time, handled after the deadline"] += did.now > book.closes
        SEEN[f"message: {verdict}"] += 1
        moved = any(t.late for t in every(did.out, m.Accumulate))
        SEEN["late message moved the shift"] += moved
        if verdict == "late" and book.plan is not None:
            older = book.vectors[book.owed[event.peer].sent.plan_id] != book.plan.trained
            assert not (older and moved), "a message of an older vector moved the shift"
            SEEN["late message of an older vector"] += older


def check_4(trace: list[Did]) -> None:
    """SendRound only against a credit, for the open step, rising, one outstanding."""
    for did, book in booked(trace):
        for told in every(did.out, m.SendRound):
            peer, event = told.peer, did.event
            now = isinstance(event, m.Credit) and event.peer == peer and book.in_turn(event)
            assert book.here(peer), f"{peer} is gone"
            assert now or peer in book.credit, f"{peer} gave no credit"
            assert now or peer not in book.owed
            step = event.step if isinstance(event, m.OpenStep) else book.open.step if book.open else None
            assert told.round.step == step, f"round of step {told.round.step} while {step} is open"
            assert told.round.step > book.last.get(peer, -1)
        rounds = [t.peer for t in every(did.out, m.SendRound)]
        assert len(set(rounds)) == len(rounds)


def check_5(trace: list[Did]) -> None:
    """Plans change at OpenStep only; a message is its round's or its link closes."""
    for did, book in booked(trace):
        event = did.event
        plan = event.plan if isinstance(event, m.OpenStep) else book.plan
        for told in every(did.out, m.SendRound):
            sent = told.round
            assert plan is not None
            assert sent.plan_id == plan.plan_id
            knew = book.knows.get(told.peer)
            assert (sent.assignment is None) == (knew is not None and knew[0] == plan.plan_id)
            if sent.assignment is not None:
                rows = [r for r in range(plan.rows) if plan.parts(r) and int(plan.worker_R[r]) == told.peer.worker]
                assert list(sent.assignment.rows) == rows
                assert list(sent.assignment.parts) == [plan.parts(r) for r in rows]
                assert list(sent.assignment.bits) == [tuple(plan.bits_RS[r].tolist()) for r in rows]
                assert sent.assignment.trained == plan.trained
                assert sent.assignment.partial == plan.partial
        closed = {t.peer for t in every(did.out, m.CloseLink)}
        if isinstance(event, m.Arrived | m.Credit):
            verdict = (
                book.verdict(event)
                if isinstance(event, m.Arrived)
                else "stranger"
                if not book.here(event.peer)
                else "late"
                if book.in_turn(event)
                else "broken"
            )
            assert closed == ({event.peer} if verdict == "broken" else set()), f"{verdict}: closed {closed}"
            if verdict in ("broken", "stranger"):
                assert not every(did.out, m.Accumulate, m.Keep, m.SendRound)
            SEEN["closed a cheat's link"] += verdict == "broken"
        elif isinstance(event, m.Joined):
            old = book.peers.get(event.peer.worker)
            assert closed == ({old} if old is not None and every(did.out, m.Admit) else set())
            SEEN["replaced before it was lost"] += bool(closed)
        else:
            assert not closed


def check_6(trace: list[Did]) -> None:
    """Weights and deadline are those fixed at OpenStep, whatever happened since."""
    for did, book in booked(trace):
        opened = did.event if isinstance(did.event, m.OpenStep) else book.open
        if isinstance(did.event, m.OpenStep) and did.event.terms.deadline < inf:
            assert any(getattr(t, "at", None) == did.event.at + did.event.terms.deadline for t in did.out)
        for told in every(did.out, m.Accumulate, m.Keep):
            if isinstance(told, m.Accumulate) and told.late:
                assert told.use.weight == 0
                continue
            assert opened is not None
            p = float(opened.terms.p_R[told.row])
            fixed = 1 / (1 - p) if p < 1 else 0.0
            if isinstance(told, m.Accumulate):
                assert told.use.weight == fixed
            else:
                assert told.use.weight is None
                SEEN["kept"] += 1
        if isinstance(did.event, m.Arrived) and book.verdict(did.event) == "late":
            assert not [t for t in every(did.out, m.Accumulate) if not t.late]


def check_8(trace: list[Did], cheaters: frozenset[Peer] = frozenset()) -> None:
    """Acceptance is settled before the next SendRound; TakeOut exactly when its holder or the row is gone."""
    holder: dict[int, Peer] = {}
    on_the_way: Counter[Peer] = Counter()
    book = Book()
    for did in trace:
        if did.who != MASTER:
            on_the_way[Peer(did.who, did.inc)] += len(every(did.out, w.Send))
            continue
        event = did.event
        book.before(event)
        if isinstance(event, m.Arrived):
            on_the_way[event.peer] -= 1
        was, before = dict(holder), book.plan
        plan = event.plan if isinstance(event, m.OpenStep) else book.plan
        book.after(event, did.out)
        if isinstance(event, m.Stop):  # nobody needs the shifts any more
            return
        gone = {r for r, p in was.items() if not book.here(p)}
        if isinstance(event, m.OpenStep):
            assert plan is not None
            sends_R = plan.weighted_R()
            for r, p in was.items():
                other = before is not None and plan.trained != before.trained
                if other or r >= plan.rows or not sends_R[r] or int(plan.worker_R[r]) != p.worker:
                    gone.add(r)
        out = [t.row for t in every(did.out, m.TakeOut)]
        assert sorted(out) == sorted(gone), f"took out {out}, gone are {gone}"
        for told in did.out:
            match told:
                case m.TakeOut(row=row):
                    del holder[row]
                case m.Accumulate() | m.Keep() if told.use.beta:
                    assert isinstance(event, m.Arrived)
                    assert holder.get(told.row, event.peer) == event.peer
                    holder[told.row] = event.peer
                case m.SendRound(peer=peer) if peer not in cheaters:
                    assert on_the_way[peer] == 0, f"a round to {peer} with {on_the_way[peer]} messages unsettled"
