"""Hosts on one machine: network namespaces on one bridge, each with its own address and cable."""

from __future__ import annotations

import os
import shutil
import subprocess
from types import TracebackType
from typing import Self

INTERFACE = "eth0"  # of every host
BURST = "1600b"  # leaves at once; a larger burst would let short messages pass without limit


def why_not() -> str | None:
    """The missing requirement for network namespaces on this machine; None if there is none."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None or shutil.which("tc") is None:
        return "ip and tc (iproute2) are not installed"
    probe = f"gcprobe{os.getpid()}"
    done = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True, check=False)
    if done.returncode:
        return f"no network namespaces here: {done.stderr.strip()}"
    run("ip", "netns", "del", probe)
    return None


def run(*command: str) -> None:
    """Run a command of iproute2; OSError with its text."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")


class Namespaces:
    """``count`` hosts; host r has the address 10.77.N.(r+1) on its ``eth0``. A context manager: its end removes all."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._tag = f"gc{os.getpid() % 100_000}"
        self._net = 1 + os.getpid() % 250

    def __enter__(self) -> Self:
        try:
            run("ip", "link", "add", self.bridge, "type", "bridge")
            run("ip", "link", "set", self.bridge, "up")
            for rank in range(self.count):
                self._host(rank)
        except BaseException:
            self.down()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    @property
    def bridge(self) -> str:
        """The bridge between the hosts."""
        return f"{self._tag}br"

    def address(self, rank: int) -> str:
        """The address of a host."""
        return f"10.77.{self._net}.{rank + 1}"

    def name(self, rank: int) -> str:
        """The namespace of a host."""
        return f"{self._tag}h{rank}"

    def cable(self, rank: int) -> str:
        """The bridge's end of a host's cable."""
        return f"{self._tag}p{rank}"

    def limit_sending(self, rank: int, rate: str, burst: str, queue: str) -> None:
        """Limit a host's sending rate, e.g. ``"10mbit"``; packets that wait longer than ``queue`` are dropped."""
        limit = ("tbf", "rate", rate, "burst", burst, "latency", queue)
        run("ip", "netns", "exec", self.name(rank), "tc", "qdisc", "add", "dev", INTERFACE, "root", *limit)

    def limit_receiving(self, rank: int, rate: str, burst: str, queue: str) -> None:
        """Limit the rate at which a host receives."""
        limit = ("tbf", "rate", rate, "burst", burst, "latency", queue)
        run("tc", "qdisc", "add", "dev", self.cable(rank), "root", *limit)

    def down(self) -> None:
        """Take the hosts down."""
        for rank in range(self.count):
            # by name: the kernel removes a namespace's cable some time later, and the next one needs the name
            subprocess.run(["ip", "link", "del", self.cable(rank)], capture_output=True, check=False)
            subprocess.run(["ip", "netns", "del", self.name(rank)], capture_output=True, check=False)
        subprocess.run(["ip", "link", "del", self.bridge], capture_output=True, check=False)

    def _host(self, rank: int) -> None:
        name, cable = self.name(rank), self.cable(rank)
        run("ip", "netns", "add", name)
        run("ip", "link", "add", cable, "type", "veth", "peer", "name", INTERFACE, "netns", name)
        run("ip", "link", "set", cable, "master", self.bridge, "up")
        inside = ("ip", "-n", name)
        run(*inside, "addr", "add", f"{self.address(rank)}/24", "dev", INTERFACE)
        run(*inside, "link", "set", "lo", "up")
        run(*inside, "link", "set", INTERFACE, "up")


class ThinLinks(Namespaces):
    """All links but the first host's carry ``rate`` bytes a second each way.

    The first host is the master's, or rank 0 of DDP, which favours DDP by one faster link.
    """

    def __init__(self, count: int, rate: float) -> None:
        super().__init__(count)
        self.rate = f"{round(8 * rate)}bit"

    def __enter__(self) -> Self:
        super().__enter__()
        try:
            for rank in range(1, self.count):
                self.limit_sending(rank, self.rate, burst=BURST, queue="500ms")
                self.limit_receiving(rank, self.rate, burst=BURST, queue="500ms")
        except BaseException:
            self.down()
            raise
        return self
