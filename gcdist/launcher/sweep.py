"""Finds and ends the processes of a run, by a mark in the environment that every descendant inherits.

Run as a script it is the run's guard: it waits for the launcher's end of any kind, and ends the remaining processes.
Linux only (/proc).
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time

VARIABLE = "GCDIST_LAUNCH"  # its value: marks of launchers, outer ones first, separated by spaces
_GIVE_UP = 5.0  # seconds; a process in a system call may not end


def with_mark(value: str, mark: str) -> str:
    """The variable's value with one more mark.

    >>> with_mark("", "7f.1.0"), with_mark("outer.3.0", "7f.1.0")
    ('7f.1.0', 'outer.3.0 7f.1.0')
    """
    return f"{value} {mark}".strip()


def carries(environ: bytes, mark: str) -> bool:
    r"""Whether a process with this environment (``/proc/PID/environ``) has ``mark``, or a mark that begins with it.

    >>> carries(b"A=1\0GCDIST_LAUNCH=outer.3.0 7f.1.0\0", "7f.1"), carries(b"GCDIST_LAUNCH=7f.10.0\0", "7f.1")
    (True, False)
    """
    for entry in environ.split(b"\0"):
        name, _, value = entry.decode(errors="replace").partition("=")
        if name == VARIABLE:
            return any(f"{found}.".startswith(f"{mark}.") for found in value.split())
    return False


def marked(mark: str) -> list[int]:
    """Process ids of all that carry the mark."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with contextlib.suppress(OSError), open(f"/proc/{name}/environ", "rb") as file:
                if carries(file.read(), mark):
                    found.append(int(name))
    return found


def end_marked(mark: str) -> None:
    """Kill all processes with the mark, and those that they start meanwhile."""
    give_up = time.monotonic() + _GIVE_UP
    while (left := marked(mark)) and time.monotonic() < give_up:
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()  # ends with the launcher, which holds the other end
    end_marked(sys.argv[1])
