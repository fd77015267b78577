"""Where a worker's user code runs: the main thread, while the protocol has a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from math import inf
from queue import SimpleQueue
from typing import Protocol, TypeAlias

Job: TypeAlias = Callable[[], None]


class Computing(Protocol):
    """Runs jobs one after the other, in the order in which they were given."""

    def submit(self, job: Job) -> None:
        """Run ``job`` behind those that were given before; an error in it ends the worker."""
        ...

    def hold(self, seconds: float) -> None:
        """Called by a job: nothing else runs for so long, as if it computed. Only the worker's end cuts it short."""
        ...


class InlineComputing:
    """Runs each job at once, in the thread that gives it: the simulator's."""

    def submit(self, job: Job) -> None:
        """Run it now."""
        job()

    def hold(self, seconds: float) -> None:
        """Nothing: simulated work takes its time by `Pace`."""


class ThreadComputing:
    """Runs jobs in the thread that calls `run`.

    That is the process's main thread: users' libraries may insist on it, and signal handlers run there. The protocol's
    thread goes on meanwhile, so that a cut, a newer step or a heart-beat never waits for a partition.
    """

    def __init__(self) -> None:
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._over = threading.Event()

    def submit(self, job: Job) -> None:
        """Queue it; called by any thread."""
        self._jobs.put(job)

    def hold(self, seconds: float) -> None:
        """Sleep so long, or until `end`."""
        if seconds > 0:
            self._over.wait(None if seconds == inf else seconds)

    def run(self) -> None:
        """Run jobs until `end` has been called and those before it are done."""
        while (job := self._jobs.get()) is not None:
            job()

    def end(self) -> None:
        """Let `run` return."""
        self._over.set()
        self._jobs.put(None)
