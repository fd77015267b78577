"""What the user of a script sees of a run on standard error: its folder, plain lines of progress, the summary."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

from rich.console import Console

from gcdist.observe.summary import Summary, print_summary
from gcdist.observe.terminal import Progress


def say_to_stderr(kind: str, text: str) -> None:
    """One line on standard error; a closed one costs the line alone."""
    with suppress(OSError, ValueError, AttributeError):
        print(f"gcdist {kind}: {text}", file=sys.stderr, flush=True)


class ScriptProgress(Progress):
    """Progress in plain lines only: a live picture would take the script's own output over.

    Args:
        console: where to; standard error.
        virtual: the run's seconds are those of a virtual clock.
    """

    def __init__(self, console: Console | None = None, virtual: bool = False) -> None:
        self._where = console or Console(stderr=True, force_terminal=False, width=200)
        super().__init__(None, self._where, virtual=virtual)

    def begin(self, folder: Path) -> None:
        """Say where the run is written."""
        self.note(f"run folder: {folder}")

    def end(self, summary: Summary) -> None:
        """Show the summary, below all that waits."""
        self.close()
        with suppress(OSError, ValueError):
            print_summary(summary, self._where)
