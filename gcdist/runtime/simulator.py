"""The same run on a virtual clock: the same machines and drivers, real gradients, simulated time and network.

A worker's row is computed only when its message is about to leave, and each partition once for everybody who needs it: the
gradient of (step, partition) is the same wherever it is computed.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable
from functools import partial

from gcdist.protocol import Peer, Round, WorkerMachine
from gcdist.protocol.codec import Kind, pack_head, pack_round
from gcdist.protocol.master_io import (
    Admit,
    Announce,
    Arrived,
    CloseLink,
    Credit,
    Failed,
    Joined,
    Leave,
    Leaving,
    Lost,
    MasterEvent,
    Refuse,
    Silent,
)
from gcdist.protocol.messages import Fault, Head, Tick
from gcdist.protocol.worker_io import (
    Announced,
    Linked,
    LinkLost,
    Refused,
    Released,
    RoundIn,
    SendCredit,
    SendFailed,
    SendLeaving,
    SentRow,
    Sigterm,
    WorkerEvent,
)
from gcdist.runtime.aggregate import Message
from gcdist.runtime.clock import Clock, Coming
from gcdist.runtime.cores import Cores, Job
from gcdist.runtime.driver import MasterDriver, Record, Say
from gcdist.runtime.faults import Orders
from gcdist.runtime.rows import RowMaker
from gcdist.runtime.serving import Pace, WorkerDriver
from gcdist.runtime.session import Session
from gcdist.runtime.shared import SharedGradients, SharedView
from gcdist.runtime.trouble import Trouble
from gcdist.transport import digest
from gcdist.types import U8, RunHaltedError

SMALL = 200  # bytes of a message without a body, as the links frame it


class Network:
    """The master's world and all workers in it: links with latency and bandwidth, one order per direction and link."""

    def __init__(self, session: Session, clock: Clock) -> None:
        self.clock = clock
        self.bytes_up = 0
        self.bytes_down = 0
        self._session = session
        self._events: deque[MasterEvent] = deque()
        self._free: dict[tuple[int, bool], float] = {}
        self._wires: dict[tuple[int, bool], deque[tuple[int, Callable[[], None]]]] = {}
        self.workers: dict[int, SimulatedWorker] = {}
        self._tickets = itertools.count(1)
        cluster = session.config.cluster
        self.cores = Cores(clock, session.config.simulate.cores)
        self.trouble = Trouble(
            clock,
            cluster.silent_after,
            cluster.lost_after,
            lambda peer, seconds: self._events.append(Silent(clock.now, peer, seconds)),
            self._lose,
            lambda slot: Peer(slot, self.workers[slot].inc),
            lambda slot: self.workers[slot].wake(),
        )
        self._asleep = 0.0  # the master is stopped, or at its own work, until then

    # --- the master's port ---

    def now(self) -> float:
        """Virtual seconds."""
        return self.clock.now

    def next(self, until: float | None) -> MasterEvent:
        """The next event for the master; a Tick once nothing is left before ``until``."""
        while not self._events:
            at = self.clock.next_at()
            if until is not None and (at is None or at > until):
                self.clock.now = max(until, self.clock.now)
                return Tick(self.clock.now)
            if at is None:
                raise RunHaltedError("the simulation has nothing left to happen and the step has no deadline")
            self.clock.step()
        return self._events.popleft()

    def next_at(self) -> float | None:
        """When the next thing happens; None: nothing is on its way or in work (but for workers that will join again)."""
        if self._events:
            return self.clock.now
        return self.clock.next_at() if self.clock.pressing else None

    def tell(self, instruction: Admit | Refuse | Announce | CloseLink | Leave) -> None:
        """Deliver to one worker after the link's time."""
        worker = self.workers.get(instruction.peer.worker)
        if worker is None or worker.inc != instruction.peer.inc:
            return
        inc = worker.inc
        match instruction:
            case Admit():
                self.down(worker, SMALL, lambda at: Linked(at, inc))
            case Refuse(reason=reason):
                self.down(worker, SMALL, lambda at: Refused(at, reason))
            case Announce(step=step):
                self.down(worker, SMALL, lambda at: Announced(at, step))
            case CloseLink(reason=reason):
                self.down(worker, 0, lambda at: LinkLost(at, reason))
            case Leave():
                self.down(worker, SMALL, Released)

    def send_round(self, peer: Peer, sent: Round, state: U8) -> None:
        """Deliver a round; its parameters take their time on the link."""
        worker = self.workers[peer.worker]
        if worker.inc != peer.inc:
            return  # its link is gone, and the master will hear of it
        self.down(worker, SMALL + len(pack_round(sent)) + len(state), lambda at: RoundIn(at, sent, state))

    def inject(self, peer: Peer | None, step: int, fault: Fault) -> None:
        """Make a fault happen at a worker, or at the master (None)."""
        seconds = fault.seconds or 0.0
        if peer is None:
            if fault.kind == "kill":
                raise RunHaltedError("the master was killed, as the settings ask (faults)")
            self._busy(seconds)
            return
        worker = self.workers[peer.worker]
        match fault.kind:
            case "kill":
                worker.kill(fault.seconds)
            case "stop":
                self.trouble.stop(worker.slot, seconds)
            case "cut":
                self.trouble.cut(worker.slot, seconds)
            case "slow":
                self.trouble.slow(worker.slot, seconds, fault.rate or 1.0)
            case "corrupt" | "delay":
                worker.orders.take(step, fault)

    def between_rounds(self) -> None:
        """The master's own work takes its time; what arrives meanwhile waits."""
        if seconds := self._session.config.simulate.master_seconds:
            self._busy(seconds)

    def _busy(self, seconds: float) -> None:
        self._asleep = self.clock.now + seconds
        while (at := self.clock.next_at()) is not None and at <= self._asleep:
            self.clock.step()
        self.clock.now = self._asleep

    # --- links ---

    def join(self, worker: SimulatedWorker, after: float) -> None:
        """A worker makes a link: a fresh ticket, then hello; not while it is stopped or cut off."""
        worker.inc = inc = next(self._tickets)
        peer = Peer(worker.slot, inc)
        hello = self._session.hello(f"worker{worker.slot}", worker.slot)

        def say_hello() -> None:
            if worker.inc == inc:
                self.up(worker, SMALL, lambda at: Joined(at, peer, hello))

        self.clock.at(self.clock.now + after, lambda: worker.when_running(say_hello), pressing=False)

    def up(
        self,
        worker: SimulatedWorker,
        nbytes: int,
        make: Callable[[float], MasterEvent],
        sent: Callable[[], None] | None = None,
    ) -> None:
        """Worker to master; ``sent`` is called when the last byte is in."""

        def hand() -> None:
            self._events.append(make(self.clock.now))
            if sent is not None:
                sent()

        self.bytes_up += nbytes
        self._carry(worker, True, nbytes, hand)

    def down(self, worker: SimulatedWorker, nbytes: int, make: Callable[[float], WorkerEvent]) -> None:
        """Master to worker."""
        self.bytes_down += nbytes
        self._carry(worker, False, nbytes, lambda: worker.take(make))

    def drop(self, worker: SimulatedWorker, reason: str) -> None:
        """The link breaks: what is on its way is gone, both ends are told; the master once no cut is in the way."""
        peer, now = Peer(worker.slot, worker.inc), self.clock.now + self._session.config.simulate.latency
        worker.inc = -1
        when = max(now, self.trouble.healed_at(worker.slot))
        self.clock.at(when, lambda: self._events.append(Lost(self.clock.now, peer, reason)))
        worker.later(now, lambda at: LinkLost(at, reason))

    def _lose(self, peer: Peer, reason: str) -> None:
        """Silence for too long: the master's end gives up, and so does the worker's, at once or when it goes on."""
        self._events.append(Lost(self.clock.now, peer, reason))
        worker = self.workers[peer.worker]
        if worker.inc == peer.inc:
            worker.inc = -1
            worker.take(lambda at: LinkLost(at, reason))

    def _carry(self, worker: SimulatedWorker, up: bool, nbytes: int, hand: Callable[[], None]) -> None:
        """Hand something over after the link's time, in order, if the link still stands then; a cut holds it up."""
        simulate, slot = self._session.config.simulate, worker.slot
        rate = (self.trouble.rate(slot) if up else None) or simulate.bandwidth
        begin = max(self.clock.now, self._free.get((slot, up), 0.0))
        self._free[slot, up] = begin + nbytes / rate
        wire = self._wires.setdefault((slot, up), deque())
        wire.append((worker.inc, hand))

        def deliver() -> None:
            until = max(self.trouble.healed_at(slot), self._asleep if up else 0.0)
            if self.clock.now < until:
                self.clock.at(until, deliver)
                return
            inc, hand = wire.popleft()
            if worker.inc == inc:
                hand()

        self.clock.at(self._free[slot, up] + simulate.latency, deliver)


