"""`gcdist launch ssh`: workers on other hosts, each the child of its own ssh connection."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from gcdist.last_words import LastWords
from gcdist.launcher.hosts import Host
from gcdist.launcher.lines import Lines
from gcdist.launcher.local import LocalChildren, found_program, reserved_port
from gcdist.launcher.loop import CommandError, run
from gcdist.launcher.machine import Ended, Machine, name_of
from gcdist.launcher.remote import HERE

PORT = 29500  # of the store, if the master runs on another host
BEAT_SECONDS = 5.0
SILENCE_SECONDS = 60.0  # without a beat: the far end ends its command
RESOLVE = 10.0  # seconds for ssh to read its configuration
KILL_SECONDS = 5.0  # for a far end to kill its command, before its connection is cut
LOST = 255  # ssh's exit code for a failure of its own
MOST_BYTES = 60_000  # of an order: it must fit into a pipe
PASSED = ("GCDIST_SECRET",)  # variables copied from here to every process, through the connection
FAR_END = "import sys, gcdist.launcher.remote as far; sys.exit(far.main())"  # no quotes in it
OPTIONS = [
    "-T", "-oBatchMode=yes", "-oConnectTimeout=10", "-oServerAliveInterval=5", "-oServerAliveCountMax=6",
    "-oControlPath=none", "-oClearAllForwardings=yes",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a rank."""

    host: Host
    local_rank: int
    local_world: int


def launch_ssh(
    command: Sequence[str],
    hosts: Sequence[Host],
    max_restarts: int | None = None,
    restart_master: int = 0,
    *,
    ssh: Sequence[str] = ("ssh",),
    master: str | None = None,
    address: str | None = None,
    port: int | None = None,
) -> int:
    """Run ``command`` as one master and the hosts' workers until the master has ended.

    Every process gets its place as by `launch_local`; ranks follow the order of the hosts. A worker that dies is
    started again; a broken connection is made again, and its old far end ends its process. Workers' lines go to stderr
    with host and rank before them; the master's stdout and stderr are this process's.

    Args:
        command: program and arguments, found on each host.
        hosts: of the workers.
        max_restarts: of each worker; None: no limit.
        restart_master: number of restarts of a master that died.
        ssh: the ssh program, and options.
        master: host of the master, one of ``hosts``; None: this machine.
        address: of the master, for the workers; None: by the route to the hosts.
        port: of the master's store; None: a free one here, 29500 elsewhere.

    Returns:
        The master's exit code, or 128 + the signal that killed it.

    Raises:
        CommandError: the command cannot be run, or the hosts do not fit.
    """
    by_name = {host.name: host for host in hosts}
    if master is not None and master not in by_name:
        raise CommandError(f"--master: found {master!r}; the hosts file has {', '.join(by_name)}")
    for host in hosts:
        if host.workers == 0 and host.name != master:
            raise CommandError(f"{host.name}: workers=0; only the host of --master can be without workers")
    places = placed(hosts, None if master is None else by_name[master])
    workers = max(places, default=0)
    if workers == 0:
        raise CommandError("the hosts have no worker; at least one is needed")
    if shutil.which(ssh[0]) is None:
        raise CommandError(f"{ssh[0]!r} is not found or not executable")
    program = None if master else found_program(command)
    if address is None:
        names = [resolved(ssh, host.name) for host in hosts]
        address = resolved(ssh, master) if master else route_here(names)
    mark, lines = secrets.token_hex(8), Lines()
    with ExitStack() as stack:
        if port is None:
            port = PORT if master else stack.enter_context(reserved_port(address)).getsockname()[1]
        shared = {"WORLD_SIZE": str(workers + 1), "MASTER_ADDR": address, "MASTER_PORT": str(port)}
        here = None
        if program is not None:
            here = LocalChildren(program, command, {**shared, "LOCAL_WORLD_SIZE": "1"}, mark, lines)
        children = SshChildren(command, places, shared, mark, lines, ssh, here)
        try:
            return run(Machine(workers, max_restarts, restart_master), children, mark)
        finally:
            if here is not None:
                here.close()


