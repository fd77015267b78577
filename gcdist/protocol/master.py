"""The master machine: members, rounds sent, messages that count, the end of a step.

Pure: no clock, no socket, no array. ``handle`` takes one stamped event and returns instructions; the same events give the
same instructions in the simulator and in real processes. What it protects is listed in docs/protocol.md.
"""

from __future__ import annotations

from dataclasses import replace
from math import inf, nextafter

from gcdist.protocol.installed import Installed
from gcdist.protocol.master_io import (
    Accumulate,
    Admit,
    Announce,
    Arrived,
    CloseLink,
    CloseStep,
    Credit,
    Drop,
    DropWhy,
    Failed,
    Halt,
    Joined,
    Keep,
    Leave,
    Leaving,
    Lost,
    MasterEvent,
    MasterInstruction,
    Observe,
    OpenStep,
    Refuse,
    Replan,
    Restore,
    SendRound,
    Settle,
    Silent,
    Stop,
    TakeOut,
)
from gcdist.protocol.master_state import OpenedStep, Outstanding, PeerState, Shift
from gcdist.protocol.members import Members
from gcdist.protocol.messages import (
    CODED_SUM,
    THE_MODEL,
    CloseWhy,
    CreditWhy,
    Head,
    Hello,
    Peer,
    Round,
    Tick,
    Wake,
)
from gcdist.protocol.order import Part
from gcdist.types import Decoder, Plan, Seen, Use, WorkTimes

_DROPPED: dict[CreditWhy, DropWhy] = {
    "stale": DropWhy.STALE,
    "failed": DropWhy.FAILED,
    "astray": DropWhy.ASTRAY,
    "cut": DropWhy.CUT,
    "busy": DropWhy.CUT,
}  # of credits that end a round without its message
FAILURES_TO_HALT = 3  # the run halts at the third failure of a partition without an arrival of it in between


