"""Real processes for tests: one master and n workers of one script, ended by process id whatever happens."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings

HERE = Path(__file__).parent
torch.set_num_threads(1)  # tests share two cores with the processes they start

# a machine that stands still for a second fails no property
settings.register_profile(
    "gcdist", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
settings.load_profile("gcdist")


@dataclass
class Cluster:
    """The processes of one run, by rank; their output is in one file each."""

    folder: Path
    command: list[str]
    env: dict[str, str]
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def begin(self, rank: int) -> None:
        """Start a rank, again if it has run before; its output goes on in the same file."""
        with (self.folder / f"out{rank}").open("ab") as out:
            process = subprocess.Popen(
                self.command,
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**self.env, "RANK": str(rank)},
                cwd=self.folder.parent,
            )
        if rank < len(self.processes):
            self.processes[rank] = process
        else:
            self.processes.append(process)

    def output(self, rank: int) -> str:
        return (self.folder / f"out{rank}").read_text()

    def wait(self, seconds: float, ranks: list[int] | None = None) -> list[int]:
        """Exit codes; fails with everybody's output if somebody takes longer."""
        until = time.monotonic() + seconds
        wanted = range(len(self.processes)) if ranks is None else ranks
        codes = []
        for rank in wanted:
            try:
                codes.append(self.processes[rank].wait(max(0.1, until - time.monotonic())))
            except subprocess.TimeoutExpired:
                outputs = "\n".join(f"--- rank {r}\n{self.output(r)}" for r in range(len(self.processes)))
                pytest.fail(f"rank {rank} still runs after {seconds} s\n{outputs}")
        return codes

    def wait_for(self, text: str, rank: int, seconds: float) -> None:
        """Wait until a process has printed ``text``."""
        until = time.monotonic() + seconds
        while text not in self.output(rank):
            if time.monotonic() > until or self.processes[rank].poll() is not None:
                pytest.fail(f"rank {rank} never printed {text!r}:\n{self.output(rank)}")
            time.sleep(0.05)

    def end(self) -> None:
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
            process.wait()


# below what the system gives for port 0, and another range for each worker of pytest-xdist: a port that was free when it was
# looked at is not taken by anybody else before it is used
PORTS = itertools.count(20_000 + 1_000 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) + os.getpid() % 500)


def free_port() -> int:
    for port in PORTS:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("PORTS never end")


LASTING = frozenset({"gcdist-lock"})  # threads that live as long as their process
Start = Callable[..., Cluster]
PROCESS_ROOMS = frozenset({"transport", "launcher", "launch_files", "cluster"})
PROCESSES = re.compile(r"import .*\bStart\b|^import (subprocess|multiprocessing)", re.MULTILINE)  # in a test file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Under ``pytest -n``: tests that start processes run one after the other, or they would take each other's cores.

    Tests of a file with a fixture of its own stay together, as it would be made twice; others go to whoever is free.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Scheduler(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    return Scheduler(config, log)


@functools.cache
def group_of_file(file: str) -> str | None:
    """What the tests of a file belong to; None: each to itself."""
    path = HERE.parent / file
    text = path.read_text(encoding="utf-8")
    if path.relative_to(HERE).parts[0] in PROCESS_ROOMS or PROCESSES.search(text):
        return "processes"
    return file if 'scope="module"' in text else None


def group_of(nodeid: str) -> str:
    """The group of a test: its tests run in order, in one process of ``pytest -n``."""
    return group_of_file(nodeid.split("::")[0]) or nodeid


def threads_of_ours() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("gcdist-")}


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    """A thread that a test leaves behind is an error of this test, not of one that counts threads later."""
    before = threads_of_ours()
    yield
    until = time.monotonic() + 30.0
    while left := {thread for thread in threads_of_ours() - before if thread.name not in LASTING}:
        if time.monotonic() > until:
            pytest.fail(f"threads are left: {sorted(thread.name for thread in left)}")
        time.sleep(0.01)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """``start(["script.py", "argument"], ranks=5)`` starts the processes as a launcher would."""
    running: list[Cluster] = []

    def go(arguments: list[str], ranks: int, env: dict[str, str] | None = None) -> Cluster:
        folder = tmp_path / f"processes{len(running)}"
        folder.mkdir()
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(ranks)}
        limits = {"OMP_NUM_THREADS": "1", "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"}
        cluster = Cluster(folder, [sys.executable, *arguments], {**os.environ, **place, **limits, **(env or {})})
        running.append(cluster)
        for rank in range(ranks):
            cluster.begin(rank)
        return cluster

    yield go
    for cluster in running:
        cluster.end()
