"""What the doctor says of what it has seen: pure functions."""

from __future__ import annotations

import resource
from dataclasses import replace

import pytest

from gcdist.doctor import Finding, address, machine, network, software, verdict
from gcdist.doctor.address import Place
from gcdist.doctor.connect import Measured
from gcdist.doctor.machine import Machine
from gcdist.doctor.pair import Paired

GOOD = {"python": "3.12.1", "gcdist": "0.1.0", "torch": "2.13.0+cpu", "numpy": "2.0", "numba": "0.61"}
WELL = Machine(8 << 30, 1 << 30, 65536, 4, "1", 2, "/c", 100, 64)
HERE = Place("node1", ("10.0.0.2",), "node0", ("10.0.0.1",), "10.0.0.2", "eth0")
MEASURED = Measured(
    "10.0.0.1", GOOD, "node0", ("10.0.0.1",), ("10.0.0.2",), "10.0.0.2", (32768, 60999), 5e-4, 0.01, 1e8, 1e8, None, None,
    Paired(6e-4, 9e7, 9e7),
)  # fmt: skip


def level(findings: list[Finding], check: str) -> str:
    for each in findings:
        assert (each.level == "ok") == (not each.fix), each
    return verdict(each for each in findings if each.check == check)


@pytest.mark.parametrize(
    ("found", "gloo", "expected", "says"),
    [
        (GOOD, (True, True), "ok", "torch 2.13.0"),
        (GOOD | {"python": "3.10.9"}, (True, True), "fail", "Python 3.10.9"),
        (GOOD | {"python": "3.14.0"}, (True, True), "fail", "Python 3.14.0"),
        (GOOD | {"torch": "2.5.1"}, (True, True), "fail", "torch 2.5.1"),
        ({"python": "3.12.1"}, (True, True), "fail", "torch is missing"),
        (GOOD, (False, False), "fail", "no gloo"),
        (GOOD, (True, False), "warn", "threads"),
    ],
)
def test_versions(found: dict[str, str], gloo: tuple[bool, bool], expected: str, says: str) -> None:
    [finding] = software.judge_versions(found, gloo)
    assert (finding.level, says in finding.text) == (expected, True), finding


def test_versions_of_both_ends() -> None:
    assert software.judge_both(GOOD, GOOD).level == "ok"
    assert software.judge_both(GOOD, GOOD | {"torch": "2.6.0"}).level == "warn"
    other = software.judge_both(GOOD, GOOD | {"gcdist": "0.2.0"})
    assert (other.level, other.fix) == ("fail", "pip install gcdist==0.2.0")


@pytest.mark.parametrize(
    ("change", "check", "expected"),
    [
        ({}, "memory", "ok"),
        ({"available": 1 << 30}, "memory", "warn"),
        ({"available": 100 << 20}, "memory", "fail"),
        ({"available": None}, "memory", "ok"),
        ({"shared": 64 << 20}, "/dev/shm", "warn"),
        ({"shared": None}, "/dev/shm", "ok"),
        ({"descriptors": 256}, "descriptors", "warn"),
        ({"descriptors": resource.RLIM_INFINITY}, "descriptors", "ok"),
        ({"threads": "4"}, "threads", "warn"),
        ({"threads": None}, "threads", "warn"),
        ({"threads": None, "processes": 1}, "threads", "ok"),
        ({"threads": "many"}, "threads", "warn"),
        ({"cache": None, "kernels": 0}, "kernel cache", "warn"),
        ({"kernels": 0}, "kernel cache", "ok"),
        ({"secret": None}, "secret", "warn"),
        ({"secret": 6}, "secret", "warn"),
    ],
)
def test_the_machine(change: dict[str, object], check: str, expected: str) -> None:
    findings = machine.judge(replace(WELL, **change), alone=False)  # type: ignore[arg-type]
    assert level(findings, check) == expected
    assert verdict(each for each in findings if each.check != check) == "ok"


