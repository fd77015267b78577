"""A run over TLS through NAT and one open port, while a stranger on the workers' network does what he can.

``GCDIST_FIGURES=FILE`` writes the times of steps under each attack, and what the stranger said, to a JSON file.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gcdist.bench.network import run
from gcdist.observe import read_lines, read_metrics
from tests.cluster import walls
from tests.cluster.hosts import PORT, Hosts, why_not
from tests.run.listeners import listens_on

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]
MASTER, OPEN, HIDDEN, STRANGER, WRONG, GATE, HOME = range(7)
WORKERS = 2
STRANGER_ADDRESSES = 40
CALM_STEPS = 100
SECRET = {"GCDIST_SECRET": "the secret of the hosts inside this test"}
SCRIPT = str(Path(__file__).with_name("stranger_script.py"))
TRAIN = ["-m", "gcdist", "train", "config.toml"]
CONFIG = f"""
steps = 100000
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
    reason = why_not() or (None if shutil.which("nft") else "nft (nftables) is not installed")
    if reason is not None:
        pytest.skip(reason)


class Net:
    """The master behind a gateway with one open port, one worker on the network, one behind a router of its own."""

    def __init__(self, hosts: Hosts, folder: Path) -> None:
        self.hosts, self.run = hosts, folder / "runs" / "run"
        self.inside = walls.move_behind(hosts, MASTER, GATE, "192.168.77")
        walls.open_one_port(hosts, GATE, PORT, self.inside)
        walls.move_behind(hosts, HIDDEN, HOME, "192.168.78")
        walls.hide(hosts, HOME)
        walls.make_hub(hosts)
        self.outside = hosts.address(GATE)
        net = self.outside.rpartition(".")[0]
        for i in range(1, STRANGER_ADDRESSES):
            run("ip", "-n", hosts.name(STRANGER), "addr", "add", f"{net}.{100 + i}/24", "dev", "eth0")
        self.figures: list[dict[str, Any]] = []

    def start(self, rank: int, **env: str) -> None:
        address = self.inside if rank == MASTER else self.outside
        self.hosts.start(rank, TRAIN, WORKERS + 1, SECRET | {"MASTER_ADDR": address} | env)

    def steps(self) -> int:
        return len(read_metrics(self.run)) if (self.run / "metrics.jsonl").exists() else 0

    def events(self, kind: str) -> list[str]:
        return [str(line["text"]) for line in read_lines(self.run / "events.jsonl") if line["kind"] == kind]

    def members(self, text: str) -> int:
        return sum(text in line for line in self.events("members"))

    def until(self, reached: Callable[[], bool], what: str, seconds: float = 240.0) -> None:
        self.hosts.wait_until(reached, what, seconds)

    def phase(self, name: str, act: Callable[[], None]) -> None:
        """Do it, and note the steps meanwhile and the new reasons of refusals."""
        first, refused = self.steps(), set(self.reasons())
        act()
        times = [line["step_seconds"] for line in read_metrics(self.run)[first + 1 :]]
        whole = [
            line["step_seconds"] for line in read_metrics(self.run)[first + 1 :] if len(line["arrived"]) == WORKERS
        ]
        self.figures.append(
            {
                "phase": name,
                "steps": len(times),
                "median": round(statistics.median(times), 4),
                "median_with_both_workers": round(statistics.median(whole), 4),
                "longest": round(max(times), 3),
                "logged": sorted(set(self.reasons()) - refused),
            }
        )

    def reasons(self) -> list[str]:
        """The reasons of refusals so far, each as often as it is logged."""
        return [text.partition(" so far: ")[2].partition(" (")[0] for text in self.events("refuse")]

    def attack(self, what: str, seconds: float, host: str | None = None) -> str:
        """The stranger's process from its start to its end; what it said."""
        before = len(self.hosts.output(STRANGER)) if STRANGER in self.hosts.processes else 0
        self.begin(what, seconds, host)
        assert self.hosts.processes[STRANGER].wait(240.0) == 0, self.hosts.output(STRANGER)
        return self.hosts.output(STRANGER)[before:]

    def begin(self, what: str, seconds: float, host: str | None = None) -> None:
        arguments = [SCRIPT, what, host or self.outside, str(PORT), self.hosts.address(OPEN), str(seconds)]
        self.hosts.start(STRANGER, arguments, 1)

    def calm(self) -> None:
        wanted = self.steps() + CALM_STEPS
        self.until(lambda: self.steps() >= wanted, "steps")

    def both_are_back(self) -> None:
        def back() -> bool:
            return all(len(line["arrived"]) == WORKERS for line in read_metrics(self.run)[-5:])

        self.until(back, "worker that came back")


