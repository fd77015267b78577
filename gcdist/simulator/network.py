"""The master's world on a virtual clock: links with latency and bandwidth to simulated workers.

A worker's row is computed only when its message is about to leave, and each partition once for everybody who needs it: the
gradient of (step, partition) is the same wherever it is computed.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from gcdist.exchange.injected_faults import Orders
from gcdist.exchange.setup import Setup
from gcdist.protocol import Peer, Round
from gcdist.protocol.codec import pack_round
from gcdist.protocol.master_io import (
    Admit,
    Announce,
    CloseLink,
    Joined,
    Leave,
    Lost,
    MasterEvent,
    Refuse,
    Silent,
)
from gcdist.protocol.messages import Fault, Tick
from gcdist.protocol.worker_io import (
    Announced,
    Linked,
    LinkLost,
    Refused,
    Released,
    RoundIn,
    WorkerEvent,
)
from gcdist.simulator.clock import Clock
from gcdist.simulator.cores import Cores
from gcdist.simulator.link_turns import LinkTurns
from gcdist.simulator.outages import Outages
from gcdist.simulator.port import SharedPort
from gcdist.types import U8, RunHaltedError
from gcdist.worker.driver import WorkerDriver
from gcdist.worker.rows import RowMaker

SMALL = 200  # bytes of a message without a body, as the links frame it


class WorkerProcess(Protocol):
    """One worker as the network sees it."""

    slot: int
    inc: int
    orders: Orders
    rows: RowMaker
    driver: WorkerDriver
    occupied_until: float  # when the partition that it computes now, if any, is done

    def kill(self, seconds: float | None = 1.0) -> None:
        """The process dies; another one starts ``seconds`` later, None: never."""
        ...

    def throttle(self, seconds: float, share: float) -> None:
        """For so long it runs only that share of the time."""
        ...

    def terminate(self) -> None:
        """SIGTERM."""
        ...

    def take(self, make: Callable[[float], WorkerEvent]) -> None:
        """Handle an event; once it goes on, if the process is stopped."""
        ...

    def later(self, at: float, make: Callable[[float], WorkerEvent], tag: object = None) -> None:
        """Deliver at that time, unless cancelled."""
        ...

    def when_running(self, do: Callable[[], None]) -> None:
        """Now, or once the stopped process goes on, in order."""
        ...

    def wake(self) -> None:
        """The process goes on."""
        ...

    def is_over(self) -> bool:
        """Whether the process has ended by itself."""
        ...

    def foresee(self, sent: Round, body: U8, at: float, back: Callable[[], None]) -> bool:
        """Take a round that comes at ``at`` as one event, if what it leads to is known; ``back``: it is on its way again."""
        ...

    def interrupt(self) -> None:
        """Something comes between: a round that was foreseen is where it would be by now."""
        ...


class Network:
    """The master's world and all workers in it: links with latency and bandwidth, one order per direction and link."""

    def __init__(self, setup: Setup, clock: Clock) -> None:
        self.clock = clock
        self.until: float | None = None  # when the master wants to be woken: what comes later may be for nothing
        self.bytes_up = 0
        self.bytes_down = 0
        self._setup = setup
        self._events: deque[MasterEvent] = deque()
        self._sizes: dict[Round, int] = {}  # bytes of the rounds of the newest step
        self._sized_step = -1
        self._wires: dict[int, _Wire] = {}  # by twice the slot, and 1 more where it leads up
        self.workers: dict[int, WorkerProcess] = {}
        self._tickets = itertools.count(1)
        cluster = setup.config.cluster
        simulate = setup.config.simulate
        self.latency, self.bandwidth = simulate.latency, simulate.bandwidth
        self.port = SharedPort(simulate.master_bandwidth, simulate.master_message_seconds, simulate.master_byte_seconds)
        self.cores = Cores(clock, simulate.cores)
        self.turns = LinkTurns(clock, self.cores, simulate.link_seconds, setup.config.seed)
        self._behind: dict[Peer, list[Callable[[], None]]] = {}  # what a link carries behind a round that waits
        self.trouble = Outages(
            clock,
            cluster.silent_after,
            cluster.lost_after,
            lambda peer, seconds: self._events.append(Silent(clock.now, peer, seconds)),
            self._lose,
            lambda slot: Peer(slot, self.workers[slot].inc),
            lambda slot: self.workers[slot].wake(),
        )
        self._asleep = 0.0  # the master is stopped, or at its own work, until then
        # rounds are foreseen where each worker's time is its own; `interrupt` undoes it
        self._foresees = not (simulate.pack_messages or setup.config.faults or self.cores.shared or self.turns.seconds)

    # --- the master's port ---

    def now(self) -> float:
        """Virtual seconds."""
        return self.clock.now

    def next(self, until: float | None) -> MasterEvent:
        """The next event for the master; a Tick once nothing is left before ``until``."""
        self.until = until
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
        if self.clock.pressing:
            return self.clock.next_at()
        return self.clock.resting if self.clock.resting > self.clock.now else None

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
        nbytes = SMALL + self._round_nbytes(sent) + len(state)
        if self._foresees and not self.trouble.knows(peer.worker):
            wire = self._wire(worker, False)
            if not len(wire):
                self._foresee(worker, wire, nbytes, sent, state)
                return

        def leave() -> None:
            behind = self._behind.pop(peer, [])
            if worker.inc == peer.inc:
                self.down(worker, nbytes, lambda at: RoundIn(at, sent, state))
                for each in behind:
                    each()

        if self.turns.seconds:
            self._behind[peer] = []
        self.turns.take(leave)

    def _foresee(self, worker: WorkerProcess, wire: _Wire, nbytes: int, sent: Round, state: U8) -> None:
        """Send a round on an empty link: as one event with its message, if what comes of it is known."""
        worker.interrupt()
        self.bytes_down += nbytes
        at, travel = wire.reserve(nbytes)

        def carry() -> None:
            wire.enter(at, nbytes, travel, lambda when: RoundIn(when, sent, state), None)

        if not worker.foresee(sent, state, at, carry):
            carry()

    def _round_nbytes(self, sent: Round) -> int:
        """Bytes of a round without its parameters: asked for once where many workers get the same."""
        if sent.assignment is not None:
            return len(pack_round(sent))
        if sent.step != self._sized_step:
            self._sized_step = sent.step
            self._sizes.clear()
        found = self._sizes.get(sent)
        if found is None:
            found = self._sizes[sent] = len(pack_round(sent))
        return found

    def inject(self, peer: Peer | None, step: int, fault: Fault) -> None:
        """Make a fault happen at a worker, or at the master (None)."""
        seconds = fault.seconds or 0.0
        if peer is None:
            if fault.kind == "kill":
                raise RunHaltedError("the master was killed, as the settings ask (faults)")
            self._busy(seconds)
            return
        worker = self.workers[peer.worker]
        worker.interrupt()
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
            case "throttle":
                worker.throttle(seconds, fault.share or 1.0)

    def between_rounds(self) -> None:
        """The master's own work takes its time; what arrives meanwhile waits."""
        if seconds := self._setup.config.simulate.master_seconds:
            self._busy(seconds)

    def chosen(self) -> None:
        """An automatic choice takes its time, too."""
        if seconds := self._setup.config.simulate.choice_seconds:
            self._busy(seconds)

    def _busy(self, seconds: float) -> None:
        self._asleep = self.clock.now + seconds
        while (at := self.clock.next_at()) is not None and at <= self._asleep:
            self.clock.step()
        self.clock.now = self._asleep

    # --- links ---

    def join(self, worker: WorkerProcess, after: float) -> None:
        """A worker makes a link: a fresh ticket, then hello; not while it is stopped or cut off."""
        worker.interrupt()
        worker.inc = inc = next(self._tickets)
        peer = Peer(worker.slot, inc)
        hello = self._setup.hello(f"worker{worker.slot}", worker.slot)

        def say_hello() -> None:
            if worker.inc == inc:
                self.up(worker, SMALL, lambda at: Joined(at, peer, hello))

        self.clock.at(self.clock.now + after, lambda: worker.when_running(say_hello), pressing=False)

    def up(
        self,
        worker: WorkerProcess,
        nbytes: int,
        make: Callable[[float], MasterEvent],
        sent: Callable[[], None] | None = None,
    ) -> None:
        """Worker to master; ``sent`` is called when the last byte is in."""
        self.bytes_up += nbytes
        self._wire(worker, True).carry(nbytes, make, sent)

    def down(self, worker: WorkerProcess, nbytes: int, make: Callable[[float], WorkerEvent]) -> None:
        """Master to worker, in the order of the link."""
        worker.interrupt()
        behind = self._behind.get(Peer(worker.slot, worker.inc)) if self._behind else None
        if behind is not None:
            behind.append(lambda: self.down(worker, nbytes, make))
            return
        self.bytes_down += nbytes
        self._wire(worker, False).carry(nbytes, make)

    def drop(self, worker: WorkerProcess, reason: str) -> None:
        """The link breaks: what is on its way is gone, both ends are told; the master once no cut is in the way."""
        worker.interrupt()
        peer, now = Peer(worker.slot, worker.inc), self.clock.now + self._setup.config.simulate.latency
        worker.inc = -1
        when = max(now, self.trouble.healed_at(worker.slot))
        self.clock.at(when, lambda: self._events.append(Lost(self.clock.now, peer, reason)))
        worker.later(now, lambda at: LinkLost(at, reason))

    def _lose(self, peer: Peer, reason: str) -> None:
        """Silence for too long: the master's end gives up, and so does the worker's, at once or when it goes on."""
        self._events.append(Lost(self.clock.now, peer, reason))
        worker = self.workers[peer.worker]
        if worker.inc == peer.inc:
            worker.interrupt()
            worker.inc = -1
            worker.take(lambda at: LinkLost(at, reason))

    def transfer_seconds(self, slot: int, up: bool, nbytes: int) -> float:
        """How long a link is taken by so many bytes; a replay has recorded times in its place."""
        rate = self.trouble.rate(slot) if up and self.trouble.any else None  # only what goes up is ever slowed
        return nbytes / (rate or self.bandwidth)

    def _wire(self, worker: WorkerProcess, up: bool) -> _Wire:
        number = 2 * worker.slot + up
        found = self._wires.get(number)
        if found is None:
            found = self._wires[number] = _Wire(self, worker, up)
        return found

    def hand_up(self, event: MasterEvent) -> None:
        """The master's next event, in order."""
        self._events.append(event)

    def held_until(self, slot: int, up: bool) -> float:
        """Before this time nothing is handed over: a cable is cut, or the master is stopped."""
        healed = self.trouble.healed_at(slot) if self.trouble.any else 0.0
        return max(healed, self._asleep) if up else healed


