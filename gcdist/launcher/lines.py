"""Lines of many processes on one standard error, each whole and after its sender's name."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable

LINE_BYTES = 1 << 16  # a longer line is cut


class Lines:
    """Copies the lines of children to this process's standard error; threads of its own read them."""

    def __init__(self) -> None:
        self._copying: list[threading.Thread] = []
        self._writing = threading.Lock()

    def say(self, text: str) -> None:
        """A line of the launcher's own."""
        self._write(f"gcdist launch: {text}\n".encode())

    def copy(self, name: str, read: int, hears: Callable[[bytes], bool] | None = None) -> None:
        """Copy the lines of this descriptor, each after ``[name]`` if there is one; close it at its end.

        A line with a true ``hears(line)`` is not copied; ``hears`` is called from another thread.
        """
        before = f"[{name}] ".encode() if name else b""

        def copy() -> None:
            with os.fdopen(read, "rb") as lines:
                while line := lines.readline(LINE_BYTES):
                    if hears is None or not hears(line):
                        self._write(before + line.rstrip(b"\n") + b"\n")

        thread = threading.Thread(target=copy, name=f"{name}-lines", daemon=True)
        thread.start()
        self._copying = [other for other in self._copying if other.is_alive()] + [thread]

    def finish(self) -> None:
        """Wait for the last lines."""
        for thread in self._copying:
            thread.join(timeout=2.0)

    def _write(self, line: bytes) -> None:
        with self._writing, contextlib.suppress(OSError, ValueError):  # the terminal may be gone; the run goes on
            sys.stderr.buffer.write(line)
            sys.stderr.buffer.flush()