def test_a_run_through_one_open_port_beside_a_stranger(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(CONFIG)
    with Hosts(7, tmp_path) as hosts:
        net = Net(hosts, tmp_path)
        for rank in range(WORKERS + 1):
            net.start(rank)
        net.until(lambda: net.steps() >= 20, "steps", 480.0)
        assert [listens_on(hosts.processes[rank].pid) for rank in range(WORKERS + 1)] == [{net.inside}, set(), set()]
        try:
            said = every_attack(net)
        finally:
            if path := os.environ.get("GCDIST_FIGURES"):
                said_all = hosts.output(STRANGER).splitlines() if STRANGER in hosts.processes else []
                Path(path).write_text(json.dumps({"phases": net.figures, "stranger": said_all}, indent=1) + "\n")
        os.kill(hosts.processes[MASTER].pid, signal.SIGTERM)
        codes = [hosts.processes[rank].wait(240.0) for rank in range(WORKERS + 1)]
        output = hosts.output(MASTER)
    assert codes == [143, 0, 0], output
    assert "Traceback" not in output
    assert [line["step"] for line in read_metrics(net.run)] == list(range(net.steps()))
    assert len(list((net.run / "checkpoints").iterdir())) >= 1
    print("\n".join([*said, *map(str, net.figures)]))
    longest = max(figure["longest"] for figure in net.figures)
    assert longest < 2.0, net.figures  # the deadline is 0.4 s: no step has waited for anybody


def every_attack(net: Net) -> list[str]:
    """One after the other; each is logged, and the run goes on with both workers."""
    hosts, said = net.hosts, []
    net.phase("calm", net.calm)

    for rank in (GATE, HOME, OPEN):
        said.append(net.attack("scan", 2.0, hosts.address(rank)))
        assert said[-1] == f"open ports of {hosts.address(rank)}: {[PORT] if rank == GATE else []}\n"

    def without_or_with_a_wrong_secret() -> None:
        said.append(net.attack("knock", 5.0))
        net.start(WRONG, RANK="2", GCDIST_SECRET="the secret of somebody else")
        assert hosts.processes[WRONG].wait(240.0) == 2
        assert "another authority" in hosts.output(WRONG)

    net.phase("no secret, a wrong one", without_or_with_a_wrong_secret)
    assert "CERTIFICATE_REQUIRED" in said[-1]
    logged(net, "peer did not return a certificate", "it says that this master's certificate is of another authority")

    def injected() -> None:
        said.append(net.attack("inject", 30.0))
        net.both_are_back()

    net.phase("injected bytes, a recorded handshake", injected)
    assert "the worker called again" in said[-1]
    assert said[-1].count("of answer, then the end") == 2
    assert net.members(f"worker {OPEN} lost: connection lost: its bytes are not the other end's") == 1
    logged(net, "bad record mac")

    def flipped() -> None:
        said.append(net.attack("flip", 12.0))
        net.both_are_back()

    before = net.members(f"worker {OPEN} lost: ")
    net.phase("flipped bits", flipped)
    bits = int(said[-1].split("flipped ")[1].split()[0])
    assert bits > 0, said[-1]
    assert before < net.members(f"worker {OPEN} lost: ") <= before + bits

    net.phase("flood", lambda: said.append(net.attack("flood", 15.0)))
    net.both_are_back()
    logged(net, "it does not speak TLS 1.3", "there are too many callers at one time")

    def half_open() -> None:
        net.begin("hold", 45.0)
        net.until(lambda: "10000 calls are out" in hosts.output(STRANGER), "calls")
        joined = net.members(f"worker {HIDDEN} joined")
        hosts.processes[HIDDEN].send_signal(signal.SIGKILL)
        hosts.processes[HIDDEN].wait()
        net.start(HIDDEN)  # comes in beside them
        net.until(lambda: net.members(f"worker {HIDDEN} joined") > joined, "worker that comes again")
        assert hosts.processes[STRANGER].wait(240.0) == 0
        said.append(hosts.output(STRANGER).splitlines()[-1])

    net.phase("10,000 calls that say nothing", half_open)
    net.both_are_back()
    logged(net, "it said nothing for too long")
    net.phase("calm again", net.calm)
    return said


def logged(net: Net, *reasons: str) -> None:
    for reason in reasons:
        assert any(reason in line for line in net.events("refuse")), (reason, net.events("refuse"))
