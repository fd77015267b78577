"""The worker machine: the newest step wins, stale work is dropped between partitions, one message on its way at a time.

A partial row has a cut: when it comes, the partitions that are done are sent, and what is under way is dropped.

Pure, like the master's. The driver computes and encodes when told, and answers with PartDone and EncodedRow; it must hand
in announcements that came meanwhile before those answers, so that at most one partition is computed for a step that the
worker has been told is over.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Literal, TypeAlias

from gcdist.protocol.messages import Assignment, Head, Round, Tick, Wake
from gcdist.protocol.order import Part, partition_order
from gcdist.protocol.worker_io import (
    Abort,
    Aborted,
    Announced,
    Astray,
    Commit,
    Compute,
    Connect,
    Discard,
    Encode,
    EncodedRow,
    Exit,
    Linked,
    LinkLost,
    Load,
    PartDone,
    Prefetch,
    Refused,
    Released,
    RoundIn,
    Send,
    SendCredit,
    SendFailed,
    SendLeaving,
    SentRow,
    Sigterm,
    Take,
    UserError,
    WorkerEvent,
    WorkerInstruction,
    Zero,
)

_Phase: TypeAlias = Literal["computing", "encoding", "sending"]
REFUSED_EXIT = 2  # exit code of bad input: the user must change something


def _fits(new: Round, work: Assignment) -> bool:
    """Whether a round has one entry for each row."""
    return len(new.shift) == len(new.beta) == len(work.rows) == len(work.parts) == len(work.bits)


def _with(new: Round, work: Assignment) -> Round:
    """A round with its assignment, which one of a plan that is known comes without."""
    return Round(new.step, new.plan_id, new.params, new.base, new.shift, new.beta, work, new.cut)


@dataclass(slots=True)
class _Work:
    """The round in hand."""

    round: Round  # as it came
    todo: deque[tuple[int, int, float]]  # (row, partition, coefficient) not yet begun
    rows: deque[int]  # rows not yet encoded, the first one is being computed
    shift: dict[int, int]  # rows -> version of h_row that their messages subtract
    cut_at: float  # when the row in hand is sent as far as it is; inf: when it is complete
    cut: bool = False  # the cut has come
    left_out: bool = False  # the cut left out rows that were not begun
    done: int = 0  # partitions of the row in hand
    phase: _Phase = "computing"  # of the row in hand


@dataclass(slots=True)
class _Held:
    """Version of this worker's h_row, and whether its last message still waits for the master's verdict."""

    version: int = 0  # messages that have moved it
    pending: bool = False  # a message was sent; the next round says what became of it


@dataclass(slots=True)
class WorkerMachine:
    """One worker's side of the round protocol.

    Args:
        retry_first: seconds before the first new attempt to link; doubled each time.
        retry_most: longest wait between attempts.
        patience: seconds to wait for the master's release after a SIGTERM.
        seed: of the order in which the partitions of a partial row are taken.
    """

    retry_first: float = 0.5
    retry_most: float = 30.0
    patience: float = 5.0
    seed: int = 0
    _linked: bool = False  # the master has admitted this life
    _announced: int = -1  # the newest step that is known to be open: older work is stale
    _work: _Work | None = None  # the round in hand; None: its credit is out
    _assignment: Assignment | None = None  # rows of the newest plan that this life was sent
    _plan_id: int = -1  # of that plan
    _held: dict[int, _Held] = field(default_factory=dict)  # by row: this end of h_row
    _retry: float = 0.0  # seconds before the last attempt to link; 0: there was a link since
    _leave_by: float | None = None  # after a SIGTERM: when to go without the master's release
    _out: list[WorkerInstruction] = field(default_factory=list)  # what `handle` will return

    def handle(self, event: WorkerEvent) -> list[WorkerInstruction]:
        """Take one event, in stamp order; never blocks."""
        self._out = []
        match event:  # the most frequent first: each case before takes its time
            case SentRow():
                self._sent(event)
            case RoundIn():
                self._round(event)
            case PartDone(step=step):
                if self._current(step, "computing"):
                    self._part_done()
            case EncodedRow():
                self._encoded(event)
            case Announced(step=step):
                self._newer(step)
            case Tick(at=at):
                if self._leave_by is not None and at >= self._leave_by:
                    self._out.append(Exit(0, "asked to end; the master did not answer"))
                elif self._work is not None and at >= self._work.cut_at:
                    self._cut()
            case Aborted(step=step):
                if self._current(step, "computing"):
                    self._drop("stale")
            case Linked():
                self._linked, self._retry = True, 0.0
                if self._leave_by is None:
                    self._out.append(SendCredit(-1, "fresh"))
                else:
                    self._out.append(SendLeaving())
            case LinkLost():
                self._unlinked(event)
            case Refused(reason=reason):
                self._out.append(Exit(REFUSED_EXIT, f"the master refused this worker: {reason}"))
            case UserError():
                self._user_error(event)
            case Astray(step=step):
                if self._current(step, "computing"):
                    self._out.append(Abort(step))
                    self._drop("astray")
            case Sigterm():
                self._sigterm(event)
            case Released():
                self._out.append(Exit(0, "released by the master"))
        return self._out

    def restore(self, versions: Mapping[int, int]) -> None:
        """This worker holds h_row of these rows at these versions (a simulated one, when a checkpoint was read)."""
        self._held = {row: _Held(version) for row, version in versions.items()}

    # --- a round that nothing interrupts ---

    @property
    def assignment(self) -> Assignment | None:
        """Rows of the newest plan that this life was sent."""
        return self._assignment

    def foreseen(self, new: Round) -> Assignment | None:
        """The one row that a round is spent on if it comes now; None: it has several, or it would be dropped or refused."""
        work = new.assignment if new.assignment is not None else self._assignment
        if self._work is not None or self._leave_by is not None or self._announced > new.step or work is None:
            return None
        if (new.assignment is None and new.plan_id != self._plan_id) or len(work.rows) != 1 or not _fits(new, work):
            return None
        held, version = self._held.get(work.rows[0]), new.shift[0]
        fits = version == 0 or (held is not None and version in (held.version, held.version + held.pending))
        return work if fits else None

    def catch_up(self, event: RoundIn, done: int) -> list[WorkerInstruction]:
        """Be where `handle` would have come from a `foreseen` round by now: its row has ``done`` partitions and is encoded.

        The instructions are those that it would have given, without those that only take time (Prefetch, Wake, Compute,
        Abort, Encode).
        """
        self._out, new = [], event.round
        work = self._accepted(new)
        assert work is not None
        shift = dict(zip(work.rows, new.shift, strict=True))
        cut_at = inf if new.cut is None else event.at + new.cut
        cut = done < len(work.parts[0])
        self._work = _Work(new, deque(), deque(work.rows), shift, cut_at, cut, False, done, "encoding")
        self._out.append(Load(_with(new, work), event.body))
        return self._out

    def sending(self, nbytes: int) -> Head:
        """The head of the message of the row of `catch_up`, which leaves now: what `handle` gives for its EncodedRow."""
        work = self._work
        assert work is not None
        assert work.phase == "encoding"
        work.phase = "sending"
        row = work.rows[0]
        self._held[row].pending = True
        return Head(work.round.step, work.round.plan_id, row, work.done, work.shift[row], nbytes)

    # --- the link ---

    def _unlinked(self, event: LinkLost) -> None:
        """Drop the round in hand and the shifts: they belonged to the old incarnation."""
        if self._work is not None and self._work.phase != "sending":
            self._out.append(Abort(self._work.round.step))
        self._linked, self._work, self._assignment, self._plan_id = False, None, None, -1
        self._announced = -1
        self._out += [Zero(row) for row, held in self._held.items() if held.version or held.pending]
        self._held.clear()
        if self._leave_by is not None:
            self._out.append(Exit(0, f"asked to end; the link is gone ({event.reason})"))
            return
        self._retry = min(self.retry_most, 2 * self._retry if self._retry else self.retry_first)
        self._out.append(Connect(self._retry))

    def _sigterm(self, event: Sigterm) -> None:
        if self._leave_by is not None:
            return
        if not self._linked:
            self._out.append(Exit(0, "asked to end"))
            return
        self._leave_by = event.at + self.patience
        self._out += [SendLeaving(), Wake(self._leave_by)]

    # --- rounds ---

    def _current(self, step: int, phase: _Phase) -> bool:
        """Whether an answer of the driver belongs to the round in hand; others belong to dropped work."""
        return self._work is not None and self._work.round.step == step and self._work.phase == phase

    def _stale(self) -> bool:
        return self._work is not None and (self._announced > self._work.round.step or self._leave_by is not None)

    def _newer(self, step: int) -> None:
        self._announced = max(self._announced, step)
        if not self._stale() or self._work is None:
            return
        if self._work.phase == "encoding":  # waiting for a floor or for the encoder: nobody wants it any more
            self._out.append(Abort(self._work.round.step))
            self._drop("stale")
        elif self._work.phase == "computing":  # PartDone or Aborted will end it
            self._out.append(Abort(self._work.round.step))

    def _accepted(self, new: Round) -> Assignment | None:
        """The work of a round, its shifts settled; None: it does not fit, and this worker ends."""
        if new.assignment is not None:
            self._assignment, self._plan_id = new.assignment, new.plan_id
            for row in [r for r in self._held if r not in new.assignment.rows]:
                held = self._held.pop(row)
                if held.version or held.pending:
                    self._out.append(Zero(row))
        work = self._assignment
        if work is None or new.plan_id != self._plan_id or self._work is not None or not _fits(new, work):
            self._out.append(Exit(1, f"round {new.step} of plan {new.plan_id} does not fit: the master is not ours"))
            return None
        for row, version, beta in zip(work.rows, new.shift, new.beta, strict=True):
            if not self._settle(row, version, beta):
                return None
        return work

    def _round(self, event: RoundIn) -> None:
        new, work = event.round, self._accepted(event.round)
        if work is None:
            return
        self._work = _Work(
            new,
            deque((row, j, a) for row, parts in self._in_order(new.step, work) for j, a in parts),
            deque(work.rows),
            dict(zip(work.rows, new.shift, strict=True)),
            inf if new.cut is None else event.at + new.cut,
        )
        if self._stale():
            self._out.append(Take(_with(new, work), event.body))
            self._drop("stale")
            return
        # with the assignment always: the round that brought it may have been dropped as stale
        self._out.append(Load(_with(new, work), event.body))
        self._out.append(Prefetch(new.step, tuple(j for _, j, _ in self._work.todo)))
        if self._work.cut_at != inf:
            self._out.append(Wake(min(self._work.cut_at, self._leave_by or inf)))
        self._next_part()

    def _in_order(self, step: int, work: Assignment) -> list[tuple[int, tuple[Part, ...]]]:
        """The partitions of each row, as they are taken in this step."""
        rows = zip(work.rows, work.parts, strict=True)
        return [(row, partition_order(self.seed, step, row, parts) if work.partial else parts) for row, parts in rows]

    def _settle(self, row: int, version: int, beta: float) -> bool:
        """The master's version says what became of the pending message of this row; False if it cannot be."""
        held = self._held.get(row)
        if held is None:
            held = self._held[row] = _Held()
        if version == held.version + 1 and held.pending:
            self._out.append(Commit(row, beta))
        elif version == held.version:
            if held.pending:
                self._out.append(Discard(row))
        elif version == 0:
            self._out.append(Zero(row))
        else:
            self._out.append(
                Exit(1, f"the master holds version {version} of the shift of row {row}, this worker {held.version}")
            )
            return False
        held.version, held.pending = version, False
        return True

    def _part_done(self) -> None:
        assert self._work is not None
        self._work.done += 1
        self._next_part()

    def _cut(self) -> None:
        """The cut: send the done part of the row in hand, and leave out rows that were not begun."""
        work = self._work
        assert work is not None
        if work.cut:
            return
        work.cut, work.left_out = True, len(work.rows) > 1
        work.todo, work.rows = deque(), deque([work.rows[0]])
        if work.phase != "computing":
            return
        self._out.append(Abort(work.round.step))
        if self._stale():
            self._drop("stale")
        elif work.done == 0:
            self._drop("cut")
        else:
            self._encode()

    def _encode(self) -> None:
        work, parts = self._work, self._assignment
        assert work is not None
        assert parts is not None
        work.phase = "encoding"
        row = work.rows[0]
        self._out.append(Encode(work.round.step, row, work.done, len(parts.parts[parts.rows.index(row)])))

    def _next_part(self) -> None:
        work = self._work
        assert work is not None
        if self._stale():
            self._drop("stale")
            return
        if work.todo and work.todo[0][0] == work.rows[0]:
            row, partition, coefficient = work.todo.popleft()
            work.phase = "computing"
            self._out.append(Compute(work.round.step, row, partition, coefficient))
            return
        self._encode()

    def _encoded(self, event: EncodedRow) -> None:
        work = self._work
        if work is None or not self._current(event.step, "encoding") or event.row != work.rows[0]:
            return
        if self._stale():
            self._drop("stale")
            return
        work.phase = "sending"
        shift = work.shift[event.row]
        head = Head(event.step, work.round.plan_id, event.row, work.done, shift, event.nbytes)
        self._held[event.row].pending = True
        self._out.append(Send(head, event.body))

    def _sent(self, event: SentRow) -> None:
        work = self._work
        if work is None or not self._current(event.step, "sending") or event.row != work.rows[0]:
            return
        work.rows.popleft()
        work.done = 0
        if work.rows:
            self._next_part()
            return
        self._work = None
        self._out.append(SendCredit(event.step, "cut" if work.left_out else "sent"))

    def _user_error(self, event: UserError) -> None:
        if self._work is None or self._work.round.step != event.step or self._work.phase == "sending":
            return
        self._out.append(SendFailed(event.step, event.partition, event.text))
        self._drop("failed")

    def _drop(self, why: Literal["stale", "failed", "astray", "cut"]) -> None:
        assert self._work is not None
        step = self._work.round.step
        self._work = None
        self._out.append(SendCredit(step, why))