def test_one_machine_needs_no_secret() -> None:
    assert level(machine.judge(replace(WELL, secret=None), alone=True), "secret") == "ok"


@pytest.mark.parametrize(
    ("change", "check", "expected", "says"),
    [
        ({}, "own name", "ok", "node1"),
        ({"own": ("127.0.1.1",)}, "own name", "warn", "127.0.1.1"),
        ({"own": ()}, "own name", "warn", "unknown to itself"),
        ({"hosts": ()}, "master's address", "fail", "unknown here"),
        ({"hosts": ("127.0.1.1",)}, "master's address", "fail", "look for it on itself"),
        ({"host": None, "hosts": ()}, "master's address", "ok", "not given"),
        ({"links": "127.0.0.1", "interface": "lo"}, "gloo's interface", "fail", "no other machine"),
        ({"links": None, "wrong": "no network interface 'x'"}, "gloo's interface", "fail", "'x'"),
    ],
)
def test_names_and_addresses(change: dict[str, object], check: str, expected: str, says: str) -> None:
    findings = address.judge(replace(HERE, **change), master=False, alone=False)  # type: ignore[arg-type]
    assert level(findings, check) == expected
    assert says in next(each.text for each in findings if each.check == check)


def test_the_trap_is_none_on_one_machine() -> None:
    here = replace(HERE, own=("127.0.1.1",), host="localhost", hosts=("127.0.0.1",), links="127.0.0.1", interface="lo")
    assert verdict(address.judge(here, master=True, alone=True)) == "ok"


def test_ports_of_the_master() -> None:
    assert address.judge_port("a", 29500, None).level == "ok"
    assert "ss -ltnp" in address.judge_port("a", 29500, "it is in use").fix
    assert "cluster.interface" in address.judge_port("a", 29500, "Cannot assign requested address").fix


@pytest.mark.parametrize(
    ("change", "check", "expected", "says"),
    [
        ({}, "gloo", "ok", "Mbit/s"),
        ({"skew": -7.0}, "clock", "warn", "7.0 s behind"),
        ({"round_trip": 0.2}, "round trip", "warn", "200.00 ms"),
        ({"up": 1.25e6}, "bandwidth", "warn", "10 Mbit/s to the master, 800 Mbit/s from it"),
        ({"blocked_there": "port 5 there: x", "pair": None}, "ports", "fail", "port 5 there"),
        ({"blocked_here": "port 6 here: x", "pair": None}, "ports", "fail", "port 6 here"),
        ({"pair": "no way"}, "gloo", "fail", "no way"),
        ({"pair": Paired(1e-3, 1e5, 1e8)}, "gloo", "warn", "far below plain TCP"),
        ({"my_name": ("127.0.1.1",)}, "names both ways", "warn", "127.0.1.1 there, and comes from 10.0.0.2"),
        ({"name_here": ("10.0.0.9",)}, "names both ways", "warn", "10.0.0.9 here, and comes from 10.0.0.1"),
        ({"my_name": ()}, "names both ways", "warn", "unknown there"),
        ({"same_secret": False}, "same secret", "fail", "does not know it"),
        ({"versions": GOOD | {"gcdist": "9"}}, "same versions", "fail", "9 there"),
    ],
)
def test_the_network(change: dict[str, object], check: str, expected: str, says: str) -> None:
    findings = network.judge(replace(MEASURED, **change), GOOD, "node1")  # type: ignore[arg-type]
    assert level(findings, check) == expected
    assert any(says in each.text for each in findings if each.check == check)
    assert verdict(each for each in findings if each.check != check) == "ok"


def test_what_cannot_be_reached() -> None:
    said = {reason: network.unreachable("a", 5, reason).fix for reason in ("refused: x", "nothing answers: x", "else")}
    assert "gcdist doctor --serve a:5" in said["refused: x"]
    assert "open TCP 5" in said["nothing answers: x"]
    assert "ping a" in said["else"]
    assert network.unreachable("a", 5, "the other end says: the shared secret differs").check == "same secret"
