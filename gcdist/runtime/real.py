"""Real processes: the master's driver over links, a worker that serves until released, and their signals."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType

import torch

from gcdist.protocol import WorkerMachine
from gcdist.protocol.master_io import Stop
from gcdist.protocol.worker_io import Exit, Linked, LinkLost, Sigterm
from gcdist.runtime.alive import beat_file
from gcdist.runtime.compute import PartitionResult
from gcdist.runtime.driver import MasterDriver, Record, Say
from gcdist.runtime.loader import Loader
from gcdist.runtime.master_links import MasterLinks
from gcdist.runtime.rows import RowMaker
from gcdist.runtime.serving import WorkerDriver
from gcdist.runtime.session import Session, checked
from gcdist.runtime.shape import Shape
from gcdist.runtime.worker_links import WorkerLinks
from gcdist.runtime.worker_log import heard
from gcdist.transport import StoreSource
from gcdist.types import U8


def on_signals(act: Callable[[str, int], None]) -> Callable[[], None]:
    """Call ``act(name, number)`` on the first SIGINT or SIGTERM; a second one does what it did before. Returns the undo.

    Only the main thread can listen to signals; elsewhere this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        return lambda: None
    wanted = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in wanted}

    def undo() -> None:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)

    def handle(number: int, frame: FrameType | None) -> None:
        undo()
        act(signal.Signals(number).name, number)

    for number in wanted:
        signal.signal(number, handle)
    return undo


def real_master(
    session: Session,
    source: StoreSource,
    say: Say,
    record: Record | None = None,
    worker_log: Callable[[int, str], None] | None = None,
) -> tuple[MasterDriver, Callable[[], None]]:
    """The master's driver over links, and what closes them. SIGINT and SIGTERM stop the run.

    ``worker_log(rank, text)`` takes what the workers have to say; other threads call it, and ``say`` for peers without the
    secret.
    """
    still = checked("environment", lambda: beat_file(session.config.cluster.beat))
    port = MasterLinks(session, source, worker_log, lambda text: say("refuse", text))
    undo = on_signals(lambda name, number: port.inbox.put(lambda at: Stop(at, name)))
    driver = MasterDriver.of(session, port, say, record)

    def close() -> None:
        port.close()
        undo()
        still()

    return driver, close


def serve(session: Session, source: StoreSource, rank: int) -> Exit:
    """Be the worker of this rank until released; returns how it ended.

    SIGINT and SIGTERM announce the departure to the master.
    """
    torch.set_num_threads(session.config.cluster.threads or 1)
    ahead, loader = session.config.data.prefetch, None
    port = WorkerLinks(session, source, f"rank{rank}", rank - 1)
    if ahead:  # forked before there are links and their threads
        loader = session.gradients.source = Loader(session.gradients.batches, ahead, port.log.say)
    still = checked("environment", lambda: beat_file(session.config.cluster.beat))
    undo = on_signals(lambda signal_name, number: port.inbox.put(Sigterm))
    cluster = session.config.cluster
    gradients = OwnGradients(session)
    port.last_words = gradients.summary
    rows = RowMaker(session.quantizer, session.config.seed, gradients)
    driver = WorkerDriver(
        WorkerMachine(cluster.retry_first, cluster.retry_most),
        rows,
        port,
        0,
        port.orders,
        session.config.seed,
        name_of=session.state.name_at,
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

    def __init__(self, session: Session) -> None:
        self._session = session
        self._rounds = self._partitions = 0
        self._compute_seconds = self._data_seconds = 0.0

    def compute(self, step: int, partition: int) -> PartitionResult:
        """The scaled gradient of one partition; raises UserCodeError."""
        result = self._session.gradients.compute(step, partition)
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

    def load(self, raw: U8, params: int, trained: tuple[int, ...] | None) -> Shape:
        """Take a round's parameters and buffers."""
        self._rounds += 1
        state = self._session.state
        state.adopt(trained)
        state.load(raw)
        return state.shape
