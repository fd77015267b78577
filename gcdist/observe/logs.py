"""The workers' log files, in the run's folder at the master, for workers on any host."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from gcdist.observe.files import add_record, make_folder, open_for_records

BYTES_A_MINUTE = 64 << 10  # most bytes of one worker
WINDOW = 60.0  # seconds


class LineBudget:
    """A budget of bytes for each minute; lines beyond it are left out.

    >>> budget = LineBudget(100)
    >>> [budget.admit(now, 60) for now in (0.0, 1.0, 60.0)], budget.left_out
    ([True, False, True], 1)
    """

    def __init__(self, limit: int = BYTES_A_MINUTE) -> None:
        self._limit = limit
        self._began = float("-inf")
        self._used = 0
        self.left_out = 0  # lines, since it was last set to 0

    def admit(self, now: float, nbytes: int) -> bool:
        """Whether a line of ``nbytes`` is kept at ``now`` (seconds, monotonic)."""
        if now - self._began >= WINDOW:
            self._began, self._used = now, 0
        self._used += nbytes
        if self._used <= self._limit:
            return True
        self.left_out += 1
        return False


def left_out_text(count: int) -> str:
    """The line in place of those left out."""
    return f"{count} lines were left out here ({BYTES_A_MINUTE >> 10} kB a minute are kept, less without a link)"


class WorkerLogs:
    """Writes ``worker-RANK.log`` files into ``folder``; called by any thread.

    A text has the time of its arrival; its further lines are indented. The master limits a worker's lines here again,
    because it does not trust a peer with its disk. A full disk loses lines, but does not end the run.
    ``must_be_ours`` raises OSError where another run's folder stands in the place of this one's.
    """

    def __init__(
        self,
        folder: Path,
        clock: Callable[[], float] = time.monotonic,
        must_be_ours: Callable[[], None] = lambda: None,
    ) -> None:
        self._folder = folder
        self._clock = clock
        self._must_be_ours = must_be_ours
        self._lock = threading.Lock()
        self._budgets: dict[int, LineBudget] = {}
        self._closed = False

    def add(self, rank: int, text: str) -> None:
        """Add a text of worker ``rank``."""
        raw = text.encode(errors="replace")
        with self._lock:
            if self._closed:
                return
            # twice a worker's own limit, because its minutes begin at other times
            budget = self._budgets.setdefault(rank, LineBudget(2 * BYTES_A_MINUTE))
            if budget.admit(self._clock(), len(raw)):
                if budget.left_out:
                    self._write(rank, left_out_text(budget.left_out))
                    budget.left_out = 0
                self._write(rank, text)

    def close(self) -> None:
        """Write the last count of lines left out, and no more lines. Idempotent."""
        with self._lock:
            self._closed = True
            for rank, budget in self._budgets.items():
                if budget.left_out:
                    self._write(rank, left_out_text(budget.left_out))
                    budget.left_out = 0

    def _write(self, rank: int, text: str) -> None:
        lines = text.strip().replace("\n", "\n    ")
        with suppress(OSError):
            self._must_be_ours()
            make_folder(self._folder)
            handle = open_for_records(self._folder / f"worker-{rank}.log")
            try:
                add_record(handle, f"{time.strftime('%Y-%m-%d %H:%M:%S')} {lines}\n".encode(errors="replace"))
            finally:
                os.close(handle)
