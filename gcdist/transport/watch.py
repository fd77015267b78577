"""One thread a process that judges the silence of all its links.

A gloo wait cannot be used for it: an expired wait closes the pair, and a large body may rightly hold up the next header.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import Protocol

from gcdist.transport.threads import spawn

_LATE = 0.25  # s; waking this much late means that this very process was stopped or busy


class Watched(Protocol):
    """What the watch looks after."""

    def judge(self, now: float) -> float:
        """Act on what is due at ``now``; return when to look again."""
        ...


class _Watch:
    """The thread lives as long as there is something to watch."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._watched: set[Watched] = set()
        self._thread: threading.Thread | None = None
        self._stirred = False  # something changed since the last look

    def add(self, item: Watched) -> None:
        """Begin to judge ``item``."""
        with self._changed:
            self._watched.add(item)
            if self._thread is None:
                self._thread = spawn("watch", self._run)
            self._stir()

    def remove(self, item: Watched) -> None:
        """Forget ``item``."""
        with self._changed:
            self._watched.discard(item)
            self._stir()

    def poke(self) -> None:
        """Something is due earlier than was said."""
        with self._changed:
            self._stir()

    def _stir(self) -> None:
        self._stirred = True
        self._changed.notify()

    @staticmethod
    def _judged(item: Watched, now: float) -> float:
        try:
            return item.judge(now)
        except Exception:  # one item's error must not end the watch over the others
            sys.excepthook(*sys.exc_info())
            return now + 1.0

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._watched:
                    self._thread = None
                    return
                items = list(self._watched)
                self._stirred = False
            now = time.monotonic()
            due = min(self._judged(item, now) for item in items)
            with self._changed:
                self._changed.wait_for(lambda: self._stirred, max(0.001, due - now))
            if time.monotonic() > due + _LATE:
                time.sleep(_LATE)  # let the receiving threads say what came meanwhile before anyone is judged


watch = _Watch()
