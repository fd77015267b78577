"""`gcdist launch local`: the children are processes of this machine."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import time
from collections.abc import Callable, Sequence
from typing import Literal

from gcdist import last_words
from gcdist.last_words import LastWords
from gcdist.launcher import sweep
from gcdist.launcher.lines import Lines
from gcdist.launcher.loop import CommandError, run
from gcdist.launcher.machine import BAD_INPUT, Ended, Machine, name_of

ADDRESS = "127.0.0.1"
_TORCHRUN = "TORCHELASTIC_"  # variables of an outer torchrun: with them the children would look for its store


def launch_local(command: Sequence[str], workers: int, max_restarts: int | None = None, restart_master: int = 0) -> int:
    """Run ``command`` as one master (rank 0) and ``workers`` workers on this machine until the master has ended.

    Every child gets its place by RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT. The
    master has this process's own stdin, stdout and stderr; lines of workers go to stderr with their rank before them.
    Must be called from the main thread; no process of the run remains when it returns, or when this process is killed.

    Args:
        command: program and arguments.
        workers: at least 1.
        max_restarts: of each worker; None: no limit.
        restart_master: number of restarts of a master that died.

    Returns:
        The master's exit code, or 128 + the signal that killed it.

    Raises:
        CommandError: the command cannot be run.
    """
    program = found_program(command)
    mark = secrets.token_hex(8)
    # bound and not listening: no other process gets the port, and rank 0 can listen on it after each start
    with reserved_port(ADDRESS) as reserved:
        place = {
            "WORLD_SIZE": str(workers + 1),
            "LOCAL_WORLD_SIZE": str(workers + 1),
            "MASTER_ADDR": ADDRESS,
            "MASTER_PORT": str(reserved.getsockname()[1]),
        }
        children = LocalChildren(program, command, place, mark, Lines())
        try:
            return run(Machine(workers, max_restarts, restart_master), children, mark)
        finally:
            children.close()


def found_program(command: Sequence[str]) -> str:
    """The path of the command's program; CommandError."""
    program = shutil.which(command[0])
    if program is None:
        raise CommandError(
            f"{command[0]!r} is not found or not executable (a script needs its interpreter: python ...)"
        )
    return program


def reserved_port(address: str, port: int = 0) -> socket.socket:
    """A socket that keeps the port (0: any free one) for a child that sets SO_REUSEADDR; CommandError."""
    reserved = socket.socket()
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        reserved.bind((address, port))
    except OSError as error:
        reserved.close()
        raise CommandError(f"the master cannot listen at {address}:{port}: {error.strerror}") from None
    return reserved


class LocalChildren:
    """Processes of this machine by rank.

    Args:
        program: path of the program that all run.
        command: its arguments, the name first.
        place: environment variables with a child's place; RANK and LOCAL_RANK are added.
        mark: of the run; descendants inherit it, and `sweep` ends them by it.
        lines: the output for workers' lines.
    """

    master_hears_terminal = True

    def __init__(self, program: str, command: Sequence[str], place: dict[str, str], mark: str, lines: Lines) -> None:
        self._program = program
        self._command = list(command)
        self._mark = mark
        self._pids: dict[int, int] = {}
        self._marks: dict[int, str] = {}  # of the current life
        self._lines = lines
        self.say, self.finish = lines.say, lines.finish
        self._env = {name: value for name, value in os.environ.items() if not name.startswith(_TORCHRUN)}
        self._env.setdefault("OMP_NUM_THREADS", "1")
        self._env.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # its warnings bury a run's last lines under C++ frames
        self._env |= place
        self._words: dict[int, int] = {}  # descriptors of files in memory for the last words of children

    def start(self, rank: int, again: int) -> None:
        """Start a child; CommandError."""
        mark = self._marks[rank] = f"{self._mark}.{rank}.{again}"
        env = {**self._env, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        env[sweep.VARIABLE] = sweep.with_mark(env.get(sweep.VARIABLE, ""), mark)
        if rank not in self._words:  # a file in memory ends with this process in every case
            self._words[rank] = os.memfd_create(f"gcdist-last-words-{rank}")
        os.ftruncate(self._words[rank], 0)
        env[last_words.VARIABLE] = f"/proc/{os.getpid()}/fd/{self._words[rank]}"
        spawn: Callable[..., int] = os.posix_spawn
        common = {"setsigmask": [], "setsigdef": [signal.SIGPIPE, signal.SIGXFSZ]}  # what Python and `loop` changed
        try:
            if rank == 0:  # in this process's group, so that the terminal is the master's
                pid = spawn(self._program, self._command, env, **common)
            else:
                env.setdefault("PYTHONUNBUFFERED", "1")  # else its lines would come at its end, or never
                read, write = os.pipe()
                nothing = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
                lines = [(os.POSIX_SPAWN_DUP2, write, 1), (os.POSIX_SPAWN_DUP2, write, 2)]
                try:
                    # a separate group, so that Ctrl-C at the terminal reaches the master alone
                    pid = spawn(
                        self._program, self._command, env, file_actions=[nothing, *lines], setpgroup=0, **common
                    )
                finally:
                    os.close(write)
                self._lines.copy(name_of(rank), read)
        except OSError as error:
            raise CommandError(f"{self._program} cannot be run: {error.strerror}") from None
        self._pids[rank] = pid
        self.say(f"{name_of(rank)} is process {pid}")

    def send(self, rank: int, number: int) -> None:
        """Signal a child, if it still runs."""
        if rank in self._pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pids[rank], number)

    def ended(self) -> list[Ended]:
        """Children that have ended since the last call; their descendants are ended, too."""
        gone = []
        for rank, pid in list(self._pids.items()):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                del self._pids[rank]
                sweep.end_marked(self._marks[rank])
                code = os.waitstatus_to_exitcode(status)
                words = self.last_words(rank)
                why: Literal["", "mistake"] = (
                    "mistake" if code in (1, BAD_INPUT) and words and words.kind == "mistake" else ""
                )
                gone.append(Ended(time.monotonic(), rank, code, why))
        return gone

    def last_words(self, rank: int) -> LastWords | None:
        """The last words of the child of this rank, from its last life."""
        return last_words.read(os.pread(self._words[rank], 1 << 16, 0)) if rank in self._words else None

    def close(self) -> None:
        """Let the last words go."""
        while self._words:
            os.close(self._words.popitem()[1])