def placed(hosts: Sequence[Host], master: Host | None) -> dict[int, Place]:
    """The place of each rank that runs over ssh; rank 0 if there is a master's host.

    >>> [(rank, at.host.name, at.local_rank) for rank, at in placed([Host("a", 2), Host("b")], None).items()]
    [(1, 'a', 0), (2, 'a', 1), (3, 'b', 0)]
    """
    places: dict[int, Place] = {}
    rank = 1
    for host in hosts:
        first = int(host == master)
        world = host.workers + first
        if first:
            places[0] = Place(host, 0, world)
        for local in range(host.workers):
            places[rank] = Place(host, first + local, world)
            rank += 1
    return dict(sorted(places.items()))


def resolved(ssh: Sequence[str], name: str) -> str:
    """The host name that ssh connects to, after aliases of the user's ssh config."""
    try:
        done = subprocess.run([*ssh, "-G", "--", name], capture_output=True, text=True, check=False, timeout=RESOLVE)
    except subprocess.TimeoutExpired:  # the user's ssh config may run commands
        return name.rpartition("@")[2]
    found = [line.split(None, 1)[1] for line in done.stdout.splitlines() if line.startswith("hostname ")]
    return found[0] if done.returncode == 0 and found else name.rpartition("@")[2]


def route_here(names: Sequence[str]) -> str:
    """The address of this machine on its routes to the hosts; CommandError if it is not unique."""
    found: set[str] = set()
    for name in names:
        with contextlib.suppress(OSError):
            family, _, _, _, address = socket.getaddrinfo(name, 9, type=socket.SOCK_DGRAM)[0]
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect(address)  # sends nothing: the kernel picks the route
                found.add(probe.getsockname()[0])
    if len(found) != 1:
        seen = f"{len(found)} of them ({', '.join(sorted(found))})" if found else "none"
        raise CommandError(
            f"the address at which the hosts reach this machine: found {seen}; give it with --address, or --master HOST"
        )
    return found.pop()


@dataclass(slots=True)
class _Connection:
    pid: int
    tell: int  # the write end of its standard input
    cut_at: float = float("inf")


