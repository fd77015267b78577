"""A run of real processes with a shared secret: who listens where, who is refused, and where the secret does not appear."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.conftest import Start
from tests.run.listeners import listening_places

LIMIT = 120.0
SECRET = "b2c7d1e0-not-to-be-seen"
CONFIG = """
steps = 10000
out = "runs"
name = "run"
[code]
scheme = "osgc"
[inject]
model = "shifted-exponential"
shift = 0.05
mean = 0.01
[straggler]
deadline = 0.5
[cluster]
min_workers = 2
start_timeout = 1.0
"""


@pytest.mark.parametrize(
    ("transport", "worker_says", "master_says"),
    [
        ("gloo", "shared secret: the master has another one than is set here", "it does not know"),
        ("tls", "the master at 127.0.0.1:", "certificate is of another authority"),
    ],
)
def test_one_address_one_secret(
    transport: str, worker_says: str, master_says: str, tmp_path: Path, start: Start
) -> None:
    (tmp_path / "config.toml").write_text(CONFIG + f'transport = "{transport}"\n')
    command = ["-m", "gcdist", "train", str(tmp_path / "config.toml")]
    cluster = start(command, ranks=3, env={"GCDIST_SECRET": SECRET, "WORLD_SIZE": "4"})
    cluster.env["GCDIST_SECRET"] = "another one than theirs"
    cluster.begin(3)
    assert cluster.wait(LIMIT, [3]) == [2]
    assert worker_says in cluster.output(3)
    assert "must be the same at both ends" in cluster.output(3)
    assert len(cluster.output(3).splitlines()) == 1
    run = tmp_path / "runs" / "run"
    events = (run / "events.jsonl").read_text()
    assert "a peer was refused, 1 so far: " in events
    assert master_says in events
    until = time.monotonic() + LIMIT
    while not (run / "metrics.jsonl").stat().st_size:  # then links are up, and gloo's sockets are there
        assert time.monotonic() < until, cluster.output(0)
        time.sleep(0.05)
    master = cluster.processes[0]
    named = ("127.0.0.1", int(cluster.env["MASTER_PORT"]))
    for process in cluster.processes[:3]:
        places = listening_places(process.pid)
        assert {address for address, _ in places} <= {"127.0.0.1"}
        assert (named in places) == (process is master)
        assert len(places - {named}) == (transport == "gloo")  # gloo's own port; TLS workers listen nowhere
        assert SECRET.encode() not in Path(f"/proc/{process.pid}/cmdline").read_bytes()
    os.kill(cluster.processes[0].pid, signal.SIGTERM)
    cluster.wait(LIMIT)
    for rank in range(4):
        assert SECRET not in cluster.output(rank)
    written = [path for path in run.rglob("*") if path.is_file()]
    assert written
    assert not [path for path in written if SECRET.encode() in path.read_bytes()]
    assert "no shared secret" not in cluster.output(0)  # there is one; and on loopback there need not be


def test_an_interface_that_is_not_there(tmp_path: Path, start: Start) -> None:
    (tmp_path / "config.toml").write_text(CONFIG + 'interface = "nope0"\n')
    cluster = start(["-m", "gcdist", "train", str(tmp_path / "config.toml")], ranks=3)
    assert cluster.wait(LIMIT) == [2, 2, 2]
    for rank in range(3):
        assert "no network interface 'nope0' with an address; there are: " in cluster.output(rank)
