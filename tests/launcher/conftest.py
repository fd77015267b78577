"""Launchers for tests, each in a session of its own, ended by process id whatever happens."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("training_script.py")
LIMIT = 120.0  # seconds; far more than needed, for a machine that is busy with something else


class Launched:
    """A launcher with its output in files."""

    def __init__(self, folder: Path, arguments: list[str]) -> None:
        self.out, self.err = folder / "out", folder / "err"
        if (
            signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        ):  # a shell's background job: its children would ignore it too
            signal.signal(signal.SIGINT, signal.default_int_handler)
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gcdist", "launch", *arguments],
                stdout=out,
                stderr=err,
                stdin=subprocess.DEVNULL,
                cwd=folder,
                env={**os.environ, "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"},
                start_new_session=True,
            )

    def pids(self, rank: int) -> list[int]:
        """The process ids of a rank's lives so far."""
        name = f"worker {rank}" if rank else "the master"
        found = re.findall(rf"^gcdist launch: {name} is process (\d+)(?: on .*)?$", self.err.read_text(), re.M)
        return [int(pid) for pid in found]

    def until(self, true: Callable[[], object]) -> None:
        give_up = time.monotonic() + LIMIT
        while not true():
            if time.monotonic() > give_up or (self.process.poll() is not None and not true()):
                pytest.fail(f"it did not come to it; out:\n{self.out.read_text()}\nerr:\n{self.err.read_text()}")
            time.sleep(0.05)

    def wait(self) -> int:
        try:
            return self.process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            pytest.fail(f"it still runs; out:\n{self.out.read_text()}\nerr:\n{self.err.read_text()}")

    def left(self) -> list[int]:
        """Live processes of its session: all it has started, and what these have."""
        return [pid for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))) if self._is_mine(pid)]

    def _is_mine(self, pid: int) -> bool:
        try:
            state, _, _, session = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:4]
        except OSError:
            return False
        return int(session) == self.process.pid and state not in "ZX"

    def end(self) -> None:
        for pid in [self.process.pid, *self.left()]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


Launch = Callable[..., Launched]


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    """``launch("local", "-n", "2", "--", "program")`` starts a launcher in a session of its own."""
    running: list[Launched] = []

    def go(*arguments: str) -> Launched:
        folder = tmp_path / f"launch{len(running)}"
        folder.mkdir()
        running.append(Launched(folder, list(arguments)))
        return running[-1]

    yield go
    for launched in running:
        launched.end()
