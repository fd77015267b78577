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
        self._heap: list[tuple[float, int, Coming]] = []
        self._order = itertools.count()
        self._off = 0  # called off and still in the heap

    def at(self, when: float, do: Callable[[], None], pressing: bool = True) -> Coming:
        """Call ``do`` at ``when`` (now, if that is past)."""
        coming = Coming(do, pressing)
        heapq.heappush(self._heap, (max(when, self.now), next(self._order), coming))
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
            self._heap = [each for each in self._heap if each[2].do is not None]
            heapq.heapify(self._heap)
            self._off = 0

    def next_at(self) -> float | None:
        """When the next thing happens."""
        while self._heap and self._heap[0][2].do is None:
            heapq.heappop(self._heap)
            self._off -= 1
        return self._heap[0][0] if self._heap else None

    def step(self) -> None:
        """Let the next thing happen; there must be one (`next_at`)."""
        self.now, _, coming = heapq.heappop(self._heap)
        do, coming.do = coming.do, None
        self.pressing -= coming.pressing
        if do is not None:
            do()
