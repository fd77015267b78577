"""The simulator's clock."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(slots=True)
class Coming:
    """Something that will happen; ``do`` is None once it was called off."""

    do: Callable[[], None] | None
    pressing: bool


class Clock:
    """Virtual seconds, and what happens when; equal times in the order in which they were asked for.

    ``pressing``: things to come that a standstill waits for.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.pressing = 0
        self.resting = 0.0  # until then timers run of which nothing will come: a standstill waits for them, too
        self._heap: list[tuple[float, float, int, Coming]] = []  # when, asked when, number
        self._order = itertools.count()
        self._off = 0  # called off and still in the heap

    def at(self, when: float, do: Callable[[], None], pressing: bool = True, asked: float | None = None) -> Coming:
        """Call ``do`` at ``when`` (now, if that is past); in turn as if it had been ``asked`` for then, not now."""
        coming = Coming(do, pressing)
        now = self.now
        entry = max(when, now), now if asked is None else asked, next(self._order), coming
        heapq.heappush(self._heap, entry)
        self.pressing += pressing
        return coming

    def call_off(self, coming: Coming) -> None:
        """It will not happen; nothing, if it has."""
        if coming.do is None:
            return
        coming.do = None
        self.pressing -= coming.pressing
        self._off += 1
        if 2 * self._off > len(self._heap):  # delays can be very long: what was called off must not pile up
            self._heap = [each for each in self._heap if each[3].do is not None]
            heapq.heapify(self._heap)
            self._off = 0

    def adopt(self, other: Clock) -> None:
        """Take over what is to come on another clock, in its turn."""
        for when, asked, _, coming in sorted(other._heap):
            if coming.do is not None:
                heapq.heappush(self._heap, (when, asked, next(self._order), coming))
                self.pressing += coming.pressing

    def next_at(self) -> float | None:
        """When the next thing happens."""
        while self._heap and self._heap[0][3].do is None:
            heapq.heappop(self._heap)
            self._off -= 1
        return self._heap[0][0] if self._heap else None

    def step(self) -> None:
        """Let the next thing happen; there must be one (`next_at`)."""
        self.now, _, _, coming = heapq.heappop(self._heap)
        do, coming.do = coming.do, None
        self.pressing -= coming.pressing
        if do is not None:
            do()
