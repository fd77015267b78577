"""One queue for all events of a process: stamped, in stamp order, with timers and a tick.

Stamp and place in the queue are given under one lock, so that when a Tick at time t is handed out every event stamped
before t has been handed out already: a message counts by its stamp, however late it is handled.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

E = TypeVar("E")


class Inbox(Generic[E]):
    """Thread-safe; ``tick`` makes the event that is handed out when a wait is over."""

    def __init__(self, tick: Callable[[float], E], clock: Callable[[], float] = time.monotonic) -> None:
        self._tick = tick
        self._clock = clock
        self._lock = threading.RLock()  # a signal handler may `put` while its thread holds it
        self._ready = threading.Condition(self._lock)
        self._events: deque[E] = deque()
        self._timers: list[tuple[float, int, Callable[[float], E], object]] = []
        self._order = itertools.count()

    def now(self) -> float:
        """Monotonic seconds."""
        return self._clock()

    def put(self, make: Callable[[float], E]) -> None:
        """Stamp and queue ``make(now)``; called by any thread."""
        with self._lock:
            self._release_timers(self._clock())
            self._events.append(make(self._clock()))
            self._wake()

    def later(self, at: float, make: Callable[[float], E], tag: object = None) -> None:
        """Queue ``make(at)`` when its time comes; in the past: now."""
        with self._lock:
            heapq.heappush(self._timers, (at, next(self._order), make, tag))
            self._wake()

    def cancel(self, tag: object) -> None:
        """Forget the timers of this tag."""
        with self._lock:
            self._timers = [timer for timer in self._timers if timer[3] != tag]
            heapq.heapify(self._timers)

    def get(self, until: float | None = None) -> E:
        """The next event; a Tick once ``until`` has passed and nothing stamped before is left."""
        with self._lock:
            while True:
                if (event := self.poll()) is not None:
                    return event
                now = self._clock()
                if until is not None and now >= until:
                    return self._tick(now)
                self._ready.wait(self._patience(now, until))

    def poll(self) -> E | None:
        """The next event if one is ready now; never waits."""
        with self._lock:
            return self._events.popleft() if self._is_ready() else None

    def _wake(self) -> None:
        """Something has come; the lock is held."""
        self._ready.notify()

    def _is_ready(self) -> bool:
        """Whether an event is ready now."""
        self._release_timers(self._clock())
        return bool(self._events)

    def _patience(self, now: float, until: float | None = None) -> float:
        """Seconds to the next timer or ``until``, at most 1: signal handlers of the main thread run between waits."""
        wakes = [at for at in (until, self._timers[0][0] if self._timers else None) if at is not None]
        return min(1.0, max(0.0, min(wakes) - now)) if wakes else 1.0

    def _release_timers(self, now: float) -> None:
        while self._timers and self._timers[0][0] <= now:
            _, _, make, _ = heapq.heappop(self._timers)
            self._events.append(make(now))


class SharedInbox(Inbox[E]):
    """An inbox of two threads: the first has other work too, the second handles events meanwhile.

    To wake a thread costs more than most events do. So an event wakes the first thread if that is waiting, nobody if it is
    about to look again, and the second one only while the first is away. Both take events by `poll`, under a lock of theirs
    that keeps the order.
    """

    def __init__(self, tick: Callable[[float], E], clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(tick, clock)
        self._first = threading.Condition(self._lock)
        self._away = True  # the first thread does other work, or has not come yet
        self._called = self._over = False
        self._sleeps_until = 0.0  # the second thread

    def attend(self) -> None:
        """First thread: wait until an event is ready, or `call`."""
        with self._lock:
            self._away = False
            while not (self._called or self._is_ready()):
                self._first.wait(self._patience(self._clock()))
            self._called = False

    def leave(self) -> None:
        """First thread: other work begins; what is ready, and timers, are the second thread's now."""
        with self._lock:
            self._away = True
            if self._events or (self._timers and self._timers[0][0] < self._sleeps_until):
                self._ready.notify()

    def back(self) -> None:
        """First thread: the other work is done, and it will look for events."""
        with self._lock:
            self._away = False

    def call(self) -> None:
        """Let `attend` return; called by any thread."""
        with self._lock:
            self._called = True
            self._first.notify()

    def stand_in(self) -> bool:
        """Second thread: wait until an event is ready while the first thread is away; False: it is `over`."""
        with self._lock:
            while not self._over:
                ready = self._is_ready()  # also while the first thread is here: what is over must not be waited for
                if ready and self._away:
                    return True
                now = self._clock()
                seconds = self._patience(now)
                self._sleeps_until = now + seconds
                self._ready.wait(seconds)
            return False

    def over(self) -> None:
        """Let both waits end for good."""
        with self._lock:
            self._over = self._called = True
            self._ready.notify()
            self._first.notify()

    def _wake(self) -> None:
        (self._ready if self._away else self._first).notify()
