"""A simulated worker: its driver and its port into the network."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import inf

from gcdist.exchange.injected_faults import Orders
from gcdist.exchange.message import Message
from gcdist.exchange.setup import Setup
from gcdist.protocol import Peer, WorkerMachine
from gcdist.protocol.codec import HEAD_NBYTES, Kind
from gcdist.protocol.master_io import (
    Arrived,
    Credit,
    Failed,
    Leaving,
)
from gcdist.protocol.messages import Head, Round
from gcdist.protocol.worker_io import (
    RoundIn,
    SendCredit,
    SendFailed,
    SendLeaving,
    SentRow,
    Sigterm,
    WorkerEvent,
)
from gcdist.simulator.clock import Clock, Coming
from gcdist.simulator.cores import Job
from gcdist.simulator.network import SMALL, Network
from gcdist.simulator.shared_gradients import SharedGradients, SharedView
from gcdist.transport import digest
from gcdist.types import U8
from gcdist.worker.driver import WorkerDriver
from gcdist.worker.pace import Foreseen, Pace
from gcdist.worker.partition_memory import memory_of
from gcdist.worker.ready_row import ReadyRow
from gcdist.worker.rows import RowMaker


@dataclass(slots=True)
class _Work:
    """What a worker is at; ``job`` None: its seconds of a core are over, and it is only held."""

    job: Job | None
    tag: object  # of what comes of it
    computing: bool
    wanted: bool = True


@dataclass(slots=True)
class _ForeseenRound:
    """A round that one event stands for."""

    sent: Round
    body: U8
    times: Foreseen
    back: Callable[[], None]
    coming: Coming


class _Later:
    """Something that a worker is to handle later, if its process still lives then."""

    __slots__ = ("coming", "life", "make", "tag", "worker")

    def __init__(self, worker: SimulatedWorker, make: Callable[[float], WorkerEvent], tag: object) -> None:
        self.worker, self.life, self.make, self.tag = worker, worker.lives, make, tag
        self.coming: Coming | None = None

    def __call__(self) -> None:
        self.worker._fire(self)


class SimulatedWorker:
    """One worker's driver and its port into the network."""

    def __init__(self, slot: int, setup: Setup, network: Network, shared: SharedGradients) -> None:
        self.slot = slot
        self.inc = -1
        self.lives = 0  # processes so far
        self._network = network
        self._clock = network.clock
        self._setup = setup
        self._shared = shared
        self._send_seconds = setup.config.simulate.send_seconds
        self._tagged: dict[object, list[Coming]] = {}
        self._jobs: dict[int, _Work] = {}  # by number
        self._queued: deque[tuple[object, Callable[[], None]]] = deque()  # partitions that wait for the one in work
        self.occupied_until = 0.0
        self._not_begun: tuple[object, float] = (None, 0.0)  # tag and beginning of a partition behind one in work
        self._throttled = (0.0, 1.0)  # until when, and the share of the time that the process runs
        self._numbers = itertools.count()
        self._waiting: list[Callable[[], None]] = []
        self._foreseen: _ForeseenRound | None = None
        self._begin()

    def _begin(self) -> None:
        """A process starts."""
        setup, config = self._setup, self._setup.config
        self.interrupt()
        self.lives += 1
        for tag in list(self._tagged):
            self.cancel(tag)
        for work in self._jobs.values():
            if work.job is not None:
                self._network.cores.give_up(work.job)
        self._jobs.clear()
        self._queued.clear()
        self.occupied_until = 0.0
        self._throttled = (0.0, 1.0)
        self._waiting.clear()
        self.orders = Orders(setup.delays)
        packed = config.simulate.pack_messages or bool(config.faults)
        view = SharedView(self._shared)

        def ready(row: int, done: list[float]) -> ReadyRow | None:
            return view.ready_row(row, done, self._network.until)

        self.rows = RowMaker(setup.quantizer, config.seed, view, memory_of(config), packed, ready)
        self.driver = WorkerDriver(
            WorkerMachine(config.cluster.retry_first, config.cluster.retry_most, seed=config.seed),
            self.rows,
            self,
            self.slot,
            self.orders,
            config.seed,
            Pace(config.simulate.compute_seconds, config.simulate.encode_seconds, True, self.work, self.computes),
            setup.state.name_at,
            scale_with_load=config.inject.scale_with_load,
            inside=config.inject.computing,
        )

    def kill(self, seconds: float | None = 1.0) -> None:
        """The process dies: its link breaks, nothing of it goes on. Another one starts ``seconds`` later; None: never."""
        self._network.drop(self, "killed")
        self._network.trouble.reborn(self.slot)
        self._begin()  # stands for the dead one: it has no link and does nothing
        if seconds is not None:
            life = self.lives

            def start() -> None:
                if self.lives == life:
                    self._begin()
                    self.connect(0.0)

            self._clock.at(self._clock.now + seconds, start, pressing=False)

    def throttle(self, seconds: float, share: float) -> None:
        """Work that begins in the next ``seconds`` takes 1/share times as long."""
        self.interrupt()
        self._throttled = self._clock.now + seconds, share

    def terminate(self) -> None:
        """SIGTERM."""
        self.interrupt()
        self.take(Sigterm)

    def take(self, make: Callable[[float], WorkerEvent]) -> None:
        """Handle an event; once it goes on, if the process is stopped."""
        if self._network.trouble.is_stopped(self.slot):
            self._waiting.append(lambda: self._feed(make))
        else:
            self._feed(make)

    def _feed(self, make: Callable[[float], WorkerEvent]) -> None:
        if not self.is_over():
            self.driver.feed(make(self._clock.now))
            if self.is_over():
                self._network.drop(self, "the worker ended")

    def is_over(self) -> bool:
        """Whether the process has ended by itself."""
        return self.driver.exit is not None

    def when_running(self, do: Callable[[], None]) -> None:
        """Now, or once the stopped process goes on, in order."""
        if self._network.trouble.is_stopped(self.slot):
            self._waiting.append(do)
        else:
            do()

    def wake(self) -> None:
        """The process goes on: what has waited comes in order."""
        waiting, self._waiting = self._waiting, []
        for do in waiting:
            do()

    # --- rounds that nothing interrupts ---

    def foresee(self, sent: Round, body: U8, at: float, back: Callable[[], None]) -> bool:
        """Take a round that comes at ``at`` as one event, if what it leads to is known; ``back``: it is on its way again."""
        if self._throttled[0] or self._waiting:
            return False
        work = self.driver.machine.foreseen(sent)
        times = None if work is None else self.driver.foresee(sent, work, at, self.occupied_until)
        if work is None or times is None:
            return False
        coming = self._clock.at(times.ready, self._reach, asked=times.asked)
        if times.done:
            self._shared.expect(sent, work, times.ready, times.done)
        self._foreseen = _ForeseenRound(sent, body, times, back, coming)
        return True

    def _reach(self) -> None:
        """The row of the foreseen round is ready."""
        found, self._foreseen = self._foreseen, None
        assert found is not None
        times = found.times
        if not times.done:
            self._replay(found)  # the cut comes before anything is done
            return
        self.occupied_until = times.free
        self._clock.resting = max(self._clock.resting, times.rests)
        self.driver.catch_up(RoundIn(times.at, found.sent, found.body), times.done, times.taken)
        if self.is_over():
            self._network.drop(self, "the worker ended")

    def interrupt(self) -> None:
        """Something comes between: a round that was foreseen is where it would be by now."""
        found, self._foreseen = self._foreseen, None
        if found is None:
            return
        self._clock.call_off(found.coming)
        if self._clock.now < found.times.at:
            found.back()
        else:
            self._replay(found)

    def _replay(self, found: _ForeseenRound) -> None:
        """Let happen what a round would have led to up to now, on a clock of its own; the rest is to come."""
        clock, past = self._clock, Clock()
        past.now = found.times.at
        self._clock = self._network.clock = past
        try:
            self._feed(lambda at: RoundIn(at, found.sent, found.body))
            while (at := past.next_at()) is not None and at <= clock.now:
                past.step()
        finally:
            self._clock = self._network.clock = clock
        clock.adopt(past)

    # --- the worker's port ---

    def now(self) -> float:
        """Virtual seconds."""
        return self._clock.now

    def later(self, at: float, make: Callable[[float], WorkerEvent], tag: object = None) -> None:
        """Deliver at that time, unless cancelled."""
        later = _Later(self, make, tag)
        later.coming = self._clock.at(at, later)
        if tag is not None:
            self._tagged.setdefault(tag, []).append(later.coming)

    def _fire(self, later: _Later) -> None:
        tag = later.tag
        if tag is not None:
            mine = self._tagged[tag]
            if len(mine) == 1:
                del self._tagged[tag]
            else:
                assert later.coming is not None
                mine.remove(later.coming)
        if self.lives != later.life:
            return
        if self._foreseen is not None:
            if tag == "wake":
                return  # of a round that is over
            self.interrupt()
        self.take(later.make)

    def work(
        self,
        seconds: float,
        make: Callable[[float], WorkerEvent],
        tag: object,
        floor: float,
        computing: bool,
        least: float = 0.0,
    ) -> None:
        """Deliver after so many seconds of a core, and not before ``floor``, unless cancelled.

        One partition is computed at a time: one whose result nobody wants any more still takes its time, and occupies the
        worker for ``least`` seconds, of which those beyond ``seconds`` take no core.
        """
        until, share = self._throttled
        seconds /= share if self._clock.now < until else 1.0
        shared = self._network.cores.shared
        busy = shared and computing and any(work.computing for work in self._jobs.values())
        if not shared or (seconds == least == 0.0 and not busy):
            begin = max(self._clock.now, self.occupied_until) if computing else self._clock.now
            end = begin + max(seconds, least)
            if computing:
                self.occupied_until, self._not_begun = end, (tag, begin)
            if end < inf:
                self.later(max(floor, end), make, tag)
            return

        def start() -> None:
            until, life = self._clock.now + least, self.lives
            job = self._network.cores.work(seconds, lambda: hold(until, life))
            self._jobs[number] = _Work(job, tag, computing)

        def hold(until: float, life: int) -> None:
            if until <= self._clock.now:
                end_it(life)
            else:
                self._jobs[number].job = None
                if until < inf:
                    self._clock.at(until, lambda: end_it(life))

        def end_it(life: int) -> None:
            if self.lives == life and self._end(number):
                self.later(max(floor, self._clock.now), make, tag)

        number = next(self._numbers)
        if busy:
            self._queued.append((tag, start))
        else:
            start()

    def computes(self) -> bool:
        """Whether a partition is being computed now."""
        return self.occupied_until > self._clock.now or any(work.computing for work in self._jobs.values())

    def _end(self, number: int) -> bool:
        """It is over: the next partition begins, if one waits; whether somebody wants what came of it."""
        work = self._jobs.pop(number)
        if work.computing and self._queued:
            self._queued.popleft()[1]()
        return work.wanted

    def cancel(self, tag: object) -> None:
        """Forget what was to be delivered with this tag; work that has begun goes on, as it does in a process."""
        for coming in self._tagged.pop(tag, []):
            self._clock.call_off(coming)
        if self._not_begun[0] == tag and self._not_begun[1] > self._clock.now:
            self.occupied_until = self._not_begun[1]
        if self._queued:
            self._queued = deque(queued for queued in self._queued if queued[0] != tag)
        for work in self._jobs.values():
            if work.tag == tag:
                work.wanted = False

    def send(self, head: Head, body: Message) -> None:
        """A message takes a core's time to leave, waits for its turn, then takes its time on the link."""
        seconds = self._send_seconds
        if not (seconds or self._network.turns.seconds):
            self._leave(head, body)
            return
        inc = self.inc

        def leave() -> None:
            self._network.turns.take(pass_by)

        def pass_by() -> None:
            if self.inc == inc:
                self._leave(head, body)

        if not seconds:
            leave()
        elif self._network.cores.shared:
            self._network.cores.work(seconds, leave)
        else:
            self._clock.at(self._clock.now + seconds, leave)

    def _leave(self, head: Head, body: Message) -> None:
        peer = Peer(self.slot, self.inc)
        sent = partial(self.take, lambda at: SentRow(at, head.step, head.row))
        if not self.orders.corrupts:
            made = partial(Arrived, peer=peer, head=head, body=body)
            self._network.up(self, SMALL + HEAD_NBYTES + body.nbytes, made, sent)
            return
        leaving = self.orders.outgoing(head, body)
        for left, out in zip(range(len(leaving) - 1, -1, -1), leaving, strict=True):
            if out.kind != Kind.MESSAGE:
                self._network.drop(self, f"worker {peer.rank} sent bytes that are no message")
                return
            wrong = out.digest is not None and out.digest != digest(out.body.payload)
            made = partial(Arrived, peer=peer, head=out.head, body=out.body, fault="wrong digest" if wrong else None)
            size = SMALL + HEAD_NBYTES + out.body.nbytes
            self._network.up(self, size, made, None if left else sent)

    def tell(self, instruction: SendCredit | SendFailed | SendLeaving) -> None:
        """A small message."""
        peer = Peer(self.slot, self.inc)
        match instruction:
            case SendCredit(step=step, why=why, held=held):
                self._network.up(self, SMALL, lambda at: Credit(at, peer, step, why, held))
            case SendFailed(step=step, partition=partition, text=text):
                self._network.up(self, SMALL + len(text), lambda at: Failed(at, peer, step, partition, text))
            case SendLeaving():
                self._network.up(self, SMALL, lambda at: Leaving(at, peer))

    def connect(self, after: float) -> None:
        """A new link after so many seconds."""
        self._network.join(self, after)
