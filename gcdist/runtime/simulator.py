"""The same run on a virtual clock: the same machines and drivers, real gradients, simulated time and network.

A worker's row is computed only when its message is about to leave, and each partition once for everybody who needs it: the
gradient of (step, partition) is the same wherever it is computed.
"""

from __future__ import annotations

import copy
import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from gcdist.protocol import Peer, Round, WorkerMachine
from gcdist.protocol.codec import pack_head, pack_round
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
)
from gcdist.protocol.messages import Head, Tick
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
from gcdist.runtime.compute import PartitionGradients, PartitionResult
from gcdist.runtime.device import pick_device
from gcdist.runtime.driver import MasterDriver, Record, Say
from gcdist.runtime.rows import RowMaker
from gcdist.runtime.serving import Pace, WorkerDriver
from gcdist.runtime.session import Session, checked
from gcdist.runtime.shape import Shape
from gcdist.runtime.state import ModelState
from gcdist.types import U8, RunHaltedError

SMALL = 200  # bytes of a message without a body, as the links frame it


class SharedGradients:
    """One copy of the model computes for all workers; results of the newest steps are kept for whoever needs them next."""

    def __init__(self, session: Session) -> None:
        # a copy: the master's model belongs to the optimizer, and a stale row may need older parameters
        config = session.config
        device = checked("compute", lambda: pick_device(config.compute.device))
        task = replace(session.task, model=copy.deepcopy(session.task.model).to(device))
        self._state = ModelState(task.model, True, config.quantizer.downlink, device)
        self._gradients = PartitionGradients(task, self._state, len(session.sizes_K), config.seed, config.data.sampling)
        self._seconds = config.simulate.compute_seconds
        self._loaded = -1
        self._cache: dict[tuple[int, int, int], PartitionResult] = {}

    def load(self, raw: U8, params: int, trained: tuple[int, ...] | None) -> Shape:
        """Take version ``params`` of the parameters, unless it is the one at hand."""
        if params != self._loaded:
            self._state.adopt(trained)
            self._state.load(raw)
            self._loaded = params
            self._cache = {k: v for k, v in self._cache.items() if k[0] >= params - 1}
        return self._state.shape

    def compute(
        self, raw: U8, params: int, trained: tuple[int, ...] | None, step: int, partition: int
    ) -> PartitionResult:
        """The gradient of ``partition`` at ``step`` with the parameters of version ``params``."""
        key = (params, step, partition)
        found = self._cache.get(key)
        if found is None:
            self.load(raw, params, trained)
            made = self._gradients.compute(step, partition)
            # virtual seconds too: a simulated run gives the same figures again
            found = replace(made, gradient=made.gradient.copy(), data_seconds=0.0, compute_seconds=self._seconds)
            self._cache[key] = found
        return found


class _Gradients:
    """One worker's view of the shared gradients."""

    def __init__(self, shared: SharedGradients) -> None:
        self._shared = shared
        self._round: tuple[U8, int, tuple[int, ...] | None] | None = None

    def load(self, raw: U8, params: int, trained: tuple[int, ...] | None) -> Shape:
        self._round = raw, params, trained
        return self._shared.load(raw, params, trained)

    def compute(self, step: int, partition: int) -> PartitionResult:
        assert self._round is not None
        return self._shared.compute(*self._round, step, partition)


