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
from types import TracebackType

PORT = 29511  # free in every new namespace


def why_not() -> str | None:
    """What is missing for namespaces on this machine; None if nothing is."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None or shutil.which("tc") is None:
        return "ip and tc (iproute2) are not installed"
    probe = subprocess.run(["ip", "netns", "add", f"gcprobe{os.getpid()}"], capture_output=True, text=True, check=False)
    if probe.returncode:
        return f"no network namespaces here: {probe.stderr.strip()}"
    _run("ip", "netns", "del", f"gcprobe{os.getpid()}")
    return None


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")


class Hosts:
    """``count`` namespaces; host r has the address 10.77.N.(r+1) on its ``eth0``. Everything goes at the end.

    A host's place on the bridge is its cable: `cut` takes it off, and neither end is told of anything.
    """

    def __init__(self, count: int, folder: Path) -> None:
        self.count = count
        self.folder = folder
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        self._tag = f"gc{os.getpid() % 100_000}"
        self._net = 1 + os.getpid() % 250

    def __enter__(self) -> Hosts:
        try:
            _run("ip", "link", "add", f"{self._tag}br", "type", "bridge")
            _run("ip", "link", "set", f"{self._tag}br", "up")
            for rank in range(self.count):
                self._host(rank)
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def address(self, rank: int) -> str:
        """The address of a host."""
        return f"10.77.{self._net}.{rank + 1}"

    def start(self, rank: int, arguments: Sequence[str], world: int, env: dict[str, str] | None = None) -> None:
        """Start ``python arguments`` on a host as a launcher would, its output in ``outR``."""
        place = {
            "MASTER_ADDR": self.address(0),
            "MASTER_PORT": str(PORT),
            "WORLD_SIZE": str(world),
            "RANK": str(rank),
        }
        self.run(rank, [sys.executable, *arguments], {**place, **(env or {})})

    def run(self, rank: int, command: Sequence[str], env: dict[str, str] | None = None) -> None:
        """Start a command on a host, its output in ``outR``."""
        quiet = {"OMP_NUM_THREADS": "1", "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"}
        with (self.folder / f"out{rank}").open("ab") as out:
            self.processes[rank] = subprocess.Popen(
                ["ip", "netns", "exec", self._name(rank), *command],
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **quiet, **(env or {})},
                cwd=self.folder,
            )

    def inside(self, rank: int, *command: str) -> list[str]:
        """The command, to be run on a host."""
        return ["ip", "netns", "exec", self._name(rank), *command]

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
        limit = ("tbf", "rate", rate, "burst", "32kbit", "latency", "400ms")
        _run("ip", "netns", "exec", self._name(rank), "tc", "qdisc", "add", "dev", "eth0", "root", *limit)

    def name_file(self, rank: int, text: str) -> None:
        """Give a host an /etc/hosts of its own."""
        folder = Path("/etc/netns") / self._name(rank)  # where ``ip netns exec`` looks for it
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "hosts").write_text(text)

    def link_ports(self, rank: int, ports: str) -> None:
        """The range from which a host's kernel chooses ports, ``"40000 40100"``."""
        setting = f"net.ipv4.ip_local_port_range={ports}"
        _run("ip", "netns", "exec", self._name(rank), "sysctl", "-qw", setting)

    def mute(self, rank: int, ports: str) -> None:
        """What a host sends from these TCP ports, ``"40000-40100"``, is dropped: to others they do not answer."""
        _run("ip", "-n", self._name(rank), "rule", "add", "ipproto", "tcp", "sport", ports, "blackhole")

    def cut(self, rank: int) -> None:
        """The cable carries nothing any more; no end is told."""
        _run("ip", "link", "set", self._port(rank), "nomaster")

    def heal(self, rank: int) -> None:
        """The cable carries again."""
        _run("ip", "link", "set", self._port(rank), "master", f"{self._tag}br")

    def end(self) -> None:
        """Kill what still runs, by process id, and take the hosts down."""
        for process in self.processes.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
            process.wait()
        for rank in range(self.count):
            # by name: a namespace takes its cable along only when the kernel gets to it, and the next test wants that name
            subprocess.run(["ip", "link", "del", self._port(rank)], capture_output=True, check=False)
            subprocess.run(["ip", "netns", "del", self._name(rank)], capture_output=True, check=False)
            shutil.rmtree(Path("/etc/netns") / self._name(rank), ignore_errors=True)
        subprocess.run(["ip", "link", "del", f"{self._tag}br"], capture_output=True, check=False)

    def _host(self, rank: int) -> None:
        name, port = self._name(rank), self._port(rank)
        _run("ip", "netns", "add", name)
        _run("ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", name)
        _run("ip", "link", "set", port, "master", f"{self._tag}br", "up")
        inside = ("ip", "-n", name)
        _run(*inside, "addr", "add", f"{self.address(rank)}/24", "dev", "eth0")
        _run(*inside, "link", "set", "lo", "up")
        _run(*inside, "link", "set", "eth0", "up")

    def _name(self, rank: int) -> str:
        return f"{self._tag}h{rank}"

    def _port(self, rank: int) -> str:
        return f"{self._tag}p{rank}"
