"""Injected faults in real processes: the link of the one struck is closed, it comes back, and the others never notice."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Cluster, Start
from tests.run.faults_script import CORRUPT, EACH

SCRIPT = str(Path(__file__).with_name("faults_script.py"))
both_planes = pytest.mark.parametrize("transport", ["gloo", "tls"])
LIMIT = 150.0  # seconds, on a machine that is busy with something else; 10 to 15 on a free one


def processes_of(port: str) -> list[str]:
    """Processes of the run with this port that live, whoever is their parent by now."""
    mark, found = f"MASTER_PORT={port}".encode(), []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdecimal() and mark in (entry / "environ").read_bytes().split(b"\0"):
                found.append(f"{entry.name}: {(entry / 'cmdline').read_bytes()!r}")
    return found


def result_of(cluster: Cluster, out: Path) -> dict[str, Any]:
    """What the master wrote, once nothing is left of the run."""
    found: dict[str, Any] = json.loads((out / "result.json").read_text())
    assert found["done"], found["lines"]
    assert found["steps"] == list(range(len(found["steps"])))
    assert found["threads"] == []
    port = cluster.env["MASTER_PORT"]
    assert processes_of(port) == []
    with socket.socket() as probe:  # the run's port is free again
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", int(port)))
    return found


def lines_of(found: dict[str, Any], kind: str, about: str) -> list[str]:
    return [text for each, text in found["lines"] if each == kind and about in text]


def on_plane(transport: str) -> dict[str, str]:
    return {"TRANSPORT": transport, "GCDIST_SECRET": "the secret of this test alone"}


@both_planes
def test_every_corrupt_message_closes_one_link_and_is_told_in_one_line(
    transport: str, tmp_path: Path, start: Start
) -> None:
    cluster = start([SCRIPT, str(tmp_path), "corrupt"], ranks=4, env=on_plane(transport))
    before = [process.pid for process in cluster.processes]
    assert cluster.wait(LIMIT) == [0] * 4, cluster.output(0)
    assert [process.pid for process in cluster.processes] == before
    found = result_of(cluster, tmp_path)
    says = {
        "payload": "digest of data is",
        "checksum": "digest of data is",
        "size": "bytes, must have",
        "plan": "was not asked for",
        "step": "was not asked for",
        "row": "was not asked for",
        "nan": "message of row",
        "flood": "was not asked for",
    }
    for i, what in enumerate(CORRUPT):
        rank = i % 3 + 1
        assert lines_of(found, "fault", f"worker {rank}: corrupt {what} (injected)")
        said = 4 + EACH * i - (what == "step")  # an old step is what the message itself says
        if what in says:
            (line,) = lines_of(found, "drop", f"worker {rank}, step {said}: ")
            assert says[what] in line
    assert len(lines_of(found, "members", "sent bytes that are no message: kind 77")) == 1  # the garbage
    lost = [text for kind, text in found["lines"] if kind == "members" and not text.endswith("joined")]
    assert len(lost) == len(CORRUPT), lost  # each time that link alone


@both_planes
def test_killed_stopped_cut_and_late_workers_take_part_again(transport: str, tmp_path: Path, start: Start) -> None:
    cluster = start([SCRIPT, str(tmp_path), "processes"], ranks=5, env=on_plane(transport))
    before = {rank: cluster.processes[rank].pid for rank in (0, 1, 3, 4)}
    assert cluster.processes[2].wait(LIMIT) == -signal.SIGKILL, cluster.output(0)
    cluster.begin(2)
    assert cluster.wait(LIMIT) == [0] * 5, cluster.output(0)
    assert {rank: cluster.processes[rank].pid for rank in before} == before
    found = result_of(cluster, tmp_path)
    assert lines_of(found, "fault", "worker 1: stop for 5 s (injected)")
    assert lines_of(found, "fault", "worker 3: cut for 5 s (injected)")
    assert lines_of(found, "fault", ": slow for 1 s, 50000 bytes/s (injected)")
    assert "nothing heard for 3." in "".join(lines_of(found, "members", "worker 1 lost"))
    assert lines_of(found, "members", "worker 3 lost")
    lost = lines_of(found, "members", "worker 2 lost")
    assert "connection lost" in lost[0]  # the kernel tells of a death at once: nobody waits for silence
    assert lines_of(found, "members", "worker 4 joined")
