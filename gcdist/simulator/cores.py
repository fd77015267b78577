"""Cores that simulated workers share: who computes at the same time computes slower (processor sharing)."""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from gcdist.simulator.clock import Clock, Coming


@dataclass(slots=True)
class Job:
    """Work that somebody has begun; ``done`` None: nobody waits for it."""

    done: Callable[[], object] | None
    given_up: bool = False


class Cores:
    """``count`` cores, shared evenly by everybody who computes, each on one core at most.

    A job needs seconds of a core. All jobs advance at the same rate, so the one that ends next is known from the sum of
    what each has been given since the beginning: adding and ending one costs the logarithm of their number.

    >>> clock, ended = Clock(), []
    >>> cores = Cores(clock, 2)
    >>> for seconds in (1.0, 1.0, 2.0, 2.0):
    ...     _ = cores.work(seconds, lambda: ended.append(clock.now))
    >>> while clock.next_at() is not None:
    ...     clock.step()
    >>> ended
    [2.0, 2.0, 3.0, 3.0]
    """

    def __init__(self, clock: Clock, count: int) -> None:
        self._clock = clock
        self._count = count  # 0: a core for everybody, nothing to share
        self._taken = 0  # cores that short work has taken
        self._short: deque[tuple[float, Callable[[], object]]] = deque()  # short work that waits for a core
        self._busy = 0  # jobs that are worked on
        self._given = 0.0  # seconds of a core that each job has been given since the beginning
        self._since = clock.now  # when that was true
        self._heap: list[tuple[float, int, Job]] = []  # what will have been given when it ends
        self._order = itertools.count()
        self._next: Coming | None = None

    @property
    def shared(self) -> bool:
        """Whether jobs can slow each other down; without, a job simply takes its seconds and need not come here."""
        return self._count > 0

    def work(self, seconds: float, done: Callable[[], object]) -> Job:
        """Begin a job that needs ``seconds`` of a core; ``done`` is called at its end."""
        self._advance()
        job = Job(done)
        heapq.heappush(self._heap, (self._given + seconds, next(self._order), job))
        self._busy += 1
        self._plan()
        return job

    def give_up(self, job: Job) -> None:
        """Stop a job that has not ended; the others go on faster."""
        self._advance()
        job.done, job.given_up = None, True
        self._busy -= 1
        self._plan()

    def work_shortly(self, seconds: float, done: Callable[[], object]) -> None:
        """Work of a thread that has just woken: it takes a core from the jobs, and keeps it; first come, first served.

        A system's scheduler prefers who has waited, and gives turns of some milliseconds, so that short work is not shared.
        """
        self._short.append((seconds, done))
        self._begin_short()

    def _begin_short(self) -> None:
        while self._short and self._taken < self._count:
            seconds, done = self._short.popleft()
            self._advance()
            self._taken += 1
            self._plan()
            self._clock.at(self._clock.now + seconds, partial(self._end_short, done))

    def _end_short(self, done: Callable[[], object]) -> None:
        self._advance()
        self._taken -= 1
        self._plan()
        done()
        self._begin_short()

    def _rate(self) -> float:
        return min(1.0, max(0, self._count - self._taken) / self._busy)

    def _advance(self) -> None:
        if self._busy:
            self._given += (self._clock.now - self._since) * self._rate()
        self._since = self._clock.now

    def _plan(self) -> None:
        """Ask for the end of the job that ends next."""
        if self._next is not None:
            self._clock.call_off(self._next)
            self._next = None
        while self._heap and self._heap[0][2].given_up:
            heapq.heappop(self._heap)
        if self._heap and self._rate():
            left = max(0.0, self._heap[0][0] - self._given)
            self._next = self._clock.at(self._clock.now + left / self._rate(), self._end)

    def _end(self) -> None:
        self._next = None
        self._since = self._clock.now
        self._given, _, job = heapq.heappop(self._heap)
        self._busy -= 1
        self._plan()
        if job.done is not None:
            job.done()