class SimulatedWorker:
    """One worker's driver and its port into the network."""

    def __init__(self, slot: int, session: Session, network: Network, shared: SharedGradients) -> None:
        self.slot = slot
        self.inc = -1
        self.lives = 0  # processes so far
        self._network = network
        self._clock = network.clock
        self._session = session
        self._shared = shared
        self._tagged: dict[object, list[Coming]] = {}
        self._jobs: dict[int, tuple[Job, object]] = {}  # by number, with the tag of what comes of it
        self._numbers = itertools.count()
        self._waiting: list[Callable[[], None]] = []
        self._begin()

    def _begin(self) -> None:
        """A process starts."""
        session, config = self._session, self._session.config
        self.lives += 1
        for tag in list(self._tagged):
            self.cancel(tag)
        for job, _ in self._jobs.values():
            self._network.cores.give_up(job)
        self._jobs.clear()
        self._waiting.clear()
        self.orders = Orders(session.delays)
        self.rows = RowMaker(session.quantizer, config.seed, SharedView(self._shared))
        self.driver = WorkerDriver(
            WorkerMachine(config.cluster.retry_first, config.cluster.retry_most),
            self.rows,
            self,
            self.slot,
            self.orders,
            config.seed,
            Pace(config.simulate.compute_seconds, config.simulate.encode_seconds, True, self.work),
            session.state.name_at,
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

    def terminate(self) -> None:
        """SIGTERM."""
        self.take(Sigterm)

    def take(self, make: Callable[[float], WorkerEvent]) -> None:
        """Handle an event; once it goes on, if the process is stopped."""

        def feed() -> None:
            if not self.is_over():
                self.driver.feed(make(self._clock.now))
                if self.is_over():
                    self._network.drop(self, "the worker ended")

        self.when_running(feed)

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

    # --- the worker's port ---

    def now(self) -> float:
        """Virtual seconds."""
        return self._clock.now

    def later(self, at: float, make: Callable[[float], WorkerEvent], tag: object = None) -> None:
        """Deliver at that time, unless cancelled."""

        def fire() -> None:
            if tag is not None:
                self._tagged[tag].remove(coming)
                if not self._tagged[tag]:
                    del self._tagged[tag]
            if self.lives == life:
                self.take(make)

        life = self.lives
        coming = self._clock.at(at, fire)
        if tag is not None:
            self._tagged.setdefault(tag, []).append(coming)

    def work(self, seconds: float, make: Callable[[float], WorkerEvent], tag: object, floor: float) -> None:
        """Deliver after so many seconds of a core, and not before ``floor``, unless cancelled."""
        if seconds == 0.0 or not self._network.cores.shared:
            self.later(max(floor, self._clock.now + seconds), make, tag)
            return

        def done() -> None:
            del self._jobs[number]
            self.later(max(floor, self._clock.now), make, tag)

        number = next(self._numbers)
        self._jobs[number] = self._network.cores.work(seconds, done), tag

    def cancel(self, tag: object) -> None:
        """Forget what was to be delivered with this tag; work that has begun goes on, as it does in a process."""
        for coming in self._tagged.pop(tag, []):
            self._clock.call_off(coming)
        for number, (job, of) in list(self._jobs.items()):
            if of == tag:
                job.done = partial(self._jobs.pop, number)

    def send(self, head: Head, body: Message) -> None:
        """A message takes a core's time to leave and to be taken in, then its time on the link."""
        inc, seconds = self.inc, self._session.config.simulate.send_seconds

        def leave() -> None:
            if self.inc == inc:
                self._leave(head, body)

        if seconds == 0.0:
            leave()
        elif self._network.cores.shared:
            self._network.cores.work(seconds, leave)
        else:
            self._clock.at(self._clock.now + seconds, leave)

    def _leave(self, head: Head, body: Message) -> None:
        peer = Peer(self.slot, self.inc)
        sent = partial(self.take, lambda at: SentRow(at, head.step, head.row))
        leaving = self.orders.outgoing(head, body)
        for left, out in zip(range(len(leaving) - 1, -1, -1), leaving, strict=True):
            if out.kind != Kind.MESSAGE:
                self._network.drop(self, f"worker {peer.rank} sent bytes that are no message")
                return
            wrong = out.digest is not None and out.digest != digest(out.body.payload)
            made = partial(Arrived, peer=peer, head=out.head, body=out.body, fault="wrong digest" if wrong else None)
            size = SMALL + len(pack_head(head)) + out.body.nbytes
            self._network.up(self, size, made, None if left else sent)

    def tell(self, instruction: SendCredit | SendFailed | SendLeaving) -> None:
        """A small message."""
        peer = Peer(self.slot, self.inc)
        match instruction:
            case SendCredit(step=step, why=why):
                self._network.up(self, SMALL, lambda at: Credit(at, peer, step, why))
            case SendFailed(step=step, partition=partition, text=text):
                self._network.up(self, SMALL + len(text), lambda at: Failed(at, peer, step, partition, text))
            case SendLeaving():
                self._network.up(self, SMALL, lambda at: Leaving(at, peer))

    def connect(self, after: float) -> None:
        """A new link after so many seconds."""
        self._network.join(self, after)


def simulated(session: Session, say: Say, record: Record | None = None) -> tuple[MasterDriver, Network]:
    """A master driver whose workers live on a virtual clock."""
    network = Network(session, Clock())
    shared = SharedGradients(session)
    for slot in range(session.workers):
        network.workers[slot] = SimulatedWorker(slot, session, network, shared)
        network.join(network.workers[slot], 0.0)
    driver = MasterDriver.of(session, network, say, record)
    return driver, network
