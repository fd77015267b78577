"""One thread a process that judges the silence of all its links.

A gloo wait cannot do it: an expired wait closes the pair, and a large body may rightly delay the next header.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import Protocol

from gcdist.transport.threads import spawn

_LATE = 0.25  # s; a wake-up later than this means that this process itself was stopped or busy


class Watched(Protocol):
    """An object under the watch."""

    def judge(self, now: float) -> float:
        """Act on events due at ``now``; return the time of the next check."""
        ...


class _Watch:
    """The watch; its thread lives while it has items."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._watched: set[Watched] = set()
        self._thread: threading.Thread | None = None
        self._stirred = False  # a change since the last check

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
        """An item is due earlier than its last answer."""
        with self._changed:
            self._stir()

    def _stir(self) -> None:
        self._stirred = True
        self._changed.notify()

    @staticmethod
    def _judged(item: Watched, now: float) -> float:
        try:
            return item.judge(now)
        except Exception:  # an error of one item must not end the watch over the others
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
                time.sleep(_LATE)  # receiving threads first report arrived frames, before any link is judged


watch = _Watch()