class MasterMachine:
    """Membership, rounds by credit, counting and closing; see interfaces in ``master_io``.

    Args:
        workers: number of slots n.
        expected: the master's own Hello; a worker's that differs in anything but its name is refused.
        seed: of the order in which workers take the partitions of partial rows.
    """

    def __init__(self, workers: int, expected: Hello, seed: int = 0) -> None:
        self.members = Members(workers, expected)
        self.seed = seed  # of the order of partitions in partial rows, the same at both ends
        self._peers = self.members.standing
        self._installed: Installed | None = None  # plan of the newest step; rounds in hand may still be of an older one
        self._open: OpenedStep | None = None  # the open step; None: between two steps
        self._decoder: Decoder | None = None  # of the newest step: also says what late messages are for
        self._step = -1  # the newest step that was opened
        self._shifts: dict[int, Shift] = {}  # by row: h_row at the master, if a message has moved it
        self._failures: dict[int, int] = {}  # by partition: failures since one of its gradients was counted
        self._stopped = False  # Stop has come: whoever joins is let go
        self._out: list[MasterInstruction] = []  # what `handle` will return

    def restoring(self, at: float) -> Restore:
        """The event that gives another machine with the same peers these shifts; for checkpoints."""
        shifts = tuple((row, s.holder, s.version, s.beta) for row, s in self._shifts.items())
        cold = tuple(w for w, p in self._peers.items() if p.cold)
        return Restore(at, shifts, cold, tuple(w for w, p in self._peers.items() if p.busy))

    # --- events ---

    def handle(self, event: MasterEvent) -> list[MasterInstruction]:
        """Take one event, in stamp order; never blocks.

        Raises:
            ValueError: the driver opened a step out of turn.
        """
        self._out = []
        if self._open is not None and event.at > self._open.closes:
            self._close(self._open.closes, "deadline")
        match event:
            case Arrived():
                self._arrived(event)
            case Credit():
                self._credited(event)
            case Tick(at=at):
                if self._open is not None and at >= self._open.closes:
                    self._close(at, "deadline")
            case OpenStep():
                self._opened(event)
            case Joined(peer=peer, hello=hello):
                self._joined(event.at, peer, hello)
            case Lost(peer=peer, reason=reason):
                if self.members.state_of(peer) is not None:
                    self._gone(event.at, peer, f"worker {peer.rank} lost: {reason}")
            case Leaving(peer=peer):
                if self.members.state_of(peer) is not None:
                    self._out.append(Leave(peer))
                    self._gone(event.at, peer, f"worker {peer.rank} is leaving")
            case Silent(peer=peer, seconds=seconds):
                state = self.members.state_of(peer)
                if state is not None:
                    state.silent = seconds > 0
            case Failed():
                self._failed(event)
            case Stop():
                self._stop(event)
            case Settle():
                self._settled(event)
            case Restore(shifts=shifts, cold=cold, busy=busy):
                self._shifts = {row: Shift(peer, version, beta) for row, peer, version, beta in shifts}
                for state in self._peers.values():
                    state.cold, state.busy = state.peer.worker in cold, state.peer.worker in busy
        return self._out

    # --- membership ---

    def _joined(self, at: float, peer: Peer, hello: Hello) -> None:
        ahead = self.members.run_ahead(hello)
        if self._stopped or ahead < 0:  # a run of the same script that is over: it goes on
            self._out.append(Leave(peer))
            return
        if ahead > 0:
            text = f"worker {peer.rank} is ahead: at run {hello.run} of its script, the master at {hello.run - ahead}"
            self._out.append(CloseLink(peer, text))
            return
        reason = self.members.why_refuse(peer, hello)
        if reason is not None:
            self._out.append(Refuse(peer, reason, differs=" differs in its " in reason))
            return
        old = self._peers.get(peer.worker)
        if old is not None:
            self._out.append(CloseLink(old.peer, "replaced by a newer link of the same worker"))
            self._gone(at, old.peer, f"worker {peer.rank} joined again")
        self.members.enter(peer, hello)
        self._out += [Admit(peer), Replan(f"worker {peer.rank} joined")]
        if self._open is not None:
            self._out.append(Announce(peer, self._open.event.step))

    def _gone(self, at: float, peer: Peer, reason: str) -> None:
        """A peer's link is closed: write off its rows, and take out its shifts, whose other end is gone."""
        del self._peers[peer.worker]
        for row in [r for r, shift in self._shifts.items() if shift.holder == peer]:
            self._take_out(row)
        if not self._stopped:
            self._out.append(Replan(reason))
        if self._open is not None and self._installed is not None and peer.worker in self._installed.assignments:
            self._write_off(at, self._installed.assignments[peer.worker].rows)

    def _failed(self, event: Failed) -> None:
        if self.members.state_of(event.peer) is None:
            return
        where = {CODED_SUM: "the coded sum", THE_MODEL: "the model"}.get(
            event.partition, f"partition {event.partition}"
        )
        self._out.append(Drop(event.peer, event.step, DropWhy.ERROR, f"{where}: {event.text}"))
        count = self._failures.get(event.partition, 0) + 1
        self._failures[event.partition] = count
        if event.partition == THE_MODEL:
            self._out.append(Halt(f"the model cannot be trained as it is: {event.text}"))
        elif count >= FAILURES_TO_HALT:
            self._out.append(Halt(f"{where} failed {count} times in a row: {event.text}"))

    def _stop(self, event: Stop) -> None:
        self._stopped = True
        if self._open is not None:
            self._close(event.at, "stop")
        self._out += [Leave(state.peer) for state in self._peers.values()]
        self._peers.clear()

    def _settled(self, event: Settle) -> None:
        if self._open is not None:
            raise ValueError(f"settled for step {event.step} while step {self._open.event.step} is open")
        for state in self._peers.values():
            state.params = None  # a run that goes on from here has no earlier differences
            self._out.append(Announce(state.peer, event.step))

    def _break(self, at: float, peer: Peer, step: int, reason: str) -> None:
        """A peer broke the protocol: drop what it sent, close its link alone."""
        self._out += [Drop(peer, step, DropWhy.BROKEN, reason), CloseLink(peer, reason)]
        self._gone(at, peer, f"worker {peer.rank} closed: {reason}")

    # --- rounds ---

    def _opened(self, event: OpenStep) -> None:
        if self._open is not None:
            raise ValueError(f"step {event.step} opened while step {self._open.event.step} is open")
        if event.step <= self._step:
            raise ValueError(f"step {event.step} opened after step {self._step}")
        self._step = event.step
        self._decoder = event.decoder
        if self._installed is None or event.plan.plan_id != self._installed.plan.plan_id:
            self._install(event.plan)
        assert self._installed is not None
        ready = frozenset(w for w, p in self._peers.items() if p.ready)
        closes = event.at + event.terms.deadline
        self._open = OpenedStep(event, closes, ready, frozenset(self._peers))
        for worker, assignment in self._installed.assignments.items():
            if worker in self._peers:
                self._open.hopeful += sum([self._installed.weighted[r] for r in assignment.rows])
            else:
                self._open.lost.update(assignment.rows)
                self._open.settled.update(assignment.rows)
        if closes != inf:
            self._out.append(Wake(closes))
        # whoever has given credit has no older work to drop
        self._out += [Announce(state.peer, event.step) for state in self._peers.values() if not state.credit]
        for state in self._peers.values():
            if state.credit:
                self._send(state, event.at)
        self._close_if_done(event.at)

    def _install(self, plan: Plan) -> None:
        """Install a new plan. Shifts of rows that have left their holder are taken out; with a new vector, all are."""
        before, installed = self._installed, Installed.of(plan)
        same_vector = before is None or before.plan.trained == plan.trained
        self._installed = installed
        for row, shift in list(self._shifts.items()):
            if not (same_vector and installed.keeps_shift(shift.holder.worker, row)):
                self._take_out(row)

    def _take_out(self, row: int) -> None:
        del self._shifts[row]
        self._out.append(TakeOut(row))

    def _send(self, state: PeerState, at: float) -> None:
        """Send the open step to a peer that has given credit, once, if it has rows that can still arrive."""
        opened, installed, worker = self._open, self._installed, state.peer.worker
        if opened is None or installed is None or state.last_step >= opened.event.step:
            return
        assignment = installed.assignments.get(worker)
        if assignment is None:
            return
        if opened.settled.issuperset(assignment.rows):
            return
        terms = opened.event.terms
        cut = None if terms.cut_N is None else float(terms.cut_N[worker]) - max(0.0, at - opened.event.at)
        if cut is not None and cut <= 0.0:  # nothing could be done by then
            self._write_off(at, assignment.rows)
            return
        shifts = [self._shifts.get(row) for row in assignment.rows]
        plan_id = installed.plan.plan_id
        sent = Round(
            step=opened.event.step,
            plan_id=plan_id,
            params=opened.event.params,
            base=self._base(state),
            shift=tuple(s.version if s else 0 for s in shifts),
            beta=tuple(s.beta if s else 0.0 for s in shifts),
            assignment=None if state.plan_sent == plan_id else assignment,
            cut=None if cut is None or cut == inf else cut,
        )
        state.outstanding = Outstanding(
            step=sent.step,
            plan_id=plan_id,
            trained=installed.plan.trained,
            opened=opened.event.at,
            sent=max(at, opened.event.at),
            shift=dict(zip(assignment.rows, sent.shift, strict=True)),
            load=installed.loads[worker],
            partial=assignment.partial,
            aim=terms.aim,
            ready=worker in opened.ready,
            cold=state.cold,
        )
        state.credit, state.cold = False, False
        state.plan_sent, state.last_step, state.params = plan_id, sent.step, sent.params
        self._out.append(SendRound(state.peer, sent))

    def _base(self, state: PeerState) -> int | None:
        """The version that a peer's differences begin at: that of its last round, as the link keeps its order."""
        since = None if self._open is None else self._open.event.since
        return state.params if since is not None and state.params is not None and state.params >= since else None

    def _credited(self, event: Credit) -> None:
        state = self.members.state_of(event.peer)
        if state is None:
            return
        owed = state.outstanding
        if state.credit or (owed.step if owed else -1) != event.step or (owed is None) != (event.why == "fresh"):
            self._break(event.at, event.peer, event.step, f"credit {event.why!r} for step {event.step} out of turn")
            return
        if event.why == "sent" and owed is not None and owed.shift:
            self._break(event.at, event.peer, event.step, f"credit 'sent' with rows {sorted(owed.shift)} not sent")
            return
        state.outstanding, state.credit = None, True
        state.busy = event.why == "busy"
        if event.why == "astray":
            state.params = None
        if owed is not None and owed.shift:
            self._out.append(Drop(event.peer, owed.step, _DROPPED[event.why]))
            if self._open is not None and owed.step == self._open.event.step:
                self._open.cut[event.peer.worker] = owed
                self._write_off(event.at, tuple(owed.shift))
        self._send(state, event.at)

    # --- messages ---

    def _arrived(self, event: Arrived) -> None:
        head, peer = event.head, event.peer
        state = self.members.state_of(peer)
        if state is None:
            self._out.append(Drop(peer, head.step, DropWhy.UNLINKED))
            return
        owed = state.outstanding
        if event.fault is not None:
            self._break(event.at, peer, head.step, event.fault)
            return
        if (
            owed is None
            or (head.step, head.plan_id) != (owed.step, owed.plan_id)
            or owed.shift.get(head.row) != head.shift
            or not (1 if owed.partial else owed.load[head.row]) <= head.done <= owed.load[head.row]
        ):
            self._break(
                event.at,
                peer,
                head.step,
                f"message of step {head.step}, plan {head.plan_id}, row {head.row}, shift {head.shift} with {head.done} "
                "partitions was not asked for",
            )
            return
        del owed.shift[head.row]
        late = self._open is None or head.step != self._open.event.step
        seconds = event.at - owed.opened
        if event.work is not None and event.work.done:  # with one partition alone it would have been in so much earlier
            seconds -= event.work.row - event.work.done[0]
        if owed.aim is not None:  # what was counted was in time, and what was not was late, wherever the aim was
            seconds = nextafter(owed.aim, inf) if late else min(seconds, owed.aim)
        overhead = None if event.work is None else event.at - owed.sent - event.work.row
        self._see(head.row, peer.worker, head.step, seconds, False, owed, event.work, overhead)
        if late:
            self._late(event, owed)
        else:
            self._count(event, owed)

    def _count(self, event: Arrived, owed: Outstanding) -> None:
        opened, installed, row = self._open, self._installed, event.head.row
        assert opened is not None
        assert installed is not None
        if row in opened.settled:
            self._out.append(Drop(event.peer, event.head.step, DropWhy.SETTLED))
            return
        opened.settled.add(row)
        if not installed.weighted[row]:
            return
        opened.hopeful -= 1
        opened.counted.append(row)
        if self._failures:
            self._failures.pop(CODED_SUM, None)
            for partition, _ in self.parts_in(event.head):
                self._failures.pop(partition, None)
        use = _of_done(opened.event.decoder.arrive(row), event.head, owed)
        if use.weight is None:
            self._out.append(Keep(event.head.step, row, event.body, use))
        else:
            self._out.append(Accumulate(event.head.step, row, event.body, use, late=False))
        self._shifted(row, event.peer, use)
        self._close_if_done(event.at)

    def parts_in(self, head: Head) -> tuple[Part, ...]:
        """The content of a message of the open plan: the partitions done, in order, with coefficients."""
        assert self._installed is not None
        return self._installed.parts_in(self.seed, head)

    def _late(self, event: Arrived, owed: Outstanding) -> None:
        """A message of a closed step: it may still move the shift, if both ends hold the same one of the same vector."""
        row, installed = event.head.row, self._installed
        assert installed is not None
        assert self._decoder is not None
        shift = self._shifts.get(row)
        same = (shift.version if shift is not None else 0) == event.head.shift
        owned = installed.owns(event.peer.worker, row)
        # the age of a message of the last step is 1 also while no step is open
        age = self._step - event.head.step + (self._open is None)
        fits = same and owned and owed.trained == installed.plan.trained
        use = _of_done(self._decoder.late(row, age), event.head, owed) if fits else Use(0.0)
        if use.beta == 0.0:
            self._out.append(Drop(event.peer, event.head.step, DropWhy.LATE))
            return
        self._out.append(Accumulate(event.head.step, row, event.body, use, late=True))
        self._shifted(row, event.peer, use)

    def _shifted(self, row: int, peer: Peer, use: Use) -> None:
        if use.beta != 0.0:
            old = self._shifts.get(row)
            self._shifts[row] = Shift(peer, (old.version if old else 0) + 1, use.beta)

    def _see(
        self,
        row: int,
        worker: int,
        step: int,
        seconds: float,
        censored: bool,
        owed: Outstanding | None,
        work: WorkTimes | None = None,
        overhead: float | None = None,
        ready: bool = False,
    ) -> None:
        """Say an outcome; ``ready``: whether the worker was as the step opened, where it has no round in hand any more."""
        assert self._installed is not None
        plan = self._installed.plan
        load = owed.load[row] if owed else len(plan.parts(row))
        if owed.partial if owed else plan.partial:
            load = min(load, 1)  # its seconds are those of one partition
        ready = owed.ready if owed else ready
        cold = owed.cold if owed else False
        self._out.append(Observe(Seen(row, worker, step, float(load), seconds, censored, ready, cold, work, overhead)))

    # --- the end of a step ---

    def _write_off(self, at: float, rows: tuple[int, ...]) -> None:
        opened, installed = self._open, self._installed
        assert opened is not None
        assert installed is not None
        for row in rows:
            if row not in opened.settled:
                opened.settled.add(row)
                opened.lost.add(row)
                opened.hopeful -= installed.weighted[row]
        self._close_if_done(at)

    def _close_if_done(self, at: float) -> None:
        opened = self._open
        if opened is None:
            return
        count = opened.event.terms.count
        if opened.hopeful == 0 or opened.event.decoder.complete():
            self._close(at, "complete")
        elif count is not None and len(opened.counted) >= count:
            self._close(at, "count")

    def _close(self, at: float, why: CloseWhy) -> None:
        opened = self._open
        assert opened is not None
        self._open = None
        terms = opened.event.terms
        deadline = terms.deadline if terms.aim is None else terms.aim
        elapsed = max(0.0, min(at - opened.event.at, deadline))  # a loss may be stamped just before OpenStep
        for worker, assignment in self._installed.assignments.items() if self._installed else ():
            if worker not in opened.present:
                continue
            state = self._peers.get(worker)
            owed = state.outstanding if state else None
            if owed is None or owed.step != opened.event.step:
                owed = opened.cut.get(worker)
            for row in assignment.rows:
                if row in opened.lost:  # it could not come by the deadline, whenever the step ended
                    seconds = elapsed if deadline == inf else deadline
                elif row not in opened.settled:
                    seconds = elapsed
                else:
                    continue
                self._see(row, worker, opened.event.step, seconds, True, owed, ready=worker in opened.ready)
        closing = opened.event.decoder.close()
        self._out.append(CloseStep(opened.event.step, closing, tuple(opened.counted), why))


def _of_done(use: Use, head: Head, owed: Outstanding) -> Use:
    """The use of a message that holds some of its row's partitions."""
    return replace(use, beta=use.beta * head.done / owed.load[head.row], by_done=False) if use.by_done else use
