"""The run's rounds as ``trace.json`` in Chrome's trace event format: open it in Perfetto or chrome://tracing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gcdist.observe.files import GrowingFile, Trouble

_SEPARATOR = b",\n"


class Trace:
    """Adds a slice a step for the master and a slice a message for each worker.

    The file is a JSON array that `close` ends; the viewers also take it without its end, as a kill leaves it. An existing
    file is continued.
    """

    def __init__(self, path: str | Path, trouble: Trouble | None = None) -> None:
        self._named: set[int] = set()
        trouble = trouble or Trouble(lambda text: None)
        self.file = GrowingFile(Path(path), trouble, _SEPARATOR)  # without the end that close() wrote, or a half event

    def step(
        self, step: int, opened: float, seconds: float, arrivals: Mapping[int, float], missing: tuple[int, ...] = ()
    ) -> None:
        """One round.

        Args:
            step: its number.
            opened: seconds from the run's start to the opening.
            seconds: from the opening to the close.
            arrivals: seconds from the opening to the arrival, by rank.
            missing: ranks that were waited for and not counted.
        """
        events = [self._slice(f"step {step}", 0, opened, seconds)]
        events += [self._slice("counted", rank, opened, after) for rank, after in arrivals.items()]
        events += [self._slice("missed", rank, opened, seconds) for rank in missing]
        names = [self._name(rank) for rank in (0, *arrivals, *missing) if rank not in self._named]
        self._named.update((0, *arrivals, *missing))
        self._add(b"".join(json.dumps(event).encode() + _SEPARATOR for event in names + events))

    def close(self) -> None:
        """End the array; idempotent."""
        if not self.file.closed:
            end = {"name": "process_name", "ph": "M", "pid": 0, "args": {"name": "gcdist"}}
            self._add(json.dumps(end).encode() + b"\n]\n")
            self.file.close()

    def _add(self, events: bytes) -> None:
        self.file.write(events if self.file.size else b"[\n" + events)  # also where the file was deleted meanwhile

    @staticmethod
    def _slice(name: str, rank: int, start: float, seconds: float) -> dict[str, Any]:
        microseconds = {"ts": round(start * 1e6), "dur": round(seconds * 1e6)}
        return {"name": name, "ph": "X", "pid": 0, "tid": rank, **microseconds}

    @staticmethod
    def _name(rank: int) -> dict[str, Any]:
        name = "master" if rank == 0 else f"worker {rank}"
        return {"name": "thread_name", "ph": "M", "pid": 0, "tid": rank, "args": {"name": name}}