class Network:
    """The master's world and all workers in it: links with latency and bandwidth, one order per direction and link."""

    def __init__(self, session: Session, clock: Clock) -> None:
        self.clock = clock
        self.bytes_up = 0
        self.bytes_down = 0
        self._session = session
        self._events: deque[MasterEvent] = deque()
        self._free: dict[tuple[int, bool], float] = {}
        self.workers: dict[int, SimulatedWorker] = {}
        self._tickets = itertools.count(1)

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
        self.down(worker, SMALL + len(pack_round(sent)) + len(state), lambda at: RoundIn(at, sent, state))

    # --- links ---

    def join(self, worker: SimulatedWorker, after: float) -> None:
        """A worker makes a link: a fresh ticket, then hello."""
        worker.inc = inc = next(self._tickets)
        peer = Peer(worker.slot, inc)
        hello = self._session.hello(f"worker{worker.slot}", worker.slot)

        def say_hello() -> None:
            self.up(worker, SMALL, lambda at: Joined(at, peer, hello))

        self.clock.at(self.clock.now + after, say_hello, pressing=False)

    def up(self, worker: SimulatedWorker, nbytes: int, make: Callable[[float], MasterEvent]) -> float:
        """Worker to master; returns when the last byte is in."""
        self.bytes_up += nbytes
        when = self._arrival(worker.slot, True, nbytes)
        inc = worker.inc

        def deliver() -> None:
            if worker.inc == inc:
                self._events.append(make(self.clock.now))

        self.clock.at(when, deliver)
        return when

    def down(self, worker: SimulatedWorker, nbytes: int, make: Callable[[float], WorkerEvent]) -> None:
        """Master to worker."""
        self.bytes_down += nbytes
        inc = worker.inc

        def deliver() -> None:
            if worker.inc == inc and worker.driver.exit is None:
                worker.driver.feed(make(self.clock.now))

        self.clock.at(self._arrival(worker.slot, False, nbytes), deliver)

    def drop(self, worker: SimulatedWorker, reason: str) -> None:
        """The link breaks: what is on its way is gone, both ends are told."""
        peer, when = Peer(worker.slot, worker.inc), self.clock.now + self._session.config.simulate.latency
        worker.inc = -1
        self.clock.at(when, lambda: self._events.append(Lost(self.clock.now, peer, reason)))
        self.clock.at(when, lambda: worker.driver.feed(LinkLost(self.clock.now, reason)))

    def _arrival(self, slot: int, up: bool, nbytes: int) -> float:
        simulate = self._session.config.simulate
        begin = max(self.clock.now, self._free.get((slot, up), 0.0))
        self._free[slot, up] = begin + nbytes / simulate.bandwidth
        return self._free[slot, up] + simulate.latency


class SimulatedWorker:
    """One worker's driver and its port into the network."""

    def __init__(self, slot: int, session: Session, network: Network, shared: SharedGradients) -> None:
        self.slot = slot
        self.inc = -1
        self._network = network
        self._clock = network.clock
        self._tagged: dict[object, list[Coming]] = {}
        simulate, config = session.config.simulate, session.config
        rows = RowMaker(session.quantizer, config.seed, _Gradients(shared))
        self.rows = rows
        self.driver = WorkerDriver(
            WorkerMachine(config.cluster.retry_first, config.cluster.retry_most),
            rows,
            self,
            slot,
            session.delays,
            config.seed,
            Pace(simulate.compute_seconds, simulate.encode_seconds, defer=True),
            session.state.name_at,
        )

    def kill(self) -> None:
        """The process dies: its link breaks and nothing of it goes on."""
        self._network.drop(self, "killed")

    def terminate(self) -> None:
        """SIGTERM."""
        self.driver.feed(Sigterm(self._clock.now))

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
            if self.driver.exit is None:
                self.driver.feed(make(self._clock.now))

        coming = self._clock.at(at, fire)
        if tag is not None:
            self._tagged.setdefault(tag, []).append(coming)

    def cancel(self, tag: object) -> None:
        """Forget what was to be delivered with this tag."""
        for coming in self._tagged.pop(tag, []):
            self._clock.call_off(coming)

    def send(self, head: Head, body: Message) -> None:
        """A message takes its time on the link."""
        peer = Peer(self.slot, self.inc)
        size = SMALL + len(pack_head(head)) + body.nbytes
        arrived = self._network.up(self, size, lambda at: Arrived(at, peer, head, body))
        self.later(arrived, lambda at: SentRow(at, head.step, head.row))

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
