"""Two threads of a worker take turns with the protocol: the main thread computes, another stands in for it meanwhile.

The main thread runs the user's code: libraries may insist on it, and signal handlers run there. Between two partitions it
handles the events itself, so that a row of many small partitions wakes no other thread. While a partition is under way the
second thread handles them, so that a cut, a newer step or a release never waits for a partition.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from gcdist.exchange.inbox import SharedInbox
from gcdist.protocol.worker_io import Exit, WorkerEvent
from gcdist.worker.computing import Make, QueuedComputing
from gcdist.worker.driver import WorkerDriver


class Turns:
    """Feeds a driver with the events of an inbox until it ends.

    Args:
        driver: serves the rounds.
        inbox: the events.
        computing: the driver's jobs.
        look: is shown each event before the driver; an Exit ends it all.
    """

    def __init__(
        self,
        driver: WorkerDriver,
        inbox: SharedInbox[WorkerEvent],
        computing: QueuedComputing,
        look: Callable[[WorkerEvent], Exit | None] = lambda event: None,
    ) -> None:
        self._driver = driver
        self._inbox = inbox
        self._computing = computing
        self._look = look
        self._turn = threading.Lock()  # of the thread that handles events
        self._ended: Exit | None = None
        self._error: BaseException | None = None  # of the second thread

    def run(self) -> Exit:
        """Serve until released, in the main thread; returns how it ended, raises what ended it otherwise."""
        second = threading.Thread(target=self._stand_in, name="gcdist-protocol", daemon=True)
        second.start()
        try:
            while not self._is_over:
                job = self._computing.next()
                if job is None:
                    self._inbox.attend()
                    self._handle()
                else:
                    self._inbox.leave()
                    answer = job()
                    self._inbox.back()
                    self._handle(answer)
        finally:
            self._end()
        second.join()
        if self._error is not None:
            raise self._error
        assert self._ended is not None
        return self._ended

    @property
    def _is_over(self) -> bool:
        return self._ended is not None or self._error is not None

    def _stand_in(self) -> None:
        """The second thread."""
        try:
            while self._inbox.stand_in():
                self._handle()
        except BaseException as error:
            self._error = error
            self._end()

    def _handle(self, answer: Make | None = None) -> None:
        """Handle what is ready, and then a job's answer."""
        with self._turn:
            while not self._is_over and (event := self._inbox.poll()) is not None:
                self._ended = self._look(event)
                if self._ended is None:
                    self._driver.feed(event)
                    self._ended = self._driver.exit
            if answer is not None and not self._is_over:
                self._driver.feed(answer(self._inbox.now()))
                self._ended = self._driver.exit
        if self._is_over:
            self._end()

    def _end(self) -> None:
        self._computing.end()
        self._inbox.over()
