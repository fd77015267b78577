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
        self._ready = threading.Condition()
        self._events: deque[E] = deque()
        self._timers: list[tuple[float, int, Callable[[float], E], object]] = []
        self._order = itertools.count()

    def now(self) -> float:
        """Monotonic seconds."""
        return self._clock()

    def put(self, make: Callable[[float], E]) -> None:
        """Stamp and queue ``make(now)``; called by any thread."""
        with self._ready:
            self._release_timers(self._clock())
            self._events.append(make(self._clock()))
            self._ready.notify()

    def later(self, at: float, make: Callable[[float], E], tag: object = None) -> None:
        """Queue ``make(at)`` when its time comes; in the past: now."""
        with self._ready:
            heapq.heappush(self._timers, (at, next(self._order), make, tag))
            self._ready.notify()

    def cancel(self, tag: object) -> None:
        """Forget the timers of this tag."""
        with self._ready:
            self._timers = [timer for timer in self._timers if timer[3] != tag]
            heapq.heapify(self._timers)

    def get(self, until: float | None = None) -> E:
        """The next event; a Tick once ``until`` has passed and nothing stamped before is left."""
        with self._ready:
            while True:
                now = self._clock()
                self._release_timers(now)
                if self._events:
                    return self._events.popleft()
                if until is not None and now >= until:
                    return self._tick(now)
                wakes = [at for at in (until, self._timers[0][0] if self._timers else None) if at is not None]
                # never wait for ever: signal handlers of the main thread run between waits
                self._ready.wait(min(1.0, max(0.0, min(wakes) - now)) if wakes else 1.0)

    def _release_timers(self, now: float) -> None:
        while self._timers and self._timers[0][0] <= now:
            _, _, make, _ = heapq.heappop(self._timers)
            self._events.append(make(now))
