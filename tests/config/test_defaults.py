"""Where a room below has a default of its own, for its tests and for readers, it is the settings'."""

from __future__ import annotations

from gcdist.config import Config
from gcdist.protocol import WorkerMachine
from gcdist.transport import LinkSettings


def test_links_and_machines_have_the_defaults_of_the_settings() -> None:
    cluster, links, machine = Config().cluster, LinkSettings(), WorkerMachine()
    for name in ("beat", "silent_after", "lost_after", "piece_timeout"):
        assert getattr(links, name) == getattr(cluster, name), name
    assert (machine.retry_first, machine.retry_most) == (cluster.retry_first, cluster.retry_most)
