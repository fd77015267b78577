"""`gcdist doctor` between two hosts: well ones, and one with a trap in its names, blocked ports and a slow uplink."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.hosts import PORT, Hosts, why_not
from tests.run.listeners import listens_on

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]
LIMIT = 90.0
Findings = dict[str, list[dict[str, Any]]]


@pytest.fixture(autouse=True)
def _namespaces() -> None:
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)


def examine(
    folder: Path, prepare: Callable[[Hosts], None], env: dict[str, str] | None = None, served: bool = True
) -> tuple[int, Findings]:
    """Exit code and findings, by check, of a doctor on host 1 that asks one on host 0."""
    with Hosts(2, folder) as hosts:
        prepare(hosts)
        place = f"{hosts.address(0)}:{PORT}"
        hosts.start(0, ["-m", "gcdist", "doctor", "--serve", place, "--count", "1"], 2)
        hosts.wait_until(lambda: "answering at" in hosts.output(0), "answer", LIMIT)
        hosts.start(1, ["-m", "gcdist", "doctor", "--connect", place, "--json"], 2, env)
        code = hosts.processes[1].wait(LIMIT)
        if served:
            assert hosts.processes[0].wait(LIMIT) in (0, 1), hosts.output(0)
        said = json.loads(hosts.output(1).splitlines()[-1])
    found: Findings = {}
    for each in said["findings"]:
        found.setdefault(each["check"], []).append(each)
        assert (each["level"] == "ok") == (not each["fix"]), each
    assert said["verdict"] == ("fail" if code else said["verdict"])
    return code, found


def test_two_well_hosts(tmp_path: Path) -> None:
    code, found = examine(tmp_path, lambda hosts: None)
    assert code == 0, found
    for check in (
        "ports",
        "gloo",
        "round trip",
        "bandwidth",
        "same versions",
        "same secret",
        "clock",
        "gloo's interface",
    ):
        assert found[check][0]["level"] == "ok", found[check]
    assert "(eth0)" in found["gloo's interface"][0]["text"]


def test_a_trap_blocked_ports_and_a_slow_uplink_are_found_at_once(tmp_path: Path) -> None:
    def prepare(hosts: Hosts) -> None:
        hosts.name_file(1, f"127.0.0.1 localhost\n127.0.1.1 {socket.gethostname()}\n")
        hosts.link_ports(0, "40000 40100")
        hosts.mute(0, "40000-40100")
        hosts.uplink(1, "10mbit")

    code, found = examine(tmp_path, prepare)
    assert code == 1
    [trap] = found["own name"]
    assert trap["level"] == "warn"
    assert "is 127.0.1.1 here" in trap["text"]
    assert "GLOO_SOCKET_IFNAME=eth0" in trap["fix"]
    blocked = found["ports"][0]
    assert blocked["level"] == "fail"
    assert "nothing answers: dropped on the way (a firewall)" in blocked["text"]
    assert "open TCP 40000 to 40100" in blocked["fix"]
    [slow] = found["bandwidth"]
    assert slow["level"] == "warn"
    up = float(slow["text"].split()[0])
    assert 5 < up < 10.5, slow  # of what tc lets through, Mbit/s; not how fast this machine is
    assert "gloo" not in found  # it could only wait for a link that cannot come up


def test_the_master_of_a_trapped_name_and_a_blocked_port(tmp_path: Path) -> None:
    name = socket.gethostname()
    with Hosts(2, tmp_path) as hosts:
        hosts.name_file(0, f"127.0.0.1 localhost\n127.0.1.1 {name}\n")
        hosts.start(0, ["-m", "gcdist", "doctor", "--serve", f"{name}:{PORT}", "--json"], 2)
        hosts.wait_until(lambda: "answering at 127.0.1.1" in hosts.output(0), "answer", LIMIT)
        said = json.loads(next(line for line in hosts.output(0).splitlines() if line.startswith("{")))
    [trap] = [each for each in said["findings"] if each["check"] == "master's address"]
    assert trap["level"] == "fail"
    assert "is 127.0.1.1 here, which no other machine reaches" in trap["text"]

    second = tmp_path / "second"
    second.mkdir()
    code, found = examine(second, lambda hosts: hosts.mute(0, str(PORT)), served=False)
    assert code == 1
    [reach] = found["reach"]
    assert "nothing answers" in reach["text"]
    assert f"open TCP {PORT}" in reach["fix"]


def test_secrets_that_differ(tmp_path: Path) -> None:
    code, found = examine(tmp_path, lambda hosts: None, {"GCDIST_SECRET": "mine, and nobody else's"}, served=False)
    assert code == 1
    assert found["same secret"][0]["level"] == "fail"


def test_a_run_listens_on_one_address(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(
        'steps = 10000\nout = "runs"\nname = "run"\n[code]\nscheme = "osgc"\n[straggler]\ndeadline = 1.0\n'
    )
    with Hosts(2, tmp_path) as hosts:
        for rank in range(2):
            hosts.start(rank, ["-m", "gcdist", "train", "config.toml"], 2)
        metrics = tmp_path / "runs" / "run" / "metrics.jsonl"
        hosts.wait_until(lambda: metrics.exists() and metrics.stat().st_size > 0, "step", LIMIT)
        for rank in range(2):
            assert listens_on(hosts.processes[rank].pid) == {hosts.address(rank)}
        told = f"no shared secret: whoever reaches {hosts.address(0)} can join this run"
        hosts.processes[0].send_signal(signal.SIGTERM)
        until = time.monotonic() + LIMIT
        while hosts.processes[0].poll() is None and time.monotonic() < until:
            time.sleep(0.1)
    assert told in (tmp_path / "runs" / "run" / "events.jsonl").read_text()
