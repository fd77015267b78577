"""The event stream of a run, and its readers.

The training thread writes the run's folder first, so that the folder survives a kill. All other readers are
`Observer`s. A separate thread calls them one after the other, so that none of them delays a step: events that they do
not take in time are left out and counted.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType

from gcdist.observe.times import WorkerRound

WAITING = 10_000  # events that wait for slow observers; beyond it, the oldest are left out
FAREWELL = 5.0  # seconds for observers at the end of a run


@dataclass(frozen=True, slots=True)
class StepRecord:
    """A step that has ended. Times in seconds, sizes in bytes; workers are counted from 1."""

    step: int
    seconds: float  # since the run's start
    step_seconds: float
    loss: float | None
    arrived: tuple[int, ...]
    away: tuple[int, ...]
    workers: int
    bytes_up: int  # of this step
    bytes_down: int
    deadline: float | None  # None: wait
    why: str  # complete, deadline, count
    noise_planned: float | None
    noise_observed: float | None
    bytes_down_float32: int = 0  # the same with float32 parameters; 0: not known (a run of an older version)
    loss_share: float = 1.0  # share of the samples in the partitions of the loss
    metrics: Mapping[str, float] = field(default_factory=dict)  # of the loss function
    rounds: tuple[WorkerRound, ...] = ()  # that ended since the last step had ended

    @property
    def live(self) -> int:
        """The number of workers present."""
        return self.workers - len(self.away)


class Observer:
    """A reader of a run's events; a subclass overrides the methods for the events that it needs.

    Another thread than the training's calls the methods in order, never two at a time. An observer that raises gets no
    further calls, and the run's log says so.
    """

    def step(self, record: StepRecord) -> None:
        """A step has ended."""

    def event(self, kind: str, text: str) -> None:
        """Something for the log: a worker lost, a new plan, a warning."""

    def evaluation(self, step: int, seconds: float, metrics: Mapping[str, float]) -> None:
        """The task was evaluated after so many steps."""

    def close(self) -> None:
        """The run is over."""


class EventStream:
    """Hands published events to observers, by a thread that lives while there are observers.

    ``failed(name, text)`` gets each observer that raised, and counts of events left out.
    """

    def __init__(self, failed: Callable[[str, str], None]) -> None:
        self._failed = failed
        self._observers: list[Observer] = []
        self._queue: deque[Callable[[Observer], None]] = deque()
        self._word = threading.Condition()
        self._busy = False
        self._over = False
        self._thread: threading.Thread | None = None
        self.left_out = 0

    def add(self, observer: Observer) -> None:
        """Add an observer of the events published from now on."""
        with self._word:
            self._observers.append(observer)
            if self._thread is None:
                self._thread = threading.Thread(target=self._hand_out, name="gcdist-observers", daemon=True)
                self._thread.start()

    def remove(self, observer: Observer) -> None:
        """Remove an observer: it gets the events published so far, and is not closed."""
        self.drain(FAREWELL)
        with self._word:
            if observer in self._observers:
                self._observers.remove(observer)

    @property
    def heard(self) -> bool:
        """Whether there are observers."""
        return bool(self._observers)

    def step(self, record: StepRecord) -> None:
        """Publish a step; never blocks."""
        self._publish(lambda observer: observer.step(record))

    def event(self, kind: str, text: str) -> None:
        """Publish a line; never blocks."""
        self._publish(lambda observer: observer.event(kind, text))

    def evaluation(self, step: int, seconds: float, metrics: Mapping[str, float]) -> None:
        """Publish an evaluation; never blocks."""
        self._publish(lambda observer: observer.evaluation(step, seconds, dict(metrics)))

    def drain(self, timeout: float) -> bool:
        """Wait until observers have taken all published events; whether they have."""
        with self._word:
            return self._word.wait_for(lambda: not self._queue and not self._busy, timeout)

    def close(self) -> None:
        """Hand out the remaining events, for some seconds at most, and close the observers; idempotent."""
        with self._word:
            if self._over:
                return
            self._over = True
        if self._thread is None:
            return
        self._publish(lambda observer: observer.close(), last=True)
        self.drain(FAREWELL)
        with self._word:
            self._observers.clear()
            self._word.notify_all()
        if self.left_out:
            self._failed("observe", f"{self.left_out} steps and events were left out: an observer was too slow")

    def __enter__(self) -> EventStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _publish(self, what: Callable[[Observer], None], last: bool = False) -> None:
        with self._word:
            if not self._observers or (self._over and not last):
                return
            if len(self._queue) >= WAITING:
                self._queue.popleft()
                self.left_out += 1
            self._queue.append(what)
            self._word.notify_all()

    def _hand_out(self) -> None:
        while True:
            with self._word:
                self._busy = False
                self._word.notify_all()
                self._word.wait_for(lambda: self._queue or (self._over and not self._observers))
                if not self._queue:
                    return
                what, observers = self._queue.popleft(), list(self._observers)
                self._busy = True
            for observer in observers:
                try:
                    what(observer)
                except Exception as error:
                    with self._word:
                        if observer in self._observers:
                            self._observers.remove(observer)
                    name = type(observer).__name__
                    self._failed("observe", f"{name} raised {type(error).__name__}: {error}; it is called no more")
