"""Progress on the terminal: a live picture on a tty, else a plain line after some steps; training never waits."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType

from rich.console import Console
from rich.live import Live

from gcdist.observe.board import Board
from gcdist.observe.stream import Observer, StepRecord

_REFRESH = 0.1  # seconds between two pictures, at least
_LINES = 1000  # most lines that wait for a slow terminal; beyond it, the oldest are dropped
_ROOM = 8  # lines of a terminal that are not workers'


class Progress(Observer):
    """Shows the steps of a run. A thread of its own writes, so `step` and `note` return at once.

    ``every``: steps between two plain lines when ``console`` is not a terminal, about 20 lines a run by default.
    ``virtual``: the run's seconds are those of a virtual clock. ``clock``: see `Board`.
    """

    def __init__(
        self,
        steps: int | None,
        console: Console | None = None,
        every: int | None = None,
        virtual: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._steps = steps
        self._console = console or Console()
        self._live = self._console.is_terminal
        self._given = every is not None
        self._every = every or max(1, (steps or 200) // 20)
        self._board = Board(steps, virtual, clock)
        self._fresh = False  # a step waits for display
        self._lines: deque[str] = deque(maxlen=_LINES)
        self._word = threading.Condition()
        self._closing = threading.Event()
        self._closed = False
        self._writer = threading.Thread(target=self._write, name="gcdist-progress", daemon=True)
        self._writer.start()

    def step(self, record: StepRecord) -> None:
        """Show a finished step."""
        with self._word:
            self._board.add(record)
            self._fresh = True
            done = record.step + 1
            if not self._live and (record.step == 0 or done % self._every == 0 or done == self._steps):
                self._lines.append(self._board.line())
            self._word.notify()

    def evaluation(self, step: int, seconds: float, metrics: Mapping[str, float]) -> None:
        """Show the metrics from the next step on."""
        with self._word:
            self._board.evaluate(metrics, step)

    def expect(self, steps: int) -> None:
        """The run has so many steps."""
        with self._word:
            self._steps = self._board.steps = steps
            if not self._given:
                self._every = max(1, steps // 20)

    def note(self, text: str) -> None:
        """Show a permanent line: a worker lost, a new plan; after the close it is written at once."""
        with self._word:
            if not self._closed:
                self._lines.append(text)
                self._word.notify()
                return
        with suppress(OSError, ValueError):
            self._print(text)

    def close(self) -> None:
        """Show the waiting lines, for two seconds at most; idempotent."""
        self._closing.set()
        with self._word:
            self._word.notify()
        self._writer.join(timeout=2.0)
        with self._word:
            self._closed = not self._writer.is_alive()  # a stuck writer may hold the terminal

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _write(self) -> None:
        try:
            if self._live:
                with Live(console=self._console, auto_refresh=False) as live:
                    self._follow(live)
            else:
                self._follow(None)
        except (OSError, ValueError):
            pass  # the terminal is gone; the run goes on

    def _follow(self, live: Live | None) -> None:
        while True:
            with self._word:
                self._word.wait_for(lambda: self._lines or self._fresh or self._closing.is_set())
                last = self._closing.is_set()
                lines, picture = list(self._lines), None
                if live is not None and self._fresh:
                    picture = self._board.picture(max(1, self._console.size.height - _ROOM))
                self._lines.clear()
                self._fresh = False
            for line in lines:
                self._print(line)
            if live is not None and picture is not None:
                live.update(picture, refresh=True)
            if last:
                return
            if live is not None:
                self._closing.wait(_REFRESH)
