"""One worker in the random world: its process, its driver that computes nothing but takes its time, its link."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any

from gcdist.protocol import Head, Peer
from gcdist.protocol import master_io as m
from gcdist.protocol import worker_io as w
from gcdist.protocol.messages import Tick, Wake
from tests.protocol.plans import HELLO

if TYPE_CHECKING:
    from tests.protocol.world import World


MASTER = -1


@dataclass(frozen=True, slots=True)
class Did:
    """One event at one machine, when it was handled (its stamp may be older), and what came of it."""

    now: float
    who: int  # MASTER or a slot
    life: int  # which process of that slot
    inc: int  # which link it has, -1: none
    event: Any
    out: list[Any]


class Wire:
    """One link: two directions, each in order; a cut loses what would have been delivered later."""

    def __init__(self, world: World, peer: Peer, proc: Proc) -> None:
        self.world, self.peer, self.proc = world, peer, proc
        self.cut_up = self.cut_down = inf
        self._free_up = self._free_down = 0.0
        self._announced: list[
            Callable[[float], Any]
        ] = []  # the announcement that is on its way, empty once it is there

    def up(self, make: Callable[[float], Any]) -> float:
        """Worker to master; returns when it will be in."""
        when = self._free_up = max(self._free_up, self.world.now + self.world.latency())
        self.world.at(when, lambda: self.world.inbox_put(make(self.world.now)) if when < self.cut_up else None)
        return when

    def down(self, make: Callable[[float], Any], announcement: bool = False) -> None:
        """Master to worker."""
        told = [make]
        if announcement:
            if self._announced and self.world.rng.random() < 0.5:
                self._announced[0] = (
                    make  # the newest takes the place of one that has not left, before a round in between
                )
                return
            self._announced = told
        when = self._free_down = max(self._free_down, self.world.now + self.world.latency())

        def deliver() -> None:
            event = told.pop()
            if when < self.cut_down and self.proc.wire is self:
                self.proc.put(event(self.world.now))

        self.world.at(when, deliver)

    def cut(self, reason: str, tell_master: bool = True) -> None:
        """Break; the ends learn of it in any order."""
        world, r = self.world, self.world.rng
        if self.cut_up < inf:
            return
        self.cut_up, self.cut_down = world.now + r.random() * 0.02, world.now + r.random() * 0.02
        if tell_master:
            lost = self.cut_up + r.choice((0.0, 0.01, 0.3)) * r.random()
            world.at(lost, lambda: world.inbox_put(m.Lost(world.now, self.peer, reason)))

        def unlink() -> None:
            if self.proc.wire is self:
                self.proc.wire = None
                self.proc.put(w.LinkLost(world.now, reason))

        world.at(self.cut_down + r.choice((0.0, 0.01, 0.3)) * r.random(), unlink)


class Proc:
    """One process of a worker: its machine, the queue before it, and a driver that computes nothing but takes its time."""

    def __init__(self, world: World, slot: int) -> None:
        self.world, self.slot, self.life = world, slot, world.ticket()
        self.machine = world.worker_class(retry_first=0.05, retry_most=0.4, patience=0.5)
        self.blocking = world.rng.random() < 0.5  # computes in the thread that handles events
        self.slow = world.rng.choice((1.0, 1.0, 1.0, 4.0))
        self.wire: Wire | None = None
        self.over = False
        self._queue: deque[Any] = deque()
        self._busy = False
        self._cancelled: set[int] = set()
        self._connect(0.0)

    def put(self, event: Any) -> None:
        """Queue a stamped event."""
        if not self.over:
            self._queue.append(event)
            self._pump()

    def _pump(self) -> None:
        while self._queue and not self._busy and not self.over:
            event = self._queue.popleft()
            inc = self.wire.peer.inc if self.wire else -1
            out = self.machine.handle(event)
            self.world.trace.append(Did(self.world.now, self.slot, self.life, inc, event, out))
            for told in out:
                self._do(told)

    def _do(self, told: Any) -> None:
        world, r = self.world, self.world.rng
        match told:
            case w.Load(round=sent) if r.random() < world.p_astray:
                world.at(world.now, lambda: self.put(w.Astray(world.now, sent.step)))
            case w.Compute():
                self._compute(told)
            case w.Encode(step=step, row=row):
                wait = r.expovariate(20 / self.slow) if r.random() < 0.7 else 0.0
                world.at(world.now + wait, lambda: self._encoded(step, row))
            case w.Send(head=head, body=body):
                self._send(head, body)
            case w.SendCredit(step=step, why=why):
                self._credit(step, why)
            case w.SendFailed(step=step, partition=partition, text=text):
                self._up(lambda peer: lambda at: m.Failed(at, peer, step, partition, text))
            case w.SendLeaving():
                self._up(lambda peer: lambda at: m.Leaving(at, peer))
            case w.Abort(step=step):
                self._cancelled.add(step)
            case w.Connect(after=after):
                self._connect(after)
            case Wake(at=when):
                world.at(when, lambda: self.put(Tick(world.now)))
            case w.Exit():
                self.over = True
                world.exited(self, told)

    def _compute(self, told: w.Compute) -> None:
        world, r = self.world, self.world.rng
        done: Any = lambda at: w.PartDone(at, told.step, told.partition)  # noqa: E731
        if r.random() < world.p_error:
            done = lambda at: w.UserError(at, told.step, told.partition, "boom")  # noqa: E731

        def finish() -> None:
            self._busy = False
            if told.step in self._cancelled and r.random() < 0.5:
                self.put(w.Aborted(world.now, told.step))
            else:
                self.put(done(world.now))

        self._busy = self.blocking
        world.at(world.now + r.expovariate(60 / self.slow), finish)

    def _encoded(self, step: int, row: int) -> None:
        world, r = self.world, self.world.rng
        if step in self._cancelled and r.random() < 0.8:  # else the abort came too late
            return
        if r.random() < world.p_error:
            self.put(w.UserError(world.now, step, -1, "not finite"))
        else:
            self.put(w.EncodedRow(world.now, step, row, 8, world.vector()))

    def _up(self, make: Callable[[Peer], Callable[[float], Any]]) -> float | None:
        return self.wire.up(make(self.wire.peer)) if self.wire else None

    def _send(self, head: Head, body: Any) -> None:
        world, r, wire = self.world, self.world.rng, self.wire
        if wire is None:
            return
        fault, copies, step, row = None, 1, head.step, head.row
        own = self.machine._assignment.rows if self.machine._assignment else ()
        if r.random() < world.p_cheat:
            world.cheaters.add(wire.peer)
            match r.randrange(7):
                case 0:
                    fault = "bad checksum"
                case 1:
                    copies = 2
                case 2:
                    head = head._replace(step=head.step + r.choice((-1, 1)))
                case 3:
                    head = head._replace(row=r.choice([q for q in range(-1, 9) if q not in own]))
                case 4:
                    head = head._replace(shift=head.shift + r.choice((-1, 1)))
                case 5:
                    head = head._replace(plan_id=head.plan_id + r.choice((-1, 1)))
                case 6:
                    head = head._replace(done=r.choice((-1, 0, 99)))
        for _ in range(copies):
            arrival = self._up(lambda peer: lambda at: m.Arrived(at, peer, head, body, fault))
        assert arrival is not None
        left = world.now + r.random() * (arrival - world.now)

        def sent() -> None:
            if self.wire is wire and left < wire.cut_down:
                self.put(w.SentRow(world.now, step, row))

        world.at(left, sent)

    def _credit(self, step: int, why: Any) -> None:
        world, r = self.world, self.world.rng
        if self.wire and r.random() < world.p_cheat:
            world.cheaters.add(self.wire.peer)
            match r.randrange(3):
                case 0:
                    step += r.choice((-1, 1))
                case 1:
                    self._up(lambda peer: lambda at: m.Credit(at, peer, step, why))
                case 2:
                    why = r.choice(("fresh", "sent", "stale", "failed", "cut"))
        self._up(lambda peer: lambda at: m.Credit(at, peer, step, why))

    def _connect(self, after: float) -> None:
        world = self.world

        def connect() -> None:
            if self.over:
                return
            if world.rng.random() < world.p_no_answer:
                world.at(world.now + 0.05, lambda: self.put(w.LinkLost(world.now, "no answer")))
                return
            peer = Peer(self.slot, world.ticket())
            self.wire = world.wires[peer] = Wire(world, peer, self)
            hello = HELLO._replace(name=f"w{self.slot}")
            self.wire.up(lambda at: m.Joined(at, peer, hello))

        world.at(world.now + after, connect)
