"""Hosts with thin links on one machine, for the network-limited scenario: network namespaces on a bridge, limited by tbf."""

from __future__ import annotations

import os
import shutil
import subprocess
from types import TracebackType

BURST = 4096  # bytes that pass at once
QUEUE = "500ms"  # longer waits of a packet are drops


def why_not() -> str | None:
    """What is missing for network namespaces on this machine; None if nothing is."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None or shutil.which("tc") is None:
        return "ip and tc (iproute2) are not installed"
    probe = f"gcbenchprobe{os.getpid()}"
    done = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True, check=False)
    if done.returncode:
        return f"no network namespaces here: {done.stderr.strip()}"
    _run("ip", "netns", "del", probe)
    return None


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")


class Links:
    """``count`` namespaces; all links but the first one's carry ``rate`` bytes a second each way. Gone at the end.

    The first host is the master's (or rank 0 of DDP, which then has a faster link than the others, to its favour).
    """

    def __init__(self, count: int, rate: float) -> None:
        self.count = count
        self.rate = rate
        self._tag = f"gb{os.getpid() % 100_000}"
        self._net = 1 + os.getpid() % 250

    def __enter__(self) -> Links:
        try:
            _run("ip", "link", "add", f"{self._tag}br", "type", "bridge")
            _run("ip", "link", "set", f"{self._tag}br", "up")
            for rank in range(self.count):
                self._host(rank)
        except BaseException:
            self._down()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._down()

    @property
    def address(self) -> str:
        """Of the first host."""
        return f"10.78.{self._net}.1"

    def space(self, rank: int) -> str:
        """The namespace of a rank."""
        return f"{self._tag}h{rank}"

    def _host(self, rank: int) -> None:
        name, port = self.space(rank), f"{self._tag}p{rank}"
        _run("ip", "netns", "add", name)
        _run("ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", name)
        _run("ip", "link", "set", port, "master", f"{self._tag}br", "up")
        _run("ip", "-n", name, "addr", "add", f"10.78.{self._net}.{rank + 1}/24", "dev", "eth0")
        _run("ip", "-n", name, "link", "set", "lo", "up")
        _run("ip", "-n", name, "link", "set", "eth0", "up")
        if rank > 0:
            limit = ("root", "tbf", "rate", f"{round(8 * self.rate)}bit", "burst", str(BURST), "latency", QUEUE)
            _run("ip", "netns", "exec", name, "tc", "qdisc", "add", "dev", "eth0", *limit)
            _run("tc", "qdisc", "add", "dev", port, *limit)

    def _down(self) -> None:
        for rank in range(self.count):
            subprocess.run(["ip", "netns", "del", self.space(rank)], capture_output=True, check=False)
        subprocess.run(["ip", "link", "del", f"{self._tag}br"], capture_output=True, check=False)
