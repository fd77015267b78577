"""The worker in a process of its own: it serves until released."""

from __future__ import annotations

import os

import torch

from gcdist.config import checked
from gcdist.exchange.beat_file import beat_file
from gcdist.exchange.replica import Body, Replica
from gcdist.exchange.setup import Setup
from gcdist.exchange.signals import on_signals
from gcdist.model.gradients import PartitionResult
from gcdist.model.loader import Loader
from gcdist.model.vector_format import Shape
from gcdist.protocol import WorkerMachine
from gcdist.protocol.messages import Round
from gcdist.protocol.worker_io import Exit, Linked, LinkLost, Sigterm
from gcdist.transport import Plane
from gcdist.types import U8
from gcdist.worker.driver import WorkerDriver
from gcdist.worker.links import WorkerLinks
from gcdist.worker.log import heard
from gcdist.worker.rows import RowMaker


def serve(setup: Setup, plane: Plane, rank: int) -> Exit:
    """Be the worker of this rank until released; returns how it ended.

    SIGINT, SIGTERM and SIGHUP announce the departure to the master.
    """
    torch.set_num_threads(setup.config.cluster.threads or 1)
    ahead, loader = setup.config.data.prefetch, None
    port = WorkerLinks(setup, plane, f"rank{rank}", rank - 1)
    if ahead:  # forked before there are links and their threads
        loader = setup.gradients.source = Loader(setup.gradients.batches, ahead, port.log.say)
    still = checked("environment", lambda: beat_file(setup.config.cluster.beat))
    undo = on_signals(lambda signal_name, number: port.inbox.put(Sigterm))
    cluster = setup.config.cluster
    gradients = OwnGradients(setup)
    port.last_words = gradients.summary
    rows = RowMaker(setup.quantizer, setup.config.seed, gradients)
    driver = WorkerDriver(
        WorkerMachine(cluster.retry_first, cluster.retry_most),
        rows,
        port,
        0,
        port.orders,
        setup.config.seed,
        name_of=setup.state.name_at,
        coming=loader.expect if loader else None,
    )
    give_up, patience = port.now() + cluster.join_timeout, cluster.join_timeout
    port.connect(0.0)
    try:
        with heard(port.log):
            while driver.exit is None:
                event = port.inbox.get()
                if isinstance(event, Linked):
                    driver.worker, give_up, patience = port.slot, float("inf"), cluster.rejoin_timeout
                    port.log.add(f"joined as worker {port.slot + 1}, life {event.inc}, process {os.getpid()}")
                elif isinstance(event, LinkLost) and port.now() >= give_up:
                    return Exit(1, event.reason)
                elif isinstance(event, LinkLost):
                    give_up = min(give_up, port.now() + patience)
                    port.log.say(f"{event.reason}; trying again")
                driver.feed(event)
    finally:
        port.close()
        if loader is not None:
            loader.close()
        undo()
        still()
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

    def load(self, sent: Round, raw: U8) -> Shape:
        """Take a round's parameters and buffers into the model; ReplicaError."""
        self._rounds += 1
        state, body = self._setup.state, self._taken(sent, raw)
        if body is None or self.replica is None:
            state.load(raw)
        else:
            state.load_values(self.replica.vector, body.floats, body.ints)
        return state.shape

    def take(self, sent: Round, raw: U8) -> None:
        """Take the parameters of a round that nothing will be computed of; ReplicaError."""
        self._taken(sent, raw)

    def _taken(self, sent: Round, raw: U8) -> Body | None:
        assert sent.assignment is not None
        state = self._setup.state
        state.adopt(sent.assignment.trained)
        return None if self.replica is None else self.replica.take(raw, sent.params, sent.base, state.layout)
