"""The worker in a process of its own: it serves until released."""

from __future__ import annotations

import multiprocessing
import os

import torch

from gcdist.config import checked
from gcdist.exchange.beat_file import beat_file
from gcdist.exchange.replica import Body, Replica
from gcdist.exchange.setup import Setup
from gcdist.exchange.signals import on_signals
from gcdist.memory import objects_set_aside
from gcdist.model.gradients import PartitionResult
from gcdist.model.loader import Loader
from gcdist.model.randomness import generators_kept
from gcdist.protocol import WorkerMachine
from gcdist.protocol.last_events import LastEvents
from gcdist.protocol.messages import Round
from gcdist.protocol.worker_io import Exit, Linked, LinkLost, Sigterm, WorkerEvent
from gcdist.transport import Plane
from gcdist.types import U8
from gcdist.worker.computing import QueuedComputing
from gcdist.worker.driver import WorkerDriver
from gcdist.worker.links import WorkerLinks
from gcdist.worker.log import RECORD_BYTES, WorkerLog, heard
from gcdist.worker.partition_memory import memory_of
from gcdist.worker.rows import RowMaker
from gcdist.worker.turns import Turns

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
    computing = QueuedComputing(port.inbox.call)
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
    patience = Patience(driver, port, cluster.join_timeout, cluster.rejoin_timeout)
    turns = Turns(driver, port.inbox, computing, patience.look)
    port.connect(0.0)
    try:
        with heard(port.log), generators_kept(), objects_set_aside():
            try:
                ended = turns.run()
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


class Patience:
    """How long a worker looks for a master; tells its log of links.

    Args:
        driver: is told the slot of each link.
        port: makes the links.
        join_timeout: seconds at first ...
        rejoin_timeout: ... and once there has been one.
    """

    def __init__(self, driver: WorkerDriver, port: WorkerLinks, join_timeout: float, rejoin_timeout: float) -> None:
        self._driver = driver
        self._port = port
        self._seconds = join_timeout
        self._rejoin_timeout = rejoin_timeout
        self._give_up = port.now() + join_timeout

    def look(self, event: WorkerEvent) -> Exit | None:
        """Look at an event before the driver does; an Exit if patience is over."""
        port = self._port
        if isinstance(event, Linked):
            self._driver.worker, self._give_up, self._seconds = port.slot, float("inf"), self._rejoin_timeout
            port.log.add(f"joined as worker {port.slot + 1}, life {event.inc}, process {os.getpid()}")
        elif isinstance(event, LinkLost):
            if port.now() >= self._give_up:
                return Exit(1, event.reason)
            self._give_up = min(self._give_up, port.now() + self._seconds)
            port.log.say(f"{event.reason}; trying again")
        return None


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
