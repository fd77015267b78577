"""The worker's half of the round loop: does what the worker machine says."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from math import inf
from typing import Protocol

from gcdist.exchange.message import Message
from gcdist.exchange.replica import ReplicaError
from gcdist.exchange.sidecar import stamp_held
from gcdist.model.gradients import PartitionResult, UserCodeError
from gcdist.protocol.last_events import LastEvents
from gcdist.protocol.messages import CODED_SUM, THE_MODEL, Assignment, Head, Round, Tick, Wake
from gcdist.protocol.order import partition_order
from gcdist.protocol.worker import WorkerMachine
from gcdist.protocol.worker_io import (
    Abort,
    Aborted,
    Astray,
    Commit,
    Compute,
    Connect,
    Discard,
    Encode,
    EncodedRow,
    Exit,
    Load,
    PartDone,
    Prefetch,
    RoundIn,
    Send,
    SendCredit,
    SendFailed,
    SendLeaving,
    Take,
    UserError,
    WorkerEvent,
    WorkerInstruction,
    Zero,
)
from gcdist.types import U8, DelayModel
from gcdist.worker.computing import Computing, InlineComputing, Make
from gcdist.worker.pace import Foreseen, Injected, Pace, foresee
from gcdist.worker.rows import RowMaker


class WorkerPort(Protocol):
    """The worker's world."""

    def now(self) -> float:
        """Seconds, monotonic."""
        ...

    def later(self, at: float, make: Callable[[float], WorkerEvent], tag: object = None) -> None:
        """Deliver ``make(at)`` at that time, behind what has been received by then."""
        ...

    def cancel(self, tag: object) -> None:
        """Forget what was to be delivered with this tag."""
        ...

    def send(self, head: Head, body: Message) -> None:
        """Send a message; SentRow answers. Never blocks."""
        ...

    def tell(self, instruction: SendCredit | SendFailed | SendLeaving) -> None:
        """Send a small message; never blocks."""
        ...

    def connect(self, after: float) -> None:
        """Make a new link after so many seconds; Linked, Refused or LinkLost answers."""
        ...


@dataclass(slots=True)
class _Row:
    """The row in hand: what was begun of it, and when its partitions were done (seconds since the round's receipt)."""

    begun: list[Compute] = field(default_factory=list)
    done: list[float] = field(default_factory=list)
    under_way: bool = False  # the last one begun is not done