class SshChildren:
    """Processes on hosts by rank, each behind an ssh of its own; rank 0 may be a process of this machine.

    Args:
        command: of all processes.
        places: of the ranks that run over ssh.
        shared: environment variables for all; RANK, LOCAL_RANK and LOCAL_WORLD_SIZE are added.
        mark: of the run; descendants inherit it, and `sweep` ends them by it.
        lines: the output for lines.
        ssh: the ssh program, and options.
        here: starts rank 0 on this machine; None: it has a place.
    """

    def __init__(
        self,
        command: Sequence[str],
        places: dict[int, Place],
        shared: dict[str, str],
        mark: str,
        lines: Lines,
        ssh: Sequence[str],
        here: LocalChildren | None,
    ) -> None:
        self.master_hears_terminal = here is not None
        self._command = list(command)
        self._places = places
        self._shared = shared
        self._mark = mark
        self._lines = lines
        self.say, self.finish = lines.say, lines.finish
        self._program = shutil.which(ssh[0]) or ssh[0]
        self._ssh = [*ssh, *OPTIONS]
        self._here = here
        self._open: dict[int, _Connection] = {}
        self._worked: set[int] = set()  # ranks whose connection was made at least once
        self._beat = time.monotonic()

    def start(self, rank: int, again: int) -> None:
        """Connect, and send the order; CommandError."""
        if rank == 0 and self._here is not None:
            self._here.start(rank, again)
            return
        place = self._places[rank]
        order = self._order(rank, again, place)
        python = place.host.python
        # the only text for a shell of the host
        word = "~/" + shlex.quote(python[2:]) if python.startswith("~/") else shlex.quote(python)
        arguments = [*self._ssh, "--", place.host.name, f"exec {word} -P -c '{FAR_END}'"]
        # no other child inherits our ends, so that every far end's input ends with this process
        take, tell = os.pipe()
        read, write = os.pipe()
        os.set_blocking(tell, False)
        spawn: Callable[..., int] = os.posix_spawn
        out = (os.POSIX_SPAWN_DUP2, write, 1) if rank else (os.POSIX_SPAWN_DUP2, 1, 1)
        try:
            pid = spawn(
                self._program, arguments, os.environ, setpgroup=0, setsigmask=[],
                setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
                file_actions=[(os.POSIX_SPAWN_DUP2, take, 0), out, (os.POSIX_SPAWN_DUP2, write, 2)],
            )  # fmt: skip
        except OSError as error:
            os.close(read)
            os.close(tell)
            raise CommandError(f"{self._program} cannot be run: {error.strerror}") from None
        finally:
            os.close(take)
            os.close(write)
        self._open[rank] = connection = _Connection(pid, tell)
        self._write(connection, order)
        self._lines.copy(f"{place.host.name} {name_of(rank)}" if rank else "", read, self._hears(rank, place))

    def send(self, rank: int, number: int) -> None:
        """Send a signal through the connection; after SIGKILL it is cut in a few seconds."""
        connection = self._open.get(rank)
        if connection is None:
            if rank == 0 and self._here is not None:
                self._here.send(rank, number)
            return
        self._write(connection, b"%d\n" % number)
        if number == signal.SIGKILL:
            connection.cut_at = min(connection.cut_at, time.monotonic() + KILL_SECONDS)

    def ended(self) -> list[Ended]:
        """Processes that have ended since the last call, or whose connection has."""
        now = time.monotonic()
        gone = [] if self._here is None else self._here.ended()
        if now - self._beat >= BEAT_SECONDS:
            self._beat = now
            for connection in self._open.values():
                self._write(connection, b"0\n")
        for rank, connection in list(self._open.items()):
            if now >= connection.cut_at:
                os.kill(connection.pid, signal.SIGKILL)
            found, status = os.waitpid(connection.pid, os.WNOHANG)
            if found:
                del self._open[rank]
                os.close(connection.tell)
                gone.append(self._verdict(now, rank, os.waitstatus_to_exitcode(status)))
        return gone

    def last_words(self, rank: int) -> LastWords | None:
        """Those of a process of this machine."""
        return None if self._here is None else self._here.last_words(rank)

    def _verdict(self, at: float, rank: int, code: int) -> Ended:
        if code == LOST or code < 0:
            return Ended(at, rank, LOST, "lost" if rank in self._worked else "unreached")
        signalled = 128 < code <= 128 + 64
        return Ended(at, rank, 128 - code if signalled else code)

    def _order(self, rank: int, again: int, place: Place) -> bytes:
        passed = {name: os.environ[name] for name in PASSED if name in os.environ}
        about = {"RANK": str(rank), "LOCAL_RANK": str(place.local_rank), "LOCAL_WORLD_SIZE": str(place.local_world)}
        defaults = {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
        order = {
            "command": self._command,
            "env": {**defaults, **passed, **place.host.env, **self._shared, **about},
            "workdir": place.host.workdir,
            "mark": f"{self._mark}.{rank}.{again}",
            "silence": SILENCE_SECONDS,
        }
        text = json.dumps(order).encode() + b"\n"
        if len(text) > MOST_BYTES:
            raise CommandError(f"command and variables have {len(text)} bytes; at most {MOST_BYTES} can be sent")
        return text

    def _hears(self, rank: int, place: Place) -> Callable[[bytes], bool]:
        def hears(line: bytes) -> bool:
            if not line.startswith(HERE):
                return False
            self._worked.add(rank)
            pid = line.removeprefix(HERE).strip().decode(errors="replace")
            self.say(f"{name_of(rank)} is process {pid} on {place.host.name}")
            return True

        return hears

    @staticmethod
    def _write(connection: _Connection, text: bytes) -> None:
        with contextlib.suppress(OSError):  # it has ended, or is so slow that its pipe is full
            os.write(connection.tell, text)
