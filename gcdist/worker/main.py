"""The worker in a process of its own: it serves until released."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable

import torch

from gcdist.config import checked
from gcdist.exchange.beat_file import beat_file
from gcdist.exchange.replica import Body, Replica
from gcdist.exchange.setup import Setup
from gcdist.exchange.signals import on_signals
from gcdist.model.gradients import PartitionResult
from gcdist.model.loader import Loader
from gcdist.protocol import WorkerMachine
from gcdist.protocol.last_events import LastEvents
from gcdist.protocol.messages import Round
from gcdist.protocol.worker_io import Exit, Linked, LinkLost, Sigterm
from gcdist.transport import Plane
from gcdist.types import U8
from gcdist.worker.computing import ThreadComputing
from gcdist.worker.driver import WorkerDriver
from gcdist.worker.links import WorkerLinks
from gcdist.worker.log import RECORD_BYTES, WorkerLog, heard
from gcdist.worker.partition_memory import memory_of
from gcdist.worker.rows import RowMaker

EVENTS_TOLD = 150  # last ones of a worker that ends in trouble: less than its log takes in a minute


def serve(setup: Setup, plane: Plane, rank: int) -> Exit:
    """Be the worker of this rank until released; returns how it ended.

    SIGINT, SIGTERM and SIGHUP announce the departure to the master.
    """
    torch.set_num_threads(setup.config.cluster.threads or 1)
    ahead, loader = setup.config.data.prefetch, None
    port = WorkerLinks(setup, plane, f"rank{rank}", rank - 1)
    if ahead and multiprocessing.current_process().daemon:
        port.log.say("batches are not read ahead (data.prefetch): a daemonic process may not start the loader")
    elif ahead:  # forked before there are links and their threads
        loader = setup.gradients.source = Loader(setup.gradients.batches, ahead, port.log.say)
    still = checked("environment", lambda: beat_file(setup.config.cluster.beat))
    undo = on_signals(lambda signal_name, number: port.inbox.put(Sigterm))
    cluster = setup.config.cluster
    gradients = OwnGradients(setup)
    port.last_words = gradients.summary
    rows = RowMaker(setup.quantizer, setup.config.seed, gradients, memory_of(setup.config))
    computing = ThreadComputing()
    driver = WorkerDriver(
        WorkerMachine(cluster.retry_first, cluster.retry_most, seed=setup.config.seed),
        rows,
        port,
        0,
        port.orders,
        setup.config.seed,
        name_of=setup.state.name_at,
        coming=loader.expect if loader else None,
        computing=computing,
        scale_with_load=setup.config.inject.scale_with_load,
        inside=setup.config.inject.computing,
        last=(last := LastEvents(EVENTS_TOLD)),
    )
    protocol = ProtocolThread(driver, port, cluster.join_timeout, cluster.rejoin_timeout, computing.end)
    port.connect(0.0)
    try:
        with heard(port.log):
            protocol.start()
            computing.run()
            try:
                ended = protocol.result()
            except Exception as error:
                _tell(port.log, last, f"{type(error).__name__}: {error}")
                raise
            if ended.code:
                _tell(port.log, last, ended.reason)
            return ended
    finally:
        port.close()
        if loader is not None:
            loader.close()
        undo()
        still()


def _tell(log: WorkerLog, last: LastEvents, why: str) -> None:
    """The last events of a worker that ends in trouble, into its file in the run's folder."""
    text = ""
    for line in (f"this worker ends: {why}; its last events:", *last.lines()):
        if len(text) + len(line) >= RECORD_BYTES // 2:  # a text beyond `RECORD_BYTES` would lose its middle
            log.add(text)
            text = ""
        text = f"{text}\n{line}" if text else line
    log.add(text)


class ProtocolThread(threading.Thread):
    """Feeds the driver with events until it ends, while the main thread computes.

    Args:
        driver: serves the rounds.
        port: gives the events.
        join_timeout: seconds to look for a master, at first ...
        rejoin_timeout: ... and once there has been one.
        ended: called when it is over.
    """

    def __init__(
        self,
        driver: WorkerDriver,
        port: WorkerLinks,
        join_timeout: float,
        rejoin_timeout: float,
        ended: Callable[[], None],
    ) -> None:
        super().__init__(name="gcdist-protocol", daemon=True)
        self._driver = driver
        self._port = port
        self._patience = join_timeout
        self._rejoin_timeout = rejoin_timeout
        self._ended = ended
        self._result: Exit | None = None
        self._error: BaseException | None = None

    def run(self) -> None:
        """Serve until released."""
        try:
            self._result = self._serve()
        except BaseException as error:
            self._error = error
        finally:
            self._ended()

    def result(self) -> Exit:
        """How it ended; raises what ended it otherwise."""
        self.join()
        if self._error is not None:
            raise self._error
        assert self._result is not None
        return self._result

    def _serve(self) -> Exit:
        driver, port = self._driver, self._port
        give_up = port.now() + self._patience
        while driver.exit is None:
            event = port.inbox.get()
            if isinstance(event, Linked):
                driver.worker, give_up, self._patience = port.slot, float("inf"), self._rejoin_timeout
                port.log.add(f"joined as worker {port.slot + 1}, life {event.inc}, process {os.getpid()}")
            elif isinstance(event, LinkLost) and port.now() >= give_up:
                return Exit(1, event.reason)
            elif isinstance(event, LinkLost):
                give_up = min(give_up, port.now() + self._patience)
                port.log.say(f"{event.reason}; trying again")
            driver.feed(event)
        return driver.exit


class OwnGradients:
    """A worker's own model, and what it has done so far."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self.replica = None if setup.coder is None else Replica(setup.coder)
        self._rounds = self._partitions = 0
        self._compute_seconds = self._data_seconds = 0.0

    def compute(self, step: int, partition: int) -> PartitionResult:
        """The scaled gradient of one partition; raises UserCodeError."""
        result = self._setup.gradients.compute(step, partition)
        self._partitions += 1
        self._compute_seconds += result.compute_seconds
        self._data_seconds += result.data_seconds
        return result

    def summary(self) -> str:
        """One line of it."""
        return (
            f"{self._rounds} rounds, {self._partitions} partitions: {self._compute_seconds:.1f} s computing, "
            f"{self._data_seconds:.1f} s waiting for data"
        )

    def load(self, sent: Round, raw: U8) -> None:
        """Take a round's parameters and buffers into the model; ReplicaError."""
        self._rounds += 1
        state, body = self._setup.state, self._taken(sent, raw)
        if body is None or self.replica is None:
            state.load(raw)
        else:
            state.load_values(self.replica.vector, body.floats, body.ints)

    def take(self, sent: Round, raw: U8) -> None:
        """Take the parameters of a round that nothing will be computed of; ReplicaError."""
        self._taken(sent, raw)

    def _taken(self, sent: Round, raw: U8) -> Body | None:
        assert sent.assignment is not None
        state = self._setup.state
        state.adopt(sent.assignment.trained)
        return None if self.replica is None else self.replica.take(raw, sent.params, sent.base, state.layout)