class _Wire:
    """One direction of one link: hands over in order, after the link's time, what its link still stands for then."""

    __slots__ = ("_free", "_latency", "_network", "_queue", "_up", "_worker")

    def __init__(self, network: Network, worker: WorkerProcess, up: bool) -> None:
        self._network, self._worker, self._up = network, worker, up
        self._latency = network.latency
        self._free = 0.0  # when all that was sent has left
        self._queue: deque[tuple[int, int, float, Callable[[float], Any], Callable[[], None] | None]] = deque()

    def __len__(self) -> int:
        """What is on its way."""
        return len(self._queue)

    def carry(self, nbytes: int, make: Callable[[float], Any], sent: Callable[[], None] | None = None) -> None:
        """Send ``nbytes``; ``make`` gives the other end's event, ``sent`` is called once it is there."""
        at, travel = self.reserve(nbytes)
        self.enter(at, nbytes, travel, make, sent)

    def reserve(self, nbytes: int) -> tuple[float, float]:
        """When ``nbytes`` that leave now are there, behind all before them; the seconds that they take of the link."""
        network, clock = self._network, self._network.clock
        begin, port = max(clock.now, self._free), network.port
        left = begin
        if port.limits and not self._up:
            first, left = port.sent(clock.now, nbytes)
            begin = max(begin, first)
        travel = network.transfer_seconds(self._worker.slot, self._up, nbytes)
        self._free = max(left, begin + travel)
        return self._free + self._latency, travel

    def enter(
        self,
        at: float,
        nbytes: int,
        travel: float,
        make: Callable[[float], Any],
        sent: Callable[[], None] | None,
    ) -> None:
        """What was `reserve`d is on its way."""
        self._queue.append((self._worker.inc, nbytes, travel, make, sent))
        self._network.clock.at(at, self._deliver)

    def _deliver(self) -> None:
        network, worker = self._network, self._worker
        now, until = network.clock.now, network.held_until(worker.slot, self._up)
        if now < until:
            network.clock.at(until, self._deliver)
            return
        inc, nbytes, travel, make, sent = self._queue.popleft()
        if worker.inc != inc:
            return
        if not self._up:
            worker.take(make)
        elif network.port.limits:
            at = network.port.taken_in(now, nbytes, travel, sent is not None)
            network.clock.at(at, lambda: self._hand_up(inc, make, sent))
        else:  # as `_hand_up`, whose link has just been looked at
            network.hand_up(make(now))
            if sent is not None:
                sent()

    def _hand_up(self, inc: int, make: Callable[[float], Any], sent: Callable[[], None] | None) -> None:
        if self._worker.inc == inc:
            self._network.hand_up(make(self._network.clock.now))
            if sent is not None:
                sent()
