"""A run over TLS through a gateway that has one open port, while a stranger on the workers' network does what he can."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from gcdist.bench.network import run
from tests.cluster.hosts import PORT, Hosts, why_not
from tests.run.listeners import listens_on

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]
MASTER, AGAIN, STRANGER, WRONG, GATEWAY = 0, 2, 3, 4, 5
WORKERS, STEPS = 2, 400
INSIDE, GATE = "192.168.77.2", "192.168.77.1"
SECRET = {"GCDIST_SECRET": "the secret of the hosts inside this test"}
CONFIG = f"""
steps = {STEPS}
out = "runs"
name = "run"
[task]
name = "{Path(__file__).parent / "wide_task.py"}:build"
[code]
scheme = "osgc"
partitions = 4
[quantizer]
bits = 8
[inject]
model = "shifted-exponential"
shift = 0.15
mean = 0.01
[straggler]
deadline = 0.4
[cluster]
transport = "tls"
silent_after = 2.0
lost_after = 4.0
retry_most = 2.0
"""


@pytest.fixture(autouse=True)
def _namespaces() -> None:
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)


def move_inside(hosts: Hosts) -> None:
    """The master's machine is reached by the gateway alone, which forwards nothing by itself."""
    master, gateway = hosts.name(MASTER), hosts.name(GATEWAY)
    run("ip", "-n", master, "link", "del", "eth0")
    run("ip", "-n", gateway, "link", "add", "in0", "type", "veth", "peer", "name", "eth0", "netns", master)
    for name, device, address in ((gateway, "in0", GATE), (master, "eth0", INSIDE)):
        run("ip", "-n", name, "addr", "add", f"{address}/24", "dev", device)
        run("ip", "-n", name, "link", "set", device, "up")


def seconds(run_folder: Path) -> list[float]:
    metrics = run_folder / "metrics.jsonl"
    if not metrics.exists():
        return []
    whole = metrics.read_text().rpartition("\n")[0]
    return [json.loads(line)["step_seconds"] for line in whole.splitlines()]


def test_a_run_through_one_open_port_beside_a_stranger(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(CONFIG)
    folder = tmp_path / "runs" / "run"
    train = ["-m", "gcdist", "train", "config.toml"]
    with Hosts(6, tmp_path) as hosts:
        move_inside(hosts)
        outside = hosts.address(GATEWAY)
        relay, stranger = (str(Path(__file__).with_name(f"{name}_script.py")) for name in ("relay", "stranger"))
        hosts.start(GATEWAY, [relay, outside, str(PORT), INSIDE, str(PORT)], 3)
        hosts.start(MASTER, train, WORKERS + 1, SECRET | {"MASTER_ADDR": INSIDE})
        for rank in range(1, WORKERS + 1):
            hosts.start(rank, train, WORKERS + 1, SECRET | {"MASTER_ADDR": outside})
        hosts.wait_until(lambda: len(seconds(folder)) >= 10, "steps", 480.0)
        listens = [listens_on(hosts.processes[rank].pid) for rank in range(WORKERS + 1)]
        wrong = {"MASTER_ADDR": outside, "RANK": "2", "GCDIST_SECRET": "the secret of somebody else"}
        hosts.start(WRONG, train, WORKERS + 1, wrong)
        refused = hosts.processes[WRONG].wait(240.0)
        hosts.start(STRANGER, [stranger, outside, str(PORT)], 1)
        hosts.wait_until(lambda: "there are too many callers" in (folder / "events.jsonl").read_text(), "flood", 240.0)
        hosts.processes[AGAIN].send_signal(signal.SIGKILL)
        hosts.processes[AGAIN].wait()
        hosts.start(AGAIN, train, WORKERS + 1, SECRET | {"MASTER_ADDR": outside})  # comes back through the flood
        codes = [hosts.processes[rank].wait(480.0) for rank in range(WORKERS + 1)]
        output = {rank: hosts.output(rank) for rank in range(6)}
    assert codes == [0, 0, 0], output[MASTER]
    assert listens == [{INSIDE}, set(), set()]
    assert refused == 2
    assert "another authority" in output[WRONG]
    took = seconds(folder)
    assert len(took) == STEPS
    assert max(took[10:]) < 2.0  # the deadline is 0.4 s
    arrived = [json.loads(line)["arrived"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert sum(len(ranks) for ranks in arrived[-20:]) > 30  # of 40
    events = (folder / "events.jsonl").read_text()
    assert "a peer was refused, 1 so far: " in events
    assert events.count(" lost: ") == 1  # the one that was killed
    assert f"worker {AGAIN} joined" in events.split(f"worker {AGAIN} lost")[1]
    assert "connections" in output[STRANGER]
