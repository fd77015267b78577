"""The worker's half of the round loop: does what the worker machine says."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Protocol

from gcdist.exchange.message import Message
from gcdist.exchange.replica import ReplicaError
from gcdist.exchange.sidecar import stamp_held
from gcdist.model.gradients import UserCodeError
from gcdist.protocol.messages import CODED_SUM, THE_MODEL, Head, Round, Tick, Wake
from gcdist.protocol.worker import WorkerMachine
from gcdist.protocol.worker_io import (
    Abort,
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


@dataclass(frozen=True, slots=True)
class Pace:
    """How long a worker's work takes in the simulator; zero where it really takes its time.

    ``defer``: compute a row only when its message is about to leave, so that work that becomes stale costs nothing.
    ``work``: takes seconds of work, an event, its tag and the time before which it must not come; delivers it as `later`
    does. None: the work has taken its time already.
    """

    part_seconds: float = 0.0
    encode_seconds: float = 0.0
    defer: bool = False
    work: Callable[[float, Callable[[float], WorkerEvent], object, float], None] | None = None


class WorkerDriver:
    """Serves rounds in one worker.

    Args:
        machine: the protocol.
        rows: the arithmetic.
        port: events in, messages out.
        worker: slot of this worker, for the injected delays.
        delays: injected delays: a floor on the time from a round's arrival to its message.
        seed: of the delays.
        pace: simulated durations.
        name_of: names the parameter that a coordinate belongs to.
        coming: is told the step and the partitions that come next.
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
    ) -> None:
        self.machine = machine
        self.worker = worker
        self.exit: Exit | None = None
        self.computed = 0  # partitions, for the log
        self._rows = rows
        self._port = port
        self._delays = delays
        self._seed = seed
        self._pace = pace or Pace()
        self._name_of = name_of
        self._coming = coming
        self._arrived = 0.0
        self._load = 0
        self._deferred: list[Compute] = []

    def feed(self, event: WorkerEvent) -> None:
        """Handle one event and do what it asks for."""
        if isinstance(event, RoundIn):
            self._arrived = event.at
            if event.round.assignment is not None:
                self._load = sum(len(parts) for parts in event.round.assignment.parts)
        for instruction in self.machine.handle(event):
            self._do(instruction)

    def _do(self, told: WorkerInstruction) -> None:
        match told:
            case Compute():
                self._compute(told)
            case Encode(step=step, row=row):
                self._encode(step, row)
            case Send(head=head, body=body):
                stamp_held(body.sidecar, self._port.now() - self._arrived)
                self._port.send(head, body)
            case SendCredit(why="stale" | "failed" | "astray"):
                self._port.tell(replace(told, held=self._port.now() - self._arrived))
            case SendCredit() | SendFailed() | SendLeaving():
                self._port.tell(told)
            case Load(round=sent, body=body):
                self._take_parameters(sent, body)
                self._deferred.clear()
            case Take(round=sent, body=body):
                with suppress(ReplicaError):  # what comes next does not fit either, and is told
                    self._rows.take(sent, body)
            case Commit(row=row, beta=beta):
                self._rows.commit(row, beta)
            case Discard(row=row):
                self._rows.discard(row)
            case Zero(row=row):
                self._rows.zero(row)
            case Abort(step=step):
                self._port.cancel(step)
            case Connect(after=after):
                self._port.connect(after)
            case Wake(at=at):
                self._port.later(at, self.tick, "wake")
            case Exit():
                self.exit = told
            case Prefetch(step=step, partitions=partitions):
                if self._coming is not None:
                    self._coming(step, partitions)

    def tick(self, at: float) -> WorkerEvent:
        """The event that says that time has passed."""
        return Tick(at)

    def _take_parameters(self, sent: Round, body: U8) -> None:
        try:
            self._rows.load(sent, body)
        except ReplicaError:
            self._port.later(self._port.now(), lambda at: Astray(at, sent.step))

    def _compute(self, told: Compute) -> None:
        if self._pace.defer:
            self._deferred.append(told)
        elif not self._try(told.step, told.partition, lambda: self._add(told)):
            return
        self._after(self._pace.part_seconds, lambda at: PartDone(at, told.step, told.partition))

    def _after(
        self, seconds: float, make: Callable[[float], WorkerEvent], tag: object = None, floor: float = 0.0
    ) -> None:
        """Deliver an event after so much work, and not before ``floor``."""
        if self._pace.work is not None:
            self._pace.work(seconds, make, tag, floor)
        else:
            self._port.later(max(floor, self._port.now()), make, tag)

    def _add(self, told: Compute) -> None:
        self._rows.add(told.step, told.row, told.partition, told.coefficient)
        self.computed += 1

    def _encode(self, step: int, row: int) -> None:
        floor = self._arrived + self._delays.seconds(self.worker, step, float(self._load), self._seed)
        if floor == float("inf"):
            return
        if self._pace.defer:
            self._after(self._pace.encode_seconds, lambda at: self._deferred_row(at, step, row), step, floor)
            return
        made: list[Message] = []
        if self._try(step, CODED_SUM, lambda: made.append(self._rows.encode(step, row, self._name_of))):
            self._after(self._pace.encode_seconds, lambda at: _encoded(at, step, row, made[0]), step, floor)

    def _deferred_row(self, at: float, step: int, row: int) -> WorkerEvent:
        try:
            while self._deferred and self._deferred[0].row == row:
                self._add(self._deferred.pop(0))
            return _encoded(at, step, row, self._rows.encode(step, row, self._name_of))
        except (UserCodeError, ValueError) as error:
            return UserError(at, step, _place(error, CODED_SUM), self._text(error))

    def _try(self, step: int, partition: int, work: Callable[[], None]) -> bool:
        """Do the user's work; an error in it becomes an event."""
        try:
            work()
        except (UserCodeError, ValueError) as error:
            text, place = self._text(error), _place(error, partition)
            self._port.later(self._port.now(), lambda at: UserError(at, step, place, text))
            return False
        return True

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
