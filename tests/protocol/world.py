"""Both machines against each other: virtual time, a random network, random lives. What happened is a trace.

Everything follows from the seed. Links keep their order and lose what is on its way when they break; either end may learn
of it first, and a worker may be back before the master knows that it was gone. Some peers cheat.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from math import inf
from random import Random
from typing import Any

import numpy as np

from gcdist.protocol import Head, MasterMachine, Peer, WorkerMachine
from gcdist.protocol import master_io as m
from gcdist.protocol import worker_io as w
from gcdist.protocol.messages import Tick, Wake
from gcdist.types import StepTerms
from tests.protocol.plans import DIMENSION, HELLO, Weighing, plans_for
from tests.protocol.proc import MASTER, Did, Proc, Wire


class World:
    """One random run: some steps of chaos, two calm ones, a stop. ``run`` gives the trace."""

    def __init__(
        self, seed: int, master: type[MasterMachine] = MasterMachine, worker: type[WorkerMachine] = WorkerMachine
    ) -> None:
        r = self.rng = Random(seed)
        self.worker_class = worker
        self.n = r.choice((1, 2, 3, 3, 4, 5))
        self.machine = master(self.n, HELLO)
        self.trace: list[Did] = []
        self.cheaters: set[Peer] = set()
        self.exits: list[w.Exit] = []
        self.wires: dict[Peer, Wire] = {}
        self.now = 0.0
        self.failure: str | None = None
        self._order = itertools.count()
        self._tickets = itertools.count(1)
        self._heap: list[tuple[float, int, Callable[[], Any]]] = []
        self._vectors = np.random.default_rng(seed)
        self._latency = r.choice((0.002, 0.01, 0.05))
        self.p_cheat = r.choice((0.0, 0.0, 0.0, 0.06))
        self.p_error = r.choice((0.0, 0.0, 0.02))
        self.p_no_answer = r.choice((0.0, 0.2))
        self._p_replan = r.choice((0.1, 0.4, 0.9))
        self._p_lag = r.choice((0.0, 0.1, 0.3))
        self._late_beta = r.choice((0.0, 1.0, 0.3))
        self._beta = r.choice((0.0, 1.0, 0.7))
        self._keeps = r.random() < 0.2
        self._rate = r.choice((0.5, 3.0, 12.0))  # of misfortunes, per virtual second
        self._misfortunes = 0
        self._chaos_steps = r.randrange(3, 9)
        self._stop_at = r.choice((inf, inf, inf, r.random()))
        self._plans = plans_for(self.n)
        self._plan_at = r.randrange(16)
        self._step = -1
        self._kept = r.choice((None, 0, 1, 3, 7))  # differences that the master keeps; None: it makes none
        self._versions: list[int] = []  # of the parameters
        self.p_astray = r.choice((0.0, 0.0, 0.1))
        self._open = False
        self.calm = 0  # 1, 2: a calm step
        self._want_step = True
        self._lagging = False
        self._stopped = False
        self._wake: float | None = None
        self._inbox: deque[Any] = deque()
        self.procs = {slot: Proc(self, slot) for slot in range(self.n)}

    # --- the clock and the network ---

    def at(self, when: float, do: Callable[[], Any]) -> None:
        """Do something later; equal times in order."""
        heapq.heappush(self._heap, (max(when, self.now), next(self._order), do))

    def ticket(self) -> int:
        """A fresh incarnation number."""
        return next(self._tickets)

    def latency(self) -> float:
        """Seconds on a link, with a long tail."""
        return self.rng.expovariate(1 / self._latency)

    def vector(self) -> Any:
        """What a message decodes to."""
        return self._vectors.standard_normal(DIMENSION, np.float32)

    def exited(self, proc: Proc, told: w.Exit) -> None:
        """A process has ended; somebody may start another one in its place."""
        self.exits.append(told)
        if proc.wire:
            proc.wire.cut("the worker ended")
        again = proc.slot == 0 or (not self.calm and self.rng.random() < 0.7)  # somebody must be there at the end
        if told.code == 0 and not self._stopped and again:
            self.at(self.now + self.rng.random(), lambda: self._restart(proc))

    def _restart(self, old: Proc) -> None:
        if self.procs[old.slot] is old and not self._stopped:
            self.procs[old.slot] = Proc(self, old.slot)

    # --- the master's driver ---

    def inbox_put(self, event: Any) -> None:
        """Queue a stamped event for the master."""
        self._inbox.append(event)
        self._pump()

    def _pump(self) -> None:
        while not self._lagging:
            hasty = self._want_step and self.rng.random() < 0.1  # events stamped before OpenStep are still in the queue
            if self._inbox and not hasty:
                self._feed(self._inbox.popleft())
            elif self._open and self._wake is not None and self.now >= self._wake:
                self._feed(Tick(self.now))
            elif self._want_step and not self._stopped and self.machine.members.live().any() and self._calm_enough():
                self._want_step = False
                self._feed(self._next_step())
            elif self._inbox:
                self._feed(self._inbox.popleft())
            else:
                return
            if self.rng.random() < self._p_lag:
                self._lag(self.rng.expovariate(8))

    def _lag(self, seconds: float) -> None:
        """The master is busy: what comes is stamped and waits."""
        self._lagging = True

        def back() -> None:
            self._lagging = False
            self._pump()

        self.at(self.now + seconds, back)

    def _calm_enough(self) -> bool:
        return not self.calm or all(self.machine.members.live()[s] for s, p in self.procs.items() if not p.over)

    def _next_step(self) -> m.OpenStep:
        r = self.rng
        self._step += r.choice((1, 1, 1, 3))
        if r.random() < self._p_replan:
            self._plan_at = min(self._plan_at + r.randrange(1, 3), len(self._plans) - 1)
        plan = self._plans[self._plan_at]
        p_R = np.array([1.0 if r.random() < 0.05 else 0.8 * r.random() for _ in range(plan.rows)])
        waits = self.calm or r.random() < 0.2
        count = r.randrange(1, plan.rows + 1) if not self.calm and r.random() < 0.2 else None
        terms = StepTerms(inf if waits else r.choice((0.0, 0.02, 0.1, 0.3)) + 0.1 * r.random(), p_R, count)
        if plan.partial and terms.deadline < inf and r.random() < 0.8:
            aim = r.random() * terms.deadline
            cut_N = np.array([aim * r.uniform(-0.1, 1.0) for _ in range(self.n)])
            terms = replace(terms, aim=aim, cut_N=cut_N)
        counted_R = plan.weighted_R() & (p_R < 1)
        weight_R = np.where(counted_R, 1 / (1 - np.where(counted_R, p_R, 0)), 0.0)
        keep = frozenset(i for i in range(plan.rows) if self._keeps and r.random() < 0.5)
        decoder = Weighing(weight_R, counted_R, self._beta * np.ones(plan.rows), self._late_beta, keep)
        self._open = True
        self._versions.append(self._step)
        since = None if self._kept is None else self._versions[-1 - min(self._kept, len(self._versions) - 1)]
        return m.OpenStep(self.now, self._step, self._step, plan, terms, decoder, since)

    def _feed(self, event: Any) -> None:
        out = self.machine.handle(event)
        self.trace.append(Did(self.now, MASTER, 0, -1, event, out))
        halted = None
        if isinstance(event, m.Stop):
            self._stopped = True
        for told in out:
            match told:
                case m.CloseStep():
                    self._open, self._wake = False, None
                    self._closed()
                case Wake(at=when):
                    self._wake = when
                    self.at(when, self._pump)
                case m.Halt(text=text):
                    halted = text
                case m.Admit() | m.Refuse() | m.Announce() | m.SendRound() | m.CloseLink() | m.Leave():
                    self._tell(told)
        if halted and not self._stopped:
            self._feed(m.Stop(event.at, halted))

    def _tell(self, told: Any) -> None:
        wire = self.wires.get(told.peer)
        if wire is None:
            return
        match told:
            case m.Admit():
                wire.down(lambda at: w.Linked(at, told.peer.inc))
            case m.Refuse():
                wire.down(lambda at: w.Refused(at, told.reason))
            case m.Announce():
                wire.down(lambda at: w.Announced(at, told.step), announcement=True)
            case m.SendRound():
                wire.down(lambda at: w.RoundIn(at, told.round, None))
            case m.CloseLink():
                wire.cut(told.reason, tell_master=self.rng.random() < 0.5)
            case m.Leave():
                wire.down(w.Released)

    def _closed(self) -> None:
        """The driver decodes and the user's optimizer steps; then comes the next one."""
        if self.calm == 2:
            self.at(self.now, lambda: self.inbox_put(m.Stop(self.now, "done")))
            return
        pause = 0.1 * self.rng.random()
        if self.calm or self._step >= self._chaos_steps:
            self.calm += 1
            self._peace()
            pause = 20.0  # long enough for every misfortune to be over
        self._lag(0.05 * self.rng.random())
        if not self._stopped and self.rng.random() < 0.1:  # a checkpoint
            self._feed(m.Settle(self.now, self._step + 1))

        def want() -> None:
            self._want_step = True
            self._pump()

        self.at(self.now + pause, want)

    # --- misfortunes ---

    def _peace(self) -> None:
        self.p_cheat = self.p_error = self.p_astray = self.p_no_answer = self._p_lag = 0.0

    def _misfortune(self) -> None:
        r = self.rng
        if self.calm or self._stopped:
            return
        self._misfortunes += 1
        self.at(self.now + r.expovariate(self._rate if self._misfortunes < 50 else 0.2), self._misfortune)
        proc = self.procs[r.randrange(self.n)]
        wire = proc.wire
        match r.choice(("cut", "cut", "kill", "leave", "silent", "stranger")):
            case "cut" if wire:
                wire.cut("cut")
            case "kill" if not proc.over:
                proc.over = True
                if wire:
                    wire.cut("killed")
                self.at(self.now + r.expovariate(5), lambda: self._restart(proc))
            case "leave" if r.random() < 0.3:
                proc.put(w.Sigterm(self.now))
            case "silent" if wire:
                peer = wire.peer
                self.inbox_put(m.Silent(self.now, peer, 5.0))
                self.at(self.now + 0.2, lambda: self.inbox_put(m.Silent(self.now, peer, 0.0)))
            case "stranger" if self.p_cheat:
                self._stranger()

    def _stranger(self) -> None:
        """Words of somebody who has no link, or a link that is gone, or another model."""
        r, at = self.rng, self.now
        peer = Peer(r.randrange(self.n), r.choice((0, 10**6)))
        self.inbox_put(
            r.choice(
                (
                    m.Arrived(at, peer, Head(self._step, 0, 0, 1, 0, 8), self.vector()),
                    m.Credit(at, peer, -1, "fresh"),
                    m.Lost(at, peer, "never seen"),
                    m.Leaving(at, peer),
                    m.Failed(at, peer, self._step, 0, "boom"),
                    m.Joined(at, Peer(self.n + 1, self.ticket()), HELLO),
                    m.Joined(at, Peer(0, 0), HELLO),
                    m.Joined(at, Peer(0, self.ticket()), HELLO._replace(samples=1)),
                )
            )
        )

    def run(self) -> list[Did]:
        """Let it all happen; ``failure`` says what must not have."""
        self.at(self.rng.expovariate(self._rate), self._misfortune)
        if self._stop_at < inf:
            self.at(self._stop_at, lambda: self.inbox_put(m.Stop(self.now, "SIGTERM")))
        for _ in range(50_000):
            if not self._heap:
                break
            self.now, _, do = heapq.heappop(self._heap)
            do()
        else:
            self.failure = "no end of it"
        if self.failure is None:
            self.failure = self._why_wrong()
        return self.trace

    def _why_wrong(self) -> str | None:
        if not self._stopped:
            return f"step {self._step} stands still"
        bad = [e for e in self.exits if e.code]
        if bad:
            return f"a worker ended with {bad[0]}"
        left = [s for s, p in self.procs.items() if not p.over and p.wire]
        return f"workers {left} were not released" if left else None


def at_master(trace: Iterable[Did]) -> list[Did]:
    """The master's part of a trace."""
    return [did for did in trace if did.who == MASTER]


def fresh(event: Any) -> Any:
    """The same event, with its decoder as it was before anything arrived."""
    return replace(event, decoder=event.decoder.fresh()) if isinstance(event, m.OpenStep) else event  # type: ignore[attr-defined]
