"""A run's output for the user of a script, on standard error: its folder, plain lines of progress, the summary."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

from rich.console import Console

from gcdist.observe.summary import Summary, print_summary
from gcdist.observe.terminal import Progress


def say_to_stderr(kind: str, text: str) -> None:
    """One line on standard error; if it is closed, only the line is lost."""
    with suppress(OSError, ValueError, AttributeError):
        print(f"gcdist {kind}: {text}", file=sys.stderr, flush=True)


class ScriptProgress(Progress):
    """Progress in plain lines only, because a live picture would overwrite the script's own output.

    Args:
        console: the output; standard error.
        virtual: the run's seconds are those of a virtual clock.
    """

    def __init__(self, console: Console | None = None, virtual: bool = False) -> None:
        self._where = console or Console(stderr=True, force_terminal=False, width=200)
        super().__init__(None, self._where, virtual=virtual)

    def begin(self, folder: Path) -> None:
        """Print the folder of the run."""
        self.note(f"run folder: {folder}")

    def end(self, summary: Summary) -> None:
        """Show the summary, after all waiting lines."""
        self.close()
        with suppress(OSError, ValueError):
            print_summary(summary, self._where)
