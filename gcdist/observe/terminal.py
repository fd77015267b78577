"""Progress on the terminal: one live line on a tty, else a plain line every some steps; training never waits for it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from gcdist.observe.summary import bytes_text, metric_text

_REFRESH = 0.1  # seconds between two pictures of the live line, at least
_WHOLE = 0.995  # of the data: from here on a loss is shown as that of all
_LINES = 1000  # lines that wait for a terminal that does not take them; older ones are dropped


class Progress:
    """Shows the steps of a run. A thread of its own writes: `step` and `note` only leave word and return.

    ``every``: steps between two plain lines when ``console`` is not a terminal, about 20 lines a run by default.
    """

    def __init__(self, steps: int, console: Console | None = None, every: int | None = None) -> None:
        self._steps = steps
        self._console = console or Console()
        self._live = self._console.is_terminal
        self._every = every or max(1, steps // 20)
        self._bytes_up = self._bytes_down = 0
        self._done = 0
        self._status: str | None = None
        self._fresh = False  # a status that is not shown yet
        self._lines: deque[str] = deque(maxlen=_LINES)
        self._word = threading.Condition()
        self._closing = threading.Event()
        self._writer = threading.Thread(target=self._write, name="gcdist-progress", daemon=True)
        self._writer.start()

    def step(
        self,
        step: int,
        seconds: float,
        loss: float | None,
        arrived: int,
        live: int,
        bytes_up: int,
        bytes_down: int,
        deadline: float,
        metrics: Mapping[str, float] | None = None,
        loss_share: float = 1.0,
        of_step: Mapping[str, float] | None = None,
    ) -> None:
        """Show a finished step.

        Args:
            step: its number, from 0.
            seconds: since the run began.
            loss: of the partitions that arrived; None if none did.
            arrived: workers that were counted.
            live: workers that were there.
            bytes_up: of this step; the totals are shown.
            bytes_down: of this step.
            deadline: of this step, seconds.
            metrics: of the newest evaluation, if there is one.
            loss_share: of the samples, those in partitions that the loss is of.
            of_step: metrics that the loss function gave.
        """
        self._bytes_up += bytes_up
        self._bytes_down += bytes_down
        part = "" if loss is None or loss_share > _WHOLE else f" of {loss_share:.0%} of the data"
        told = "".join(f"  {metric_text(name, value)}" for name, value in (of_step or {}).items())
        text = (
            f"step {step + 1}/{self._steps}  loss {'-' if loss is None else format(loss, '.4f')}{part}{told}"
            f"  arrived {arrived}/{live}"
            f"  up {bytes_text(self._bytes_up)}  down {bytes_text(self._bytes_down)}"
            f"  {seconds:.1f} s  deadline {deadline:.3g} s"
        )
        text += "".join(f"  {metric_text(name, value)}" for name, value in (metrics or {}).items())
        with self._word:
            self._done, self._status, self._fresh = step + 1, text, True
            if not self._live and (step == 0 or (step + 1) % self._every == 0 or step + 1 == self._steps):
                self._lines.append(text)
            self._word.notify()

    def note(self, text: str) -> None:
        """Show a line that stays: a worker lost, a new plan."""
        with self._word:
            self._lines.append(text)
            self._word.notify()

    def close(self) -> None:
        """Show what is left, for two seconds at most; idempotent."""
        self._closing.set()
        with self._word:
            self._word.notify()
        self._writer.join(timeout=2.0)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

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
                lines, status, done = list(self._lines), self._status, self._done
                self._lines.clear()
                self._fresh = False
            for line in lines:
                self._console.print(line, markup=False, highlight=False, soft_wrap=True)
            if live is not None and status is not None:
                live.update(self._picture(status, done), refresh=True)
            if last:
                return
            if live is not None:
                self._closing.wait(_REFRESH)

    def _picture(self, status: str, done: int) -> Table:
        picture = Table.grid(padding=(0, 1))
        picture.add_row(ProgressBar(total=self._steps, completed=done, width=20), status)
        return picture
