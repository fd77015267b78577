"""Executes the machine's instructions; events are signals to this process and ends of children. One thread decides."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Iterator
from types import FrameType
from typing import Protocol

from gcdist.last_words import LastWords
from gcdist.launcher import sweep
from gcdist.launcher.machine import Asked, Ended, Exit, Instruction, Machine, Say, Send, Start, Tick, name_of

SI_KERNEL = 0x80  # si_code of a signal that the terminal sent, to the whole foreground group
POLL_SECONDS = 0.5  # between two checks of the children without a signal
_ASKS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class CommandError(Exception):
    """The command cannot be run; the text is one line."""


class Children(Protocol):
    """The run's processes by rank, here or elsewhere."""

    master_hears_terminal: bool  # Ctrl-C reaches the master without us

    def start(self, rank: int, again: int) -> None:
        """Start a child; CommandError."""

    def send(self, rank: int, number: int) -> None:
        """Signal a child, if it still runs; never blocks."""

    def ended(self) -> list[Ended]:
        """Children that have ended since the last call."""

    def say(self, text: str) -> None:
        """A line of the launcher's own."""

    def finish(self) -> None:
        """Wait for the last lines."""

    def last_words(self, rank: int) -> LastWords | None:
        """The last words of the child of this rank, from its last life."""


def run(machine: Machine, children: Children, mark: str) -> int:
    """Start all children and follow them until the machine's Exit; returns its code. Call it from the main thread.

    No process of this machine with ``mark`` (`sweep`) remains when it returns, or when this process is killed.
    """
    with _Signals() as signals, guarded(mark):
        return _follow(machine, children, signals)


def _follow(machine: Machine, children: Children, signals: _Signals) -> int:
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
            reached = asked.reached and children.master_hears_terminal
            code = do(machine.handle(Asked(asked.at, asked.number, reached)))
        for gone in children.ended():
            code = do(machine.handle(gone)) if code is None else code
        if code is None and wakes is not None and time.monotonic() >= wakes:
            code = do(machine.handle(Tick(time.monotonic())))
    children.finish()
    if code and (words := _reason(machine, children)):
        children.say(f"the run has ended with exit code {code}: {words}")
    return code


def _reason(machine: Machine, children: Children) -> str:
    """The reason of the run's end in one line: last words of the master, else of the worker that ended it; else ""."""
    master = children.last_words(0)
    if machine.culprit is not None and (words := children.last_words(machine.culprit)):
        return _line(f"{name_of(machine.culprit)}: {words.text}")
    if master is None:
        return ""
    return _line(f"the master died; {master.text}" if master.kind == "run" else master.text)


def _line(text: str) -> str:
    return "; ".join(line for line in text.splitlines() if line.strip())


class _Signals:
    """Waits for signals to this process: only a wait tells whether the terminal sent one, to the master, too.

    They are blocked, but a library's thread that does not block them (numpy's) may get one while this one does not
    wait. Therefore they also have handlers, and the children are also checked without SIGCHLD.
    """

    def __init__(self) -> None:
        # a signal ignored at the start (nohup, &) stays ignored
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
        """Wait for a signal: an Asked; None for a child's end or a timeout."""
        found = signal.sigtimedwait(self._asks | {signal.SIGCHLD}, seconds)
        if found is not None and found.si_signo != signal.SIGCHLD:
            # a closed terminal's SIGHUP may not reach the master, so only Ctrl-C counts as sent to it, too
            reached = found.si_signo == signal.SIGINT and found.si_code == SI_KERNEL
            return Asked(time.monotonic(), found.si_signo, reached)
        if self._stray:
            number = self._stray.popleft()
            return Asked(time.monotonic(), number, number == signal.SIGINT and os.isatty(0))
        return None

    def _on_stray(self, number: int, frame: FrameType | None) -> None:
        self._stray.append(number)


@contextlib.contextmanager
def guarded(mark: str) -> Iterator[None]:
    """A guard process ends all processes with the mark at every kind of end."""
    read, write = os.pipe()  # both close on exec, so that no child holds the guard's end
    nowhere = (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)
    guard = os.posix_spawn(
        sys.executable,
        [sys.executable, "-S", "-P", sweep.__file__, mark],
        os.environ,
        file_actions=[(os.POSIX_SPAWN_DUP2, read, 0), nowhere, (os.POSIX_SPAWN_DUP2, 1, 2)],
        setpgroup=0,  # Ctrl-C must not reach it
    )
    os.close(read)
    try:
        yield
    finally:
        os.close(write)
        os.waitpid(guard, 0)
