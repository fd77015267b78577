"""A worker's log lines: on its own stderr, and in its file in the run's folder at the master."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from gcdist.observe.logs import LineBudget, left_out_text

RECORD_BYTES = 8 << 10  # of one text; a longer one loses its middle
RECORDS_KEPT = 200  # while there is no link
LAUNCHED = "GCDIST_LAUNCH"  # set by `gcdist launch`, which puts all lines on one terminal
OLD = 1.0  # seconds; a text that waited longer says so


class WorkerLog:
    """Texts on their way to the master; called by any thread, never blocks.

    One frame is under way at a time and the next one goes when it has left: a link that is full, or gone, costs the oldest
    texts and nothing else.

    Args:
        name: of the worker, for its stderr.
        post: sends a text as a frame; `ready` must be called when it has left.
        clock: monotonic seconds.
    """

    def __init__(self, name: str, post: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._post = post
        self._clock = clock
        self._lock = threading.RLock()  # a finaliser may warn while a text is being added
        self._waiting: deque[tuple[float, str]] = deque()
        self._budget = LineBudget()
        self._pushed_out = 0  # texts that waited for a link when newer ones came
        self._under_way: tuple[float, str] | None = None
        self._linked = False

    def say(self, text: str) -> None:
        """Add a text, and show it on stderr; of a traceback that the master shows on the same terminal the first line."""
        shown = text.partition("\n")[0] if LAUNCHED in os.environ else text
        with suppress(OSError, ValueError):  # a closed stderr must not end a worker
            print(f"gcdist worker {self._name}: {shown}", file=sys.stderr, flush=True)
        self.add(text)

    def add(self, text: str) -> None:
        """Add a text for the master's file alone."""
        text = shortened(text)
        with self._lock:
            now = self._clock()
            if not self._budget.admit(now, len(text.encode(errors="replace"))):
                return
            self._tell_left_out(now)
            self._put(now, text)
            self._send()

    def ready(self) -> None:
        """There is a link that takes a frame: it is new, or the last frame has left."""
        with self._lock:
            self._linked, self._under_way = True, None
            self._send()

    def lost(self) -> None:
        """There is no link; what had not left waits for the next one."""
        with self._lock:
            self._linked = False
            if self._under_way is not None:
                self._waiting.appendleft(self._under_way)
                self._under_way = None

    def last(self, text: str) -> None:
        """The worker's last words: all that waits is posted at once."""
        with self._lock:
            now = self._clock()
            self._tell_left_out(now)
            self._waiting.append((now, shortened(text)))
            while self._linked and self._waiting:
                self._under_way = None
                self._send()

    def _tell_left_out(self, now: float) -> None:
        if self._budget.left_out:
            self._put(now, left_out_text(self._budget.left_out))
            self._budget.left_out = 0

    def _put(self, now: float, text: str) -> None:
        while len(self._waiting) >= RECORDS_KEPT:
            self._waiting.popleft()
            self._pushed_out += 1
        self._waiting.append((now, text))

    def _send(self) -> None:
        if self._linked and self._under_way is None and self._waiting:
            if self._pushed_out:
                self._waiting.appendleft((self._clock(), left_out_text(self._pushed_out)))
                self._pushed_out = 0
            self._under_way = at, text = self._waiting.popleft()
            age = self._clock() - at
            self._post(text if age < OLD else f"({age:.0f} s ago) {text}")


def shortened(text: str) -> str:
    """``text`` with at most RECORD_BYTES bytes of UTF-8; beginning and end are kept.

    >>> shortened("short"), len(shortened("long" * 10_000))
    ('short', 8116)
    """
    if len(text) * 4 <= RECORD_BYTES or len(raw := text.encode(errors="replace")) <= RECORD_BYTES:
        return text
    half = RECORD_BYTES // 2 - 50
    head, tail = (part.decode(errors="ignore") for part in (raw[:half], raw[-half:]))
    return f"{head}\n[{len(raw) - 2 * half} bytes left out]\n{tail}"


@contextmanager
def heard(log: WorkerLog) -> Iterator[None]:
    """Inside, warnings and `logging` records of level WARNING and above are copied into the log.

    What else becomes of them stays as it is, on stderr too.
    """
    handler = _Copy(log)
    root = logging.getLogger()
    root.addHandler(handler)
    show = warnings.showwarning

    def shown(message: Any, category: Any, filename: Any, lineno: Any, file: Any = None, line: Any = None) -> None:
        show(message, category, filename, lineno, file, line)
        if file is None:
            log.add(warnings.formatwarning(message, category, filename, lineno, line).rstrip())

    warnings.showwarning = shown
    try:
        yield
    finally:
        if warnings.showwarning is shown:
            warnings.showwarning = show
        root.removeHandler(handler)


class _Copy(logging.Handler):
    """Copies records into the log."""

    def __init__(self, log: WorkerLog) -> None:
        super().__init__(logging.WARNING)
        self.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Copy; and show what logging would have shown if this handler were not there."""
        if logging.lastResort is not None and not self._others(record):
            logging.lastResort.handle(record)
        try:
            text = self.format(record)
        except Exception:  # a bad format string is the user's; logging's own way of saying so
            self.handleError(record)
            return
        self._log.add(text)

    def _others(self, record: logging.LogRecord) -> bool:
        logger: logging.Logger | None = logging.getLogger(record.name)
        while logger is not None:
            if any(handler is not self for handler in logger.handlers):
                return True
            logger = logger.parent if logger.propagate else None
        return False
