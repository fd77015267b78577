"""The round loop: feeds the two machines with events and does what they say.

One file for both worlds. ``links.py`` and ``simulator/network.py`` are its ports: where events come from, and where messages
go.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from gcdist.exchange.injected_faults import described, schedule_of
from gcdist.exchange.message import Message
from gcdist.exchange.setup import Setup
from gcdist.exchange.sidecar import Sidecar
from gcdist.master.aggregator import Aggregator
from gcdist.master.downlink import Downlink, Outgoing, make_downlink
from gcdist.master.port import MasterPort, Say
from gcdist.master.round_result import RoundResult
from gcdist.master.round_times import RoundTimes
from gcdist.master.scheme import Scheme
from gcdist.model.vector_format import Shape
from gcdist.protocol.last_events import LastEvents
from gcdist.protocol.master import MasterMachine
from gcdist.protocol.master_io import (
    QUIET,
    Accumulate,
    Admit,
    Announce,
    Arrived,
    CloseLink,
    CloseStep,
    Credit,
    Drop,
    Failed,
    Halt,
    Keep,
    Leave,
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
    Stop,
    TakeOut,
)
from gcdist.protocol.messages import Fault, Peer, Tick, Wake
from gcdist.protocol.order import Part, partition_order
from gcdist.quantize.grid import measure
from gcdist.straggler import FaultSchedule
from gcdist.types import F32, F64, Plan, RunHaltedError, RunStoppedError, Seen

STUCK_SECONDS = 60.0  # seconds of a round before it is said that it takes long
TELL_SECONDS = 10.0  # seconds between two lines about missing workers
Record = list[tuple[MasterEvent, list[MasterInstruction]]]


@dataclass(slots=True)
class _Step:
    """What has happened in the open step so far."""

    result: CloseStep | None = None
    closed_at: float = 0.0
    seen: list[Seen] = field(default_factory=list)
    messages: int = 0
    payload_bytes: int = 0
    down_saved: int = 0
    choice_seconds: float = 0.0


@dataclass(slots=True, eq=False)
class MasterDriver:
    """Runs rounds at the master; single-threaded.

    Args:
        machine: the protocol.
        port: events in, messages out.
        aggregator: the arithmetic of what comes up.
        downlink: makes what goes down.
        say: takes log lines.
        min_workers: no step opens below.
        start_workers: the first step waits for so many, for ``start_timeout`` seconds once ``min_workers`` are here.
        all_must_fit: a worker that is refused before the first step ends the run.
        join_timeout: seconds to wait for ``min_workers``, at the start and later.
        record: every event with the instructions that it gave, in order, if given.
        faults: what is injected, when, at whom.
        times: of the workers' rounds.
        last: the newest events with their instructions.
    """

    machine: MasterMachine
    port: MasterPort
    aggregator: Aggregator
    downlink: Downlink
    say: Say
    min_workers: int
    start_workers: int
    start_timeout: float
    join_timeout: float
    record: Record | None = None
    all_must_fit: bool = False
    faults: FaultSchedule[Fault] = field(default_factory=lambda: FaultSchedule((), 0))
    times: RoundTimes = field(default_factory=RoundTimes)
    last: LastEvents = field(default_factory=LastEvents)
    _began: float | None = None
    _step: int = -1
    _load: tuple[int, F64] | None = None  # plan's number, and partitions (N,) of each worker in it
    _rows: tuple[Plan, dict[int, tuple[tuple[int, ...], tuple[Part, ...]]]] | None = None  # see `_row_of`
    _state: Outgoing | None = None
    _sent: dict[Peer, tuple[Plan, Shape, int]] = field(
        default_factory=dict
    )  # what each worker works by: plan, vector, step
    _wake: float | None = None
    _scheme: Scheme | None = None
    _current: _Step = field(default_factory=_Step)
    _plan: Plan | None = None
    _started: bool = False
    _closed_at: float | None = None  # when the last step was closed
    _failed: set[int] = field(default_factory=set)  # partitions whose failure has been told
    _misfits: set[int] = field(default_factory=set)  # workers that were refused before the first step
    _stop: str | None = None
    _halt: str | None = None

    @staticmethod
    def of(setup: Setup, port: MasterPort, say: Say, record: Record | None = None) -> MasterDriver:
        """The driver of a run, whatever its world."""
        cluster = setup.config.cluster
        return MasterDriver(
            MasterMachine(setup.workers, setup.hello("master"), setup.config.seed),
            port,
            Aggregator(setup.state.shape, setup.quantizer, setup.config.seed),
            make_downlink(setup),
            say,
            cluster.min_workers or 1,
            setup.workers,
            cluster.start_timeout,
            cluster.join_timeout,
            record,
            setup.all_must_fit,
            schedule_of(setup.config),
        )

    def run_round(self, step: int, scheme: Scheme) -> RoundResult:
        """One coded round: opens ``step`` with the model's parameters as they are, returns when it is closed.

        Raises:
            RunHaltedError: too few workers for too long, or a user's error that keeps coming back.
            RunStoppedError: Stop was among the events.
        """
        self._scheme, self._step = scheme, step
        state = self._state = self.downlink.next(step)
        self.port.between_rounds()
        self._current = _Step()  # from here on: what came since the last step was closed counts with this one
        self._wait_for_workers()
        live_N, ready_N = self.machine.members.live(), self.machine.members.ready()
        begun, choices = self.port.now(), scheme.choices
        plan = self._plan = scheme.plan_for(live_N, self.machine.members.holds())
        self._count_choice(scheme, choices, begun)
        promised = scheme.promises
        terms = scheme.terms(plan, live_N, ready_N)
        self.aggregator.reshape(scheme.maker.shape)
        self._inject_due(step)
        opened = self.port.now()
        if self._closed_at is not None:
            scheme.idle(opened - self._closed_at)
        self._feed(OpenStep(opened, step, step, plan, terms, scheme.code.open(plan, terms), state.since))
        self.aggregator.open(step)  # after the rows are out that leave with this plan, before anything arrives
        state.finish()
        begun, choices = self.port.now(), scheme.choices
        scheme.meanwhile(self.machine.members.live(), self.machine.members.holds())
        self._count_choice(scheme, choices, begun)
        while self._current.result is None:
            self._feed(self.port.next(self._wake))
        self._raise_if_over()
        closed, self._closed_at = self._current.result, self._current.closed_at
        self._say_stuck()
        counted = tuple(self.aggregator.counted)
        gradient = self.aggregator.close(closed.closing)
        return RoundResult(
            step,
            gradient,
            0.0 if gradient is None else measure(gradient)[1],
            closed.why,
            self._current.closed_at - opened,
            counted,
            plan,
            terms,
            live_N,
            tuple(self._current.seen),
            self._current.messages,
            self._current.payload_bytes,
            self._current.down_saved,
            promised,
            self._current.choice_seconds,
        )

    def _count_choice(self, scheme: Scheme, choices: int, begun: float) -> None:
        """Tell the scheme what a choice has taken, if it made one since ``begun``."""
        if scheme.choices > choices:
            self.port.chosen()
            self._current.choice_seconds += (took := self.port.now() - begun)
            scheme.chose(took)

    def _say_stuck(self) -> None:
        """A line about workers whose link lives and who are never done."""
        stuck = self.times.stuck(self.port.now(), STUCK_SECONDS)
        if stuck:
            told = ", ".join(f"worker {rank} at step {step} for {seconds:.0f} s" for rank, step, seconds in stuck[:5])
            more = f" and {len(stuck) - 5} more" if len(stuck) > 5 else ""
            self.say("warning", f"still computing: {told}{more}; their links live: slow, or hanging in the user's code")

    def gather(self) -> None:
        """Wait until the run can start; RunHaltedError, RunStoppedError."""
        self._wait_for_workers()

    def drain(self) -> None:
        """Handle what has arrived by now."""
        now = self.port.now()
        while True:
            event = self.port.next(now)
            if isinstance(event, Tick):
                return
            self._feed(event)

    def settle(self, step: int, next_at: Callable[[], float | None]) -> tuple[int, int]:
        """Let the workers drop stale work before ``step`` opens, and handle what comes until nothing is on its way.

        Args:
            step: the next one.
            next_at: when the next thing happens that is on its way; None: nothing is.

        Returns:
            Messages that came, and the bytes of their payloads; no step counts them.
        """
        self._current, self._closed_at = _Step(), None
        self._feed(Settle(self.port.now(), step))
        while (at := next_at()) is not None:
            self._feed(self.port.next(at))
        came, self._current = self._current, _Step()
        return came.messages, came.payload_bytes

    def restore(
        self,
        shifts: tuple[tuple[int, Peer, int, float], ...],
        cold: tuple[int, ...],
        busy: tuple[int, ...],
        h: dict[int, F32],
    ) -> None:
        """Take the shifts of a checkpoint, which the workers hold too: see `Restore`; ``h`` has h_row (d,) of each."""
        self._feed(Restore(self.port.now(), shifts, cold, busy))
        self.aggregator.restore(h, self.aggregator.predictor())

    def stop(self, reason: str) -> None:
        """Release everybody who has come by now."""
        if self._stop is None:
            self.drain()
        if self._stop is None:
            self._feed(Stop(self.port.now(), reason))

    def inject(self, step: int, fault: Fault, rank: int) -> None:
        """Make a fault happen at a worker that is here, or at the master (rank 0), as ``step`` opens."""
        self.say("fault", described(fault, rank))
        peer = next((peer for peer in self.machine.members.peers() if peer.rank == rank), None)
        if peer is not None or rank == 0:
            self.port.inject(peer, step, fault)

    # --- events in, instructions out ---

    def _inject_due(self, step: int) -> None:
        now = self.port.now()
        self._began = now if self._began is None else self._began
        here = sorted(peer.rank for peer in self.machine.members.peers())
        for fault, rank in self.faults.due(step, now - self._began, here):
            self.inject(step, fault, rank)

    def _wait_for_workers(self) -> None:
        self.drain()
        begun = self.port.now()
        give_up = until = begun + self.join_timeout
        tell = begun + (0.0 if self._started else TELL_SECONDS)
        while (here := self.machine.members.count()) < (need := self._needed()):
            self._raise_if_over()
            now = self.port.now()
            if here < self.min_workers:
                until = give_up
            elif until == give_up:
                until = min(give_up, now + self.start_timeout)
            if now >= until:
                if here >= self.min_workers:
                    text = f"starting with {here} of {self.start_workers} workers; the others take part once they join"
                    self.say("join", text)
                    break
                text = (
                    f"{here} of at least {self.min_workers} workers after {self.join_timeout:g} s of waiting "
                    "(cluster.min_workers, cluster.join_timeout)"
                )
                self.stop(text)
                raise RunHaltedError(text)
            if now >= tell:
                ranks = sorted(peer.rank for peer in self.machine.members.peers())
                self.say("join", f"waiting for {need} workers; joined so far: {ranks or 'none'}")
                tell = now + TELL_SECONDS
            self._feed(self.port.next(min(until, tell)))
        self._started = True
        self._raise_if_over()

    def _needed(self) -> int:
        """Workers that the next step waits for; at the start not for those that were refused."""
        if self._started:
            return self.min_workers
        return max(self.min_workers, self.start_workers - len(self._misfits))

    def _raise_if_over(self) -> None:
        if self._halt is not None:
            text = self._halt
            self.stop(text)
            raise RunHaltedError(text)
        if self._stop is not None:
            raise RunStoppedError(self._stop)

    def _feed(self, event: MasterEvent) -> None:
        if isinstance(event, Arrived):
            in_time = event.head.step == self._step and self._current.result is None
            self.times.arrived(event.peer, event.head.step, event.at, event.body, in_time)
            event = self._inspected(event)
        elif isinstance(event, Credit):
            self.times.freed(event.peer, event.step, event.at, event.why, event.held)
        elif isinstance(event, Lost):
            self.times.lost(event.peer, event.at)
            self._sent.pop(event.peer, None)
        elif isinstance(event, Stop):
            self._stop = event.reason
        elif isinstance(event, Failed):
            self._say_failure(event)
        elif isinstance(event, Tick) and self._wake is not None and event.at >= self._wake:
            self._wake = None
        instructions: list[MasterInstruction] = []
        try:
            instructions = self.machine.handle(event)
        finally:
            self.last.add(event, instructions)
        if self.record is not None:
            self.record.append((event, instructions))
        for instruction in instructions:
            self._do(instruction, event.at)

    def _say_failure(self, event: Failed) -> None:
        """A user's error: all of it the first time that a partition fails, then its first line."""
        new = event.partition not in self._failed
        self._failed.add(event.partition)
        self.say("error", event.text if new else event.text.splitlines()[0])

    def _inspected(self, event: Arrived) -> Arrived:
        """Check a message's bytes against the plan that its sender works by, before the machine counts it."""
        sent: Message = event.body
        self._current.messages += len(sent.payload) > 0  # probes carry no gradient
        self._current.payload_bytes += len(sent.payload)
        plan, shape, step = self._sent.get(event.peer, (None, self.aggregator.shape, -1))
        if event.fault is not None or plan is None or not 0 <= event.head.row < plan.rows or event.head.step != step:
            return event  # the machine says what is wrong with its head
        head, seed = event.head, self.machine.seed
        bits_S, parts = self._row_of(plan, head.row)
        if isinstance(sent.sidecar, Sidecar):
            parts = ()  # it never left the process: they are not looked at
        elif plan.partial:
            parts = partition_order(seed, head.step, head.row, parts)[: head.done]
        try:
            body = self.aggregator.checked(head, sent, bits_S, shape, [j for j, _ in parts])
        except ValueError as error:
            return replace(event, fault=str(error))
        work = body.sidecar.times if plan.partial else None
        return Arrived(event.at, event.peer, head, body, event.fault, work)

    def _row_of(self, plan: Plan, row: int) -> tuple[tuple[int, ...], tuple[Part, ...]]:
        """Bits of a row's segments, and its partitions: asked for with each message, made once a plan."""
        if self._rows is None or self._rows[0] is not plan:
            self._rows = plan, {}
        rows = self._rows[1]
        if row not in rows:
            rows[row] = tuple(plan.bits_RS[row].tolist()), plan.parts(row)
        return rows[row]

    def _load_of(self, peer: Peer) -> int:
        """Partitions that the worker computes in a round of the plan."""
        assert self._plan is not None
        if self._load is None or self._load[0] != self._plan.plan_id:
            load_R = np.diff(self._plan.A_RK.indptr).astype(np.float64)
            self._load = self._plan.plan_id, np.bincount(self._plan.worker_R, load_R).astype(np.float64)
        load_N = self._load[1]
        return int(load_N[peer.worker]) if peer.worker < len(load_N) else 0

    def _do(self, told: MasterInstruction, at: float) -> None:
        match told:
            case Accumulate():
                self.aggregator.accumulate(told)
            case SendRound(peer=peer, round=sent):
                assert self._plan is not None
                assert self._state is not None
                self._sent[peer] = self._plan, self.aggregator.shape, sent.step
                body = self._state.body(sent.base)
                self._current.down_saved += self._state.float32_nbytes - len(body)
                self.times.sent(peer, sent.step, self.port.now(), self._load_of(peer), len(body))
                self.port.send_round(peer, sent, body)
            case Observe(seen=seen):
                self._current.seen.append(seen)
                if self._scheme is not None:
                    self._scheme.observe(seen)
            case Keep():
                self.aggregator.keep(told)
            case CloseStep():
                self._current.result, self._current.closed_at, self._wake = told, at, None
            case TakeOut(row=row):
                self.aggregator.take_out(row)
            case Wake(at=when):
                self._wake = when
            case Drop(peer=peer, step=step, why=why, text=text):
                if why not in QUIET:
                    self.say("drop", f"worker {peer.rank}, step {step}: {(text or why).splitlines()[0]}")
            case Replan(reason=reason):
                if self._scheme is not None:
                    self._scheme.outdated = True
                self.say("members", reason)
            case Halt(text=text):
                self._halt = text
                if self._current.result is None:
                    self._feed(Stop(at, text))
            case Admit() | Refuse() | Announce() | CloseLink() | Leave():
                if isinstance(told, Refuse):
                    self.say("refuse", told.reason)
                    if told.differs and not self._started:
                        self._misfits.add(told.peer.worker)
                        if self.all_must_fit:
                            self._halt = f"a worker was refused before the first step: {told.reason}"
                elif isinstance(told, Admit):
                    self._misfits.discard(told.peer.worker)
                if not isinstance(told, Announce | Admit):
                    self._sent.pop(told.peer, None)
                    self.times.lost(told.peer, at)
                self.port.tell(told)
