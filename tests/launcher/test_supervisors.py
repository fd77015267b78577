"""How systemd, SLURM, Kubernetes, torchrun and a terminal end a run: each leaves a checkpoint, and no process.

Their signals are sent by the test: the supervisors themselves are not needed. What they do is written beside each.
"""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gcdist.observe import read_lines, read_metrics
from gcdist.run.checkpoint import read_checkpoint
from tests.conftest import free_port

WORKERS = 2
LIMIT = 150.0  # seconds; far more than needed, for a machine that is busy with something else
GRACE = 60.0  # systemd's and srun's SIGKILL comes after 90 s and 30 s, Kubernetes' after the pod's 120 s
TERM, KILL = signal.SIGTERM, signal.SIGKILL
CONFIG = 'steps = 100000\n[task.options]\nmodel = "mlp"\n[straggler]\ndeadline = 0.5\n'


class Supervised:
    """The processes of one run, known by a mark in their environment, whoever has started them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.run = folder, folder / "run"
        (folder / "config.toml").write_text(CONFIG)
        self._mark = f"GCDIST_TEST_MARK={uuid.uuid4().hex}"
        self.started: list[subprocess.Popen[bytes]] = []
        self.train = [sys.executable, "-m", "gcdist", "train", "config.toml", "--resume", str(self.run)]

    def start(self, *command: str, env: dict[str, str] | None = None, terminal: int | None = None) -> None:
        """Start a process in a session of its own; with a terminal, that is its controlling one."""
        name, value = self._mark.split("=")
        with (self.folder / "out").open("ab") as out:
            self.started.append(
                subprocess.Popen(
                    [sys.executable, "-c", TAKE_TERMINAL, *command] if terminal is not None else list(command),
                    stdin=subprocess.DEVNULL if terminal is None else terminal,
                    stdout=out if terminal is None else terminal,
                    stderr=out if terminal is None else terminal,
                    cwd=self.folder,
                    env={**os.environ, "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1", name: value, **(env or {})},
                    start_new_session=True,
                )
            )

    def start_ranks(self) -> None:
        """A process a rank, each by itself, as srun and pods do."""
        port = str(free_port())
        for rank in range(WORKERS + 1):
            place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(WORKERS + 1), "RANK": str(rank)}
            self.start(*self.train, env=place)

    def launch(self, terminal: int | None = None) -> None:
        """All of it by `gcdist launch local`."""
        launcher = [sys.executable, "-m", "gcdist", "launch", "local", "-n", str(WORKERS), "--restart-master", "3"]
        self.start(*launcher, "--", *self.train, terminal=terminal)

    def until(self, true: Callable[[], object], what: str, seconds: float = LIMIT) -> None:
        give_up = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < give_up, f"no {what}:\n{(self.folder / 'out').read_text()}"
            time.sleep(0.05)

    def under_way(self) -> bool:
        return (self.run / "metrics.jsonl").exists() and len(read_metrics(self.run)) > 1

    def pids(self) -> list[int]:
        """All live processes of the run."""
        found = []
        for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))):
            with contextlib.suppress(OSError):
                if (
                    self._mark.encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
                    and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
                ):
                    found.append(pid)
        return found

    def tell(self, pids: list[int], number: int) -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def end(self) -> None:
        self.tell(self.pids(), KILL)
        for process in self.started:
            process.wait(LIMIT)


TAKE_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.fixture
def supervised(tmp_path: Path) -> Iterator[Supervised]:
    made = Supervised(tmp_path)
    yield made
    made.end()


def systemd(run: Supervised) -> None:
    """KillMode=control-group: SIGTERM to every process of the unit, at once."""
    run.launch()
    run.until(run.under_way, "steps")
    run.tell(run.pids(), TERM)


def slurm_or_pods(run: Supervised) -> None:
    """scancel, or a deleted namespace: SIGTERM to every rank's process."""
    run.start_ranks()
    run.until(run.under_way, "steps")
    run.tell([process.pid for process in run.started], TERM)


def master_s_pod(run: Supervised) -> None:
    """The master's pod is evicted, or scancel --signal=TERM of its step: SIGTERM to the master alone."""
    run.start_ranks()
    run.until(run.under_way, "steps")
    run.tell([run.started[0].pid], TERM)


def torchrun(run: Supervised) -> None:
    """Its agent is told to go, and tells the processes that it has started."""
    agent = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={WORKERS + 1}"]
    run.start(*agent, "--no-python", *run.train)
    run.until(run.under_way, "steps")
    run.tell([run.started[0].pid], TERM)


def torchrun_s_group(run: Supervised) -> None:
    """SIGTERM to every process, as a unit or a job with torchrun in it gets."""
    agent = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={WORKERS + 1}"]
    run.start(*agent, "--no-python", *run.train)
    run.until(run.under_way, "steps")
    run.tell(run.pids(), TERM)


def terminal(run: Supervised, last: Callable[[int], object]) -> None:
    ours, theirs = pty.openpty()
    run.launch(terminal=theirs)
    os.close(theirs)
    os.set_blocking(ours, False)

    def lines() -> bool:
        with contextlib.suppress(OSError), (run.folder / "out").open("ab") as out:
            out.write(os.read(ours, 1 << 16))  # whoever does not read would stop it
        return run.under_way()

    run.until(lines, "steps")
    last(ours)
    with contextlib.suppress(OSError):
        run.until(lambda: lines() and not run.pids(), "end", GRACE)
        os.close(ours)


def ctrl_c(run: Supervised) -> None:
    """The line discipline sends SIGINT to the foreground's process group."""
    terminal(run, lambda ours: os.write(ours, b"\x03"))


def closed_window(run: Supervised) -> None:
    """The kernel sends SIGHUP to the session's leader and the foreground's group; what is printed has nowhere to go."""
    terminal(run, os.close)


WAYS = [
    systemd,
    slurm_or_pods,
    master_s_pod,
    torchrun,
    ctrl_c,
    closed_window,
    pytest.param(torchrun_s_group, marks=pytest.mark.slow),
]


@pytest.mark.parametrize("way", WAYS)
def test_the_end_leaves_a_checkpoint_and_no_process(way: Callable[[Supervised], None], supervised: Supervised) -> None:
    way(supervised)
    supervised.until(lambda: not supervised.pids(), "end within the grace", GRACE)
    [checkpoint] = (supervised.run / "checkpoints").iterdir()
    assert read_checkpoint(checkpoint).step == len(read_metrics(supervised.run)) > 0
    begun = [line["text"] for line in read_lines(supervised.run / "events.jsonl") if "begins at step" in line["text"]]
    assert len(begun) == 1  # nobody took the wish for a death and started it again
