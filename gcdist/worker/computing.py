"""Where a worker's user code runs: its jobs, one after the other."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from math import inf
from typing import Protocol, TypeAlias

from gcdist.protocol.worker_io import WorkerEvent

Make: TypeAlias = Callable[[float], WorkerEvent]  # of the time
Job: TypeAlias = Callable[[], Make | None]  # its answer is delivered behind what was received by its end


class Computing(Protocol):
    """Runs jobs one after the other, in the order in which they were given."""

    def submit(self, job: Job) -> None:
        """Run ``job`` behind those that were given before; an error in it ends the worker."""
        ...

    def hold(self, seconds: float) -> None:
        """Called by a job: nothing else runs for so long, as if it computed. Only the worker's end cuts it short."""
        ...


class InlineComputing:
    """Runs each job at once, in the thread that gives it: the simulator's; ``deliver`` takes the answers."""

    def __init__(self, deliver: Callable[[Make], None]) -> None:
        self._deliver = deliver

    def submit(self, job: Job) -> None:
        """Run it now."""
        if (answer := job()) is not None:
            self._deliver(answer)

    def hold(self, seconds: float) -> None:
        """Nothing: simulated work takes its time by `Pace`."""


class QueuedComputing:
    """Keeps jobs for the thread that calls `next`: see `gcdist.worker.turns`."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._jobs: deque[Job] = deque()
        self._call = call  # says to that thread that there is a job
        self._over = threading.Event()

    def submit(self, job: Job) -> None:
        """Queue it; called by any thread."""
        self._jobs.append(job)
        self._call()

    def next(self) -> Job | None:
        """The oldest job, taken from the queue; None: there is none."""
        return self._jobs.popleft() if self._jobs else None

    def hold(self, seconds: float) -> None:
        """Sleep so long, or until `end`."""
        if seconds > 0:
            self._over.wait(None if seconds == inf else seconds)

    def end(self) -> None:
        """Let `hold` return."""
        self._over.set()
