"""Whose message passes next: at the master, one round or message with a gradient after another."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

from gcdist.hashing import hashed
from gcdist.simulator.clock import Clock
from gcdist.simulator.cores import Cores


class LinkTurns:
    """Each message takes ``seconds`` of a core at the two ends of its link, and the master's process passes one at a time.

    First come, first served; which of several that come at the same instant is first, the threads' scheduler decides: here
    an order drawn from ``seed``.

    >>> clock, passed = Clock(), []
    >>> turns = LinkTurns(clock, Cores(clock, 0), 0.001, seed=0)
    >>> for worker in range(3):
    ...     turns.take(lambda worker=worker: passed.append((worker, clock.now)))
    >>> while clock.next_at() is not None:
    ...     clock.step()
    >>> passed
    [(1, 0.001), (2, 0.002), (0, 0.003)]
    """

    def __init__(self, clock: Clock, cores: Cores, seconds: float, seed: int) -> None:
        self._clock, self._cores, self.seconds, self._seed = clock, cores, seconds, seed
        self._waiting: list[tuple[float, int, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._busy = False

    def take(self, done: Callable[[], None]) -> None:
        """Call ``done`` once the message has passed; at once where that takes no time."""
        if not self.seconds:
            done()
            return
        number = next(self._order)
        heapq.heappush(self._waiting, (self._clock.now, hashed(self._seed, number), number, done))
        if not self._busy:
            self._busy = True
            self._clock.at(self._clock.now, self._begin)  # behind all that come at this instant

    def at_rest(self) -> None:
        """Draw the order of what comes now as from the beginning: nothing waits, and a resumed run has counted nothing."""
        self._order = itertools.count()

    def _begin(self) -> None:
        *_, done = heapq.heappop(self._waiting)

        def end() -> None:
            done()
            if self._waiting:
                self._begin()
            else:
                self._busy = False

        if self._cores.shared:
            self._cores.work_shortly(self.seconds, end)
        else:
            self._clock.at(self._clock.now + self.seconds, end)
