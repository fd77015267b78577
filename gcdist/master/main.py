"""The master in a process of its own: its driver over links, and its signals."""

from __future__ import annotations

from collections.abc import Callable

from gcdist.config import checked
from gcdist.exchange.beat_file import beat_file
from gcdist.exchange.setup import Setup
from gcdist.exchange.signals import on_signals
from gcdist.master.driver import MasterDriver, Record
from gcdist.master.links import MasterLinks
from gcdist.master.port import Say
from gcdist.protocol.master_io import Stop
from gcdist.transport import Plane


def real_master(
    setup: Setup,
    plane: Plane,
    say: Say,
    record: Record | None = None,
    worker_log: Callable[[int, str], None] | None = None,
) -> tuple[MasterDriver, Callable[[], None]]:
    """The master's driver over links, and what closes them. SIGINT, SIGTERM and SIGHUP stop the run.

    ``worker_log(rank, text)`` takes what the workers have to say; other threads call it, and ``say`` for peers without the
    secret.
    """
    still = checked("environment", lambda: beat_file(setup.config.cluster.beat))
    port = MasterLinks(setup, plane, worker_log, lambda text: say("refuse", text))
    undo = on_signals(lambda name, number: port.inbox.put(lambda at: Stop(at, name)))
    driver = MasterDriver.of(setup, port, say, record)

    def close() -> None:
        port.close()
        undo()
        still()

    return driver, close
