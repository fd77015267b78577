"""A memory of partitions in real processes: workers that were lost and came back, and the estimate stays exact."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from tests.conftest import Start
from tests.run.partition_memory_script import AFTER, SMALL

SCRIPT = str(Path(__file__).with_name("partition_memory_script.py"))
LIMIT = 120.0  # seconds, on a machine that is busy with something else


@pytest.mark.parametrize("scheme", ["partial-memory", "auto"])
def test_workers_that_were_lost_go_on_with_their_memory_and_no_noise_is_left(
    scheme: str, tmp_path: Path, start: Start
) -> None:
    """The stopped worker keeps its h_j, the killed one begins with none; the shifts H_i begin anew at both ends.

    Gradients are exact, so the error falls geometrically, whatever is cut. A shift that one end alone forgets is a bias for
    ever: the loss that is asked for is not reached.
    """
    cluster = start([SCRIPT, str(tmp_path), scheme], ranks=4)
    cluster.wait_for("both remember", 0, LIMIT)
    os.kill(cluster.processes[1].pid, signal.SIGSTOP)
    os.kill(cluster.processes[2].pid, signal.SIGKILL)
    assert cluster.wait(LIMIT, [2]) == [-signal.SIGKILL]
    cluster.wait_for("worker 2 lost", 0, LIMIT)
    cluster.wait_for("worker 1 lost", 0, LIMIT)
    os.kill(cluster.processes[1].pid, signal.SIGCONT)
    cluster.begin(2)
    assert cluster.wait(LIMIT) == [0] * 4, cluster.output(0)
    found = json.loads((tmp_path / "result.json").read_text())
    assert found["after"] >= AFTER, found["lines"]
    assert max(found["arrived"]) > 0, found  # they count again: both, unless the machine is too busy for one of them
    if scheme == "partial-memory":  # `auto` may wait for all
        assert found["cut"] > 0
    assert found["excess"][-1] < SMALL * found["excess"][0], found["excess"][::20]
