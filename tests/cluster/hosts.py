"""Hosts on one machine: network namespaces on one bridge, each with an address, an uplink and a cable of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from gcdist.bench.network import Namespaces, run
from gcdist.bench.network import why_not as why_not

PORT = 29511  # free in every new namespace


class Hosts(Namespaces):
    """``count`` namespaces with the processes on them, which are killed at the end; more to break than `Namespaces` has.

    A host's place on the bridge is its cable: `cut` takes it off, and neither end is told of anything.
    """

    def __init__(self, count: int, folder: Path) -> None:
        super().__init__(count)
        self.folder = folder
        self.processes: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, rank: int, arguments: Sequence[str], world: int, env: dict[str, str] | None = None) -> None:
        """Start ``python arguments`` on a host as a launcher would, its output in ``outR``."""
        place = {
            "MASTER_ADDR": self.address(0),
            "MASTER_PORT": str(PORT),
            "WORLD_SIZE": str(world),
            "RANK": str(rank),
            "OMP_NUM_THREADS": "1",
            "PYTHONSAFEPATH": "1",
            "PYTHONUNBUFFERED": "1",
        }
        with (self.folder / f"out{rank}").open("ab") as out:
            self.processes[rank] = subprocess.Popen(
                self.inside(rank, sys.executable, *arguments),
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **place, **(env or {})},
                cwd=self.folder,
            )

    def inside(self, rank: int, *command: str) -> list[str]:
        """The command, to be run on a host."""
        return ["ip", "netns", "exec", self.name(rank), *command]

    def output(self, rank: int) -> str:
        """What a host's process has printed."""
        return (self.folder / f"out{rank}").read_text(errors="replace")

    def wait_until(self, reached: Callable[[], bool], what: str, seconds: float) -> None:
        """Wait until ``reached()``; RuntimeError with the master's output if it ends before or takes longer."""
        until = time.monotonic() + seconds
        while not reached():
            if time.monotonic() > until or self.processes[0].poll() is not None:
                raise RuntimeError(f"no {what}:\n{self.output(0)}")
            time.sleep(0.05)

    def uplink(self, rank: int, rate: str) -> None:
        """Limit what a host can send, ``"10mbit"``."""
        self.limit_sending(rank, rate, burst="32kbit", queue="400ms")

    def name_file(self, rank: int, text: str) -> None:
        """Give a host an /etc/hosts of its own."""
        folder = Path("/etc/netns") / self.name(rank)  # where ``ip netns exec`` looks for it
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "hosts").write_text(text)

    def link_ports(self, rank: int, ports: str) -> None:
        """The range from which a host's kernel chooses ports, ``"40000 40100"``."""
        setting = f"net.ipv4.ip_local_port_range={ports}"
        run("ip", "netns", "exec", self.name(rank), "sysctl", "-qw", setting)

    def mute(self, rank: int, ports: str) -> None:
        """What a host sends from these TCP ports, ``"40000-40100"``, is dropped: to others they do not answer."""
        run("ip", "-n", self.name(rank), "rule", "add", "ipproto", "tcp", "sport", ports, "blackhole")

    def cut(self, rank: int) -> None:
        """The cable carries nothing any more; no end is told."""
        run("ip", "link", "set", self.cable(rank), "nomaster")

    def heal(self, rank: int) -> None:
        """The cable carries again."""
        run("ip", "link", "set", self.cable(rank), "master", self.bridge)

    def down(self) -> None:
        """Kill what still runs, by process id, and take the hosts down."""
        for process in self.processes.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
            process.wait()
        super().down()
        for rank in range(self.count):
            shutil.rmtree(Path("/etc/netns") / self.name(rank), ignore_errors=True)