class WorkerDriver:
    """Serves rounds in one worker.

    Args:
        machine: the protocol.
        rows: the arithmetic.
        port: events in, messages out.
        worker: slot of this worker, for the injected delays.
        delays: injected delays: a floor on the time from a round's arrival to its message, or as ``inside`` says.
        seed: of the delays.
        pace: simulated durations.
        name_of: names the parameter that a coordinate belongs to.
        coming: is told the step and the partitions that come next.
        computing: where the user's code runs.
        scale_with_load: an injected delay is spread over the partitions of a partial row: the r-th of l is done no earlier
            than r/l of it. Without, nothing is done before it.
        inside: an injected delay is spent inside the l partitions: each takes an l-th of it at least, and the worker is not
            free before the end of one that it has begun.
        last: takes the events with their instructions.
    """

    def __init__(
        self,
        machine: WorkerMachine,
        rows: RowMaker,
        port: WorkerPort,
        worker: int,
        delays: DelayModel,
        seed: int,
        pace: Pace | None = None,
        name_of: Callable[[int], str] = str,
        coming: Callable[[int, tuple[int, ...]], None] | None = None,
        computing: Computing | None = None,
        scale_with_load: bool = False,
        inside: bool = False,
        last: LastEvents | None = None,
    ) -> None:
        self.machine = machine
        self.worker = worker
        self.exit: Exit | None = None
        self._rows = rows
        self._port = port
        self._delays = delays
        self._seed = seed
        self._pace = pace or Pace()
        self._name_of = name_of
        self._coming = coming
        self._computing = computing or InlineComputing(lambda make: port.later(port.now(), make))
        self._scale_with_load = scale_with_load
        self._inside = inside
        self._last = last
        self._arrived = 0.0  # when the round in hand came
        self._load = 0  # partitions of a round of the newest plan
        self._partial = False  # its rows may be cut
        self._row = _Row()  # the row in hand
        self._computes = False  # a partition, now, in real time

    def feed(self, event: WorkerEvent) -> None:
        """Handle one event and do what it asks for."""
        match event:
            case RoundIn():
                self._note(event)
            case PartDone():
                try:
                    if not self._take(event):
                        return
                except UserCodeError as error:  # its gradient is not finite
                    event = UserError(event.at, event.step, _place(error, event.partition), self._text(error))
            case UserError(step=step, partition=partition) if partition >= 0 and not (
                self._pace.defer or self._waits_for(step, partition)
            ):
                return  # of a partition that was under way when its row was cut: nobody waits for it
        instructions: list[WorkerInstruction] = []
        try:
            instructions = self.machine.handle(event)
        finally:
            if self._last is not None:
                self._last.add(event, instructions)
        for instruction in instructions:
            self._do(instruction)

    def _note(self, event: RoundIn) -> None:
        """When a round came, and what its plan asks for."""
        self._arrived = event.at
        if (work := event.round.assignment) is not None:
            self._load = sum(len(parts) for parts in work.parts)
            self._partial = work.partial

    def catch_up(self, event: RoundIn, done: list[float], taken: float) -> None:
        """Do all that a round asks for whose row is ready now: `foresee` knew it, and nothing came between.

        Args:
            event: the round, which came some time ago.
            done: seconds from then until each partition of the message was done.
            taken: seconds until the row was complete or cut.
        """
        self._note(event)
        for told in self.machine.catch_up(event, len(done)):
            self._do(told)
        work = self.machine.assignment
        assert work is not None
        step, row, parts = event.round.step, work.rows[0], work.parts[0]
        if (body := self._rows.ready_message(step, row, done, taken)) is not None:
            self._send(self.machine.sending(len(body.payload)), body)
            return
        order = partition_order(self.machine.seed, step, row, parts) if work.partial else parts
        made = self._row = _Row([Compute(step, row, j, a) for j, a in order[: len(done)]], done)
        self.feed(self._deferred_row(self._port.now(), step, row, len(parts), made, taken))

    def foresee(self, sent: Round, work: Assignment, at: float, free: float) -> Foreseen | None:
        """When a round that comes at ``at`` leads to a message, if nothing comes between; None: that is not known.

        Only where work takes simulated time (`Pace`). ``work``: what the machine has `foreseen`; ``free``: until then the
        worker is occupied with a partition.
        """
        load = len(work.parts[0])
        seconds = self._delays.seconds(self.worker, sent.step, float(load), self._seed)
        injected = Injected(seconds, self._scale_with_load, self._inside)
        return foresee(self._pace, injected, load, work.partial, sent.cut, at, free)

    def _do(self, told: WorkerInstruction) -> None:
        match told:  # the most frequent first: each case before takes its time
            case Discard(row=row):
                self._rows.discard(row)
            case Load(round=sent, body=body):
                self._row = _Row()
                self._rows.begin(sent)
                self._computing.submit(lambda: self._take_parameters(sent, body))
            case SendCredit(why="stale" | "failed" | "astray" | "cut"):
                why = "busy" if told.why == "cut" and self._computes_now() else told.why
                self._port.tell(SendCredit(told.step, why, self._port.now() - self._arrived))
            case SendCredit() | SendFailed() | SendLeaving():
                self._port.tell(told)
            case Compute():
                self._compute(told)
            case Encode(step=step, row=row, parts=parts):
                self._encode(step, row, parts)
            case Send(head=head, body=body):
                self._send(head, body)
            case Prefetch(step=step, partitions=partitions):
                if self._coming is not None:
                    coming = self._coming
                    self._computing.submit(lambda: coming(step, partitions))
            case Take(round=sent, body=body):
                self._computing.submit(lambda: self._pass_by(sent, body))
            case Commit(row=row, beta=beta):
                self._rows.commit(row, beta)
            case Zero(row=row):
                self._rows.zero(row)
            case Abort(step=step):
                self._port.cancel(step)
                self._row.under_way = False
                self._say_aborted(step)
            case Connect(after=after):
                self._port.connect(after)
            case Wake(at=at):
                self._port.later(at, self.tick, "wake")
            case Exit():
                self.exit = told

    def _send(self, head: Head, body: Message) -> None:
        stamp_held(body.sidecar, self._port.now() - self._arrived)
        self._port.send(head, body)

    def tick(self, at: float) -> WorkerEvent:
        """The event that says that time has passed."""
        return Tick(at)

    def _say_aborted(self, step: int) -> None:
        """Aborted comes when the partition that is under way is done: only then this worker is free for a newer step."""
        if self._pace.work is not None:
            self._pace.work(0.0, lambda at: Aborted(at, step), None, 0.0, True, 0.0)
        else:
            self._computing.submit(lambda: lambda at: Aborted(at, step))

    def _take_parameters(self, sent: Round, body: U8) -> Make | None:
        try:
            self._rows.load(sent, body)
        except ReplicaError:
            return lambda at: Astray(at, sent.step)
        return None

    def _pass_by(self, sent: Round, body: U8) -> None:
        """Take the parameters of a round that nothing will be computed of."""
        with suppress(ReplicaError):  # what comes next does not fit either, and is told
            self._rows.take(sent, body)

    # --- partitions ---

    def _compute(self, told: Compute) -> None:
        """Begin a partition; PartDone comes when it is done, and not before its share of an injected delay."""
        if self._row.begun and self._row.begun[0].row != told.row:
            self._row = _Row()
        self._row.begun.append(told)
        self._row.under_way = True
        floor = self._part_floor(told.step, len(self._row.begun))
        least = self._delay(told.step) / max(self._load, 1) if self._inside else 0.0
        if floor == inf:
            return
        if self._pace.defer:
            self._after(
                self._pace.part_seconds,
                lambda at: PartDone(at, told.step, told.partition),
                told.step,
                floor,
                True,
                least,
            )
            return

        def job() -> Make | None:
            if not self._waits_for(told.step, told.partition):
                return None  # it was dropped while an older partition was under way
            begun, self._computes = self._port.now(), True
            try:
                result = self._rows.compute(told.step, told.partition)
                if least:
                    self._computing.hold(least - (self._port.now() - begun))
            except (UserCodeError, ValueError) as error:
                return self._failure(told.step, told.partition, error)
            finally:
                self._computes = False

            def done(at: float) -> WorkerEvent:
                return PartDone(at, told.step, told.partition, result)

            if floor > self._port.now():
                self._port.later(floor, done, told.step)
                return None
            return done

        self._computing.submit(job)

    def _computes_now(self) -> bool:
        """Whether a partition is being computed, though it may be that nobody waits for it any more."""
        return self._computes if self._pace.computes is None else self._pace.computes()

    def _waits_for(self, step: int, partition: int) -> bool:
        row = self._row
        return row.under_way and (row.begun[-1].step, row.begun[-1].partition) == (step, partition)

    def _take(self, event: PartDone) -> bool:
        """Add a partition's gradient to its row, if it is the one that is waited for."""
        if not self._waits_for(event.step, event.partition):
            return False
        row = self._row
        row.under_way = False
        row.done.append(event.at - self._arrived)
        if not self._pace.defer:
            self._add(row.begun[-1], event.body, row.done[-1])
        return True

    def _add(self, told: Compute, result: PartitionResult, seconds: float) -> None:
        self._rows.add(told.step, told.row, told.coefficient, result, seconds)

    def _part_floor(self, step: int, r: int) -> float:
        """Before this time the r-th partition of a partial row is not done."""
        if not self._partial or self._inside:
            return 0.0
        seconds = self._delay(step)
        return self._arrived + (seconds * (r / self._load) if self._scale_with_load else seconds)

    def _delay(self, step: int) -> float:
        """The injected delay of this worker's load, seconds."""
        return self._delays.seconds(self.worker, step, float(self._load), self._seed)

    def _after(
        self,
        seconds: float,
        make: Callable[[float], WorkerEvent],
        tag: object,
        floor: float,
        computing: bool,
        least: float = 0.0,
    ) -> None:
        """Deliver an event after so much work, and not before ``floor``; the worker is occupied for ``least`` seconds."""
        if self._pace.work is not None:
            self._pace.work(seconds, make, tag, floor, computing, least)
        else:
            self._port.later(max(floor, self._port.now()), make, tag)

    # --- messages ---

    def _encode(self, step: int, row: int, parts: int) -> None:
        floor = 0.0
        if not self._partial and not self._inside:
            floor = self._arrived + self._delay(step)
        if floor == inf:
            return
        taken = self._port.now() - self._arrived
        made = self._row
        if self._pace.defer:

            def message(at: float) -> WorkerEvent:
                return self._deferred_row(at, step, row, parts, made, taken)

            self._after(self._pace.encode_seconds, message, step, floor, False)
            return
        try:
            body = self._rows.encode(step, row, parts, taken, self._name_of)
        except ValueError as error:
            self._port.later(self._port.now(), self._failure(step, CODED_SUM, error))
            return
        self._after(self._pace.encode_seconds, lambda at: _encoded(at, step, row, body), step, floor, False)

    def _deferred_row(self, at: float, step: int, row: int, parts: int, made: _Row, taken: float) -> WorkerEvent:
        """The message of a row whose partitions are computed only now, when it is about to leave."""
        partition = CODED_SUM
        try:
            for told, seconds in zip(made.begun, made.done, strict=False):
                partition = told.partition
                self._add(told, self._rows.compute(step, partition), seconds)
            partition = CODED_SUM
            return _encoded(at, step, row, self._rows.encode(step, row, parts, taken, self._name_of))
        except (UserCodeError, ValueError) as error:
            return UserError(at, step, _place(error, partition), self._text(error))

    def _failure(self, step: int, partition: int, error: Exception) -> Make:
        text, place = self._text(error), _place(error, partition)
        return lambda at: UserError(at, step, place, text)

    def _text(self, error: Exception) -> str:
        text = str(error) if isinstance(error, UserCodeError) else "".join(traceback.format_exception_only(error))
        return f"worker {self.worker + 1}: {text.strip()}"


def _place(error: Exception, partition: int) -> int:
    """What failed, as the protocol says it: a partition, the coded sum, or the model as such."""
    if not isinstance(error, UserCodeError):
        return partition
    return THE_MODEL if error.of_model else error.partition


def _encoded(at: float, step: int, row: int, body: Message) -> EncodedRow:
    return EncodedRow(at, step, row, len(body.payload), body)
