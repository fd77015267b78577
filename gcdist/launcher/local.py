"""Starts the children, waits for signals, and does what the machine says. One thread decides; others copy lines."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

from gcdist.launcher import sweep
from gcdist.launcher.machine import Asked, Ended, Exit, Instruction, Machine, Say, Send, Start, Tick, name_of

ADDRESS = "127.0.0.1"
SI_KERNEL = 0x80  # si_code of a signal that the terminal sent, to the whole foreground group
POLL_SECONDS = 0.5  # between two looks at the children, if no signal tells of them
LINE_BYTES = 1 << 16  # a longer line of a worker is cut
_TORCHRUN = "TORCHELASTIC_"  # of an outer torchrun: it would make the children look for its store
_ASKS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class CommandError(Exception):
    """The command cannot be run; the text is one line."""


def launch_local(command: Sequence[str], workers: int, max_restarts: int | None = None, restart_master: int = 0) -> int:
    """Run ``command`` as one master (rank 0) and ``workers`` workers on this machine until the master has ended.

    Every child is told its place by RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT. The
    master has this process's own stdin, stdout and stderr; lines of workers go to stderr with their rank before them.
    Must be called from the main thread; nothing of the run is left when it returns, nor when this process is killed.

    Args:
        command: program and arguments.
        workers: at least 1.
        max_restarts: of each worker; None: no limit.
        restart_master: times a master that died is started again.

    Returns:
        The master's exit code, or 128 + the signal that killed it.

    Raises:
        CommandError: the command cannot be run.
    """
    program = shutil.which(command[0])
    if program is None:
        raise CommandError(
            f"{command[0]!r} is not found or not executable (a script needs its interpreter: python ...)"
        )
    mark = secrets.token_hex(8)
    # bound and not listening: nobody else is given the port, and rank 0 can listen on it as often as it is started
    with socket.socket() as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind((ADDRESS, 0))
        with _Signals() as signals, _guarded(mark):
            children = _Children(program, command, workers + 1, reserved.getsockname()[1], mark)
            return _run(Machine(workers, max_restarts, restart_master), children, signals)


def _run(machine: Machine, children: _Children, signals: _Signals) -> int:
    def do(instructions: list[Instruction]) -> int | None:
        for told in instructions:
            match told:
                case Start(rank=rank, again=again):
                    children.start(rank, again)
                case Send(rank=rank, number=number):
                    children.send(rank, number)
                case Say(text=text):
                    children.say(text)
                case Exit(code=code):
                    return code
        return None

    code = do(machine.begin(time.monotonic()))
    while code is None:
        wakes = machine.wakes
        asked = signals.next(POLL_SECONDS if wakes is None else min(POLL_SECONDS, max(0.0, wakes - time.monotonic())))
        if asked is not None:
            code = do(machine.handle(asked))
        for rank, status in children.ended():
            code = do(machine.handle(Ended(time.monotonic(), rank, status))) if code is None else code
        if code is None and wakes is not None and time.monotonic() >= wakes:
            code = do(machine.handle(Tick(time.monotonic())))
    children.finish()
    return code


class _Signals:
    """Signals of this process, waited for: only so is it told whether the terminal sent one, to the master too.

    They are blocked, but a thread of a library that does not block them (numpy's) may be given one while nobody waits here.
    Therefore they have handlers as well, and the children are looked at without SIGCHLD too.
    """

    def __init__(self) -> None:
        # who ignores a signal (nohup, &) goes on ignoring it
        self._asks = {number for number in _ASKS if signal.getsignal(number) is not signal.SIG_IGN}
        self._stray: deque[int] = deque()

    def __enter__(self) -> _Signals:
        self._handlers = {number: signal.signal(number, self._on_stray) for number in self._asks}
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, self._asks | {signal.SIGCHLD})
        return self

    def __exit__(self, *about: object) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def next(self, seconds: float) -> Asked | None:
        """Wait for a signal; an Asked, or None for a child's end or when the time is over."""
        found = signal.sigtimedwait(self._asks | {signal.SIGCHLD}, seconds)
        if found is not None and found.si_signo != signal.SIGCHLD:
            return Asked(time.monotonic(), found.si_signo, found.si_code == SI_KERNEL)
        if self._stray:
            number = self._stray.popleft()
            return Asked(time.monotonic(), number, number == signal.SIGINT and os.isatty(0))
        return None

    def _on_stray(self, number: int, frame: FrameType | None) -> None:
        self._stray.append(number)


@contextlib.contextmanager
def _guarded(mark: str) -> Iterator[None]:
    """A guard process stands by: at the end, by whatever way it comes, nothing that carries the mark is left."""
    read, write = os.pipe()  # both close on exec: no child holds the end that the guard watches
    nowhere = (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)
    guard = os.posix_spawn(
        sys.executable,
        [sys.executable, "-S", "-P", sweep.__file__, mark],
        os.environ,
        file_actions=[(os.POSIX_SPAWN_DUP2, read, 0), nowhere, (os.POSIX_SPAWN_DUP2, 1, 2)],
        setpgroup=0,  # Ctrl-C is not for it
    )
    os.close(read)
    try:
        yield
    finally:
        os.close(write)
        os.waitpid(guard, 0)


class _Children:
    """The processes by rank, and the threads that copy their lines."""

    def __init__(self, program: str, command: Sequence[str], world: int, port: int, mark: str) -> None:
        self._program = program
        self._command = list(command)
        self._mark = mark
        self._pids: dict[int, int] = {}
        self._marks: dict[int, str] = {}  # of the life that runs
        self._copying: list[threading.Thread] = []
        self._writing = threading.Lock()
        self._env = {name: value for name, value in os.environ.items() if not name.startswith(_TORCHRUN)}
        self._env.setdefault("OMP_NUM_THREADS", "1")
        self._env |= {
            "WORLD_SIZE": str(world),
            "LOCAL_WORLD_SIZE": str(world),
            "MASTER_ADDR": ADDRESS,
            "MASTER_PORT": str(port),
        }

    def start(self, rank: int, again: int) -> None:
        """Start a child; CommandError."""
        mark = self._marks[rank] = f"{self._mark}.{rank}.{again}"
        env = {**self._env, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        env[sweep.VARIABLE] = sweep.with_mark(env.get(sweep.VARIABLE, ""), mark)
        spawn: Callable[..., int] = os.posix_spawn
        common = {"setsigmask": [], "setsigdef": [signal.SIGPIPE, signal.SIGXFSZ]}  # what Python and this file changed
        try:
            if rank == 0:  # in this process's group: the terminal is its own
                pid = spawn(self._program, self._command, env, **common)
            else:
                env.setdefault("PYTHONUNBUFFERED", "1")  # else its lines would come when it ends, or never
                read, write = os.pipe()
                nothing = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
                lines = [(os.POSIX_SPAWN_DUP2, write, 1), (os.POSIX_SPAWN_DUP2, write, 2)]
                try:
                    # a group of its own: Ctrl-C at the terminal is the master's alone
                    pid = spawn(
                        self._program, self._command, env, file_actions=[nothing, *lines], setpgroup=0, **common
                    )
                finally:
                    os.close(write)
                self._copy(rank, read)
        except OSError as error:
            raise CommandError(f"{self._program} cannot be run: {error.strerror}") from None
        self._pids[rank] = pid
        self.say(f"{name_of(rank)} is process {pid}")

    def send(self, rank: int, number: int) -> None:
        """Signal a child, if it still runs."""
        if rank in self._pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pids[rank], number)

    def ended(self) -> list[tuple[int, int]]:
        """Children that have ended since the last call (rank, status); what they had started ends with them."""
        gone = []
        for rank, pid in list(self._pids.items()):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                del self._pids[rank]
                sweep.end_marked(self._marks[rank])
                gone.append((rank, os.waitstatus_to_exitcode(status)))
        return gone

    def say(self, text: str) -> None:
        """A line of the launcher's own."""
        self._write(f"gcdist launch: {text}\n".encode())

    def finish(self) -> None:
        """Wait for the last lines."""
        for thread in self._copying:
            thread.join(timeout=2.0)

    def _copy(self, rank: int, read: int) -> None:
        def copy() -> None:
            with os.fdopen(read, "rb") as lines:
                while line := lines.readline(LINE_BYTES):
                    self._write(f"[worker {rank}] ".encode() + line.rstrip(b"\n") + b"\n")

        thread = threading.Thread(target=copy, name=f"worker-{rank}-lines", daemon=True)
        thread.start()
        self._copying = [other for other in self._copying if other.is_alive()] + [thread]

    def _write(self, line: bytes) -> None:
        with self._writing, contextlib.suppress(OSError, ValueError):  # the terminal may be gone; the run goes on
            sys.stderr.buffer.write(line)
            sys.stderr.buffer.flush()
