"""What a failure costs: one worker killed and started again, one stopped for 20 s, with gcdist, DDP under torchrun, torchft
and hivemind.

4 workers train the digits by real processes; every step of a worker takes at least half a second, so that the machine is
idle most of the time. Each method's own supervisor starts the killed worker again (torchft, hivemind: this script, at once).
DDP's script writes a checkpoint every 10 steps, as torchrun's restarts need one; its agent must not share its store with the
workers, else a restarted gloo group finds the addresses of dead processes there (pytorch issue 135712). Of each failure:

- pause: the longest time between two steps of those who are left, from the failure on, less the usual one
- lost: steps that were made and had to be made again, or were given up
- whole: seconds from the failure to the first step with all workers (a stopped worker: from its going on); hivemind
  counts those that its tracker knows

python benchmarks/failures.py [--methods gcdist ddp] [--out benchmarks/results/failures.json]    # pip install gcdist[peers]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from itertools import accumulate, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import gcdist
from gcdist.bench.ddp import paced_step
from gcdist.bench.page import machine_text
from gcdist.bench.peers import Seat, peer_module
from gcdist.tasks import digits

METHODS = ("gcdist", "ddp", "torchft", "hivemind")
WORKERS = 4
VICTIM = 2  # worker, from 1; its rank is one less where ranks are the workers
PACE = 0.5  # seconds of a step at least
SAMPLES = 16
LR = 0.1
SAVE_EVERY = 10  # steps between checkpoints of DDP's script
STOPPED = 20.0  # seconds
CALM = 15.0  # seconds before a failure
AFTER, MORE = 120.0, 5.0  # seconds behind it at most, and of steps that are seen when it is whole again
STARTING = 300.0
PATIENCE = {"torchft": 3.0, "hivemind": 2.0}  # their timeouts, several steps long


Row = tuple[float, int, int]  # time, step, workers counted


class Diary:
    """A process's steps in a file: time (of all processes of the machine), step, workers counted."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.joinpath(f"{name}.new").write_text(str(os.getpid()))
        os.replace(folder / f"{name}.new", folder / f"{name}.pid")
        self._file = folder.joinpath(f"{name}.steps").open("a", buffering=1)

    def note(self, step: int, counted: int) -> None:
        self._file.write(f"{time.monotonic()} {step} {counted}\n")


def batches(rank: int) -> Iterator[Any]:
    """The rank's share of the data, again and again."""
    data = digits.build(model="mlp").dataset
    at = 0
    while True:
        rows = [data[(rank + WORKERS * (at + i)) % len(data)] for i in range(SAMPLES)]
        yield torch.utils.data.default_collate(rows)
        at += SAMPLES


# --- the methods: what each process does ---


def run_gcdist(folder: Path, options: argparse.Namespace) -> None:
    rank = int(os.environ["RANK"])
    diary = Diary(folder, f"worker{rank}" if rank else "master")
    task = digits.build(SAMPLES, "mlp")

    def slow_loss(model: nn.Module, batch: Any) -> Tensor:
        time.sleep(PACE / 2)  # two partitions a worker
        loss: Tensor = task.loss(model, batch)
        return loss

    config = {"out": str(folder), "name": "run", "checkpoint": {"keep": 0}, "code": {"partitions": 2 * WORKERS}}
    made = gcdist.Task(task.model, task.dataset, slow_loss, batch_size=SAMPLES // 2)
    with gcdist.connect(made, config, show=False, on_worker="return") as cluster:
        if rank:
            return
        optimizer = torch.optim.SGD(task.model.parameters(), lr=LR)
        for step in cluster.steps(100_000):
            info = step.backward()
            optimizer.step()
            diary.note(info.step, len(info.arrived))


def run_ddp(folder: Path, options: argparse.Namespace) -> None:
    rank = int(os.environ["RANK"])
    diary = Diary(folder, f"worker{rank + 1}")
    dist.init_process_group("gloo")
    task, saved = digits.build(SAMPLES, "mlp"), folder / "checkpoint.pt"
    model, begin = DistributedDataParallel(task.model), 0
    if saved.exists():
        found = torch.load(saved)
        begin = found["step"] + 1
        task.model.load_state_dict(found["model"])
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    for step, batch in enumerate(batches(rank), begin):
        until = time.perf_counter() + PACE
        paced_step(optimizer, lambda batch=batch: task.loss(model, batch), until)  # type: ignore[misc]
        diary.note(step, WORKERS)
        if rank == 0 and step % SAVE_EVERY == 0:
            torch.save({"step": step, "model": task.model.state_dict()}, folder / "writing.pt")
            os.replace(folder / "writing.pt", saved)


def run_peer(folder: Path, options: argparse.Namespace) -> None:
    rank, peer = options.rank, peer_module(options.method)
    diary = Diary(folder, f"worker{rank + 1}")
    task = digits.build(SAMPLES, "mlp")
    patience = PATIENCE[options.method]
    meeting, fresh = options.meeting, not options.again
    trainer = peer.Trainer(Seat(task, rank, WORKERS, LR, SAMPLES, meeting, "127.0.0.1", patience, fresh))
    made = trainer.steps
    for batch in batches(rank):
        until = time.perf_counter() + PACE
        paced_step(trainer.optimizer, lambda batch=batch: task.loss(trainer.model, batch), until)  # type: ignore[misc]
        if trainer.steps > made or options.method == "torchft":
            made = trainer.steps
            diary.note(made, trainer.counted)


ROLES: dict[str, Callable[[Path, argparse.Namespace], None]] = {
    "gcdist": run_gcdist,
    "ddp": run_ddp,
    "torchft": run_peer,
    "hivemind": run_peer,
}


# --- the script that strikes ---


class Processes:
    """A method's processes; ``again`` starts a killed worker where the method has no supervisor of its own."""

    def __init__(self, method: str, folder: Path) -> None:
        self.method, self.folder = method, folder
        self._me = [sys.executable, str(Path(__file__).resolve()), "--method", method, "--folder", str(folder)]
        self._running: list[subprocess.Popen[bytes]] = []
        self._end: Callable[[], None] = lambda: None
        self._meeting = ""
        if method == "gcdist":
            self._start([sys.executable, "-m", "gcdist", "launch", "local", "-n", str(WORKERS), "--", *self._me])
        elif method == "ddp":
            agent = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={WORKERS}"]
            self._start([*agent, "--max-restarts=100", *self._me[1:]], {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"})
        else:
            self._meeting, self._end = peer_module(method).meet("127.0.0.1", WORKERS, PATIENCE[method])
            for rank in range(WORKERS):
                self._worker(rank, [])

    def again(self) -> None:
        if self.method in PATIENCE:
            self._worker(VICTIM - 1, ["--again"])

    def _worker(self, rank: int, more: list[str]) -> None:
        self._start([*self._me, "--rank", str(rank), "--meeting", self._meeting, *more])

    def alive(self) -> bool:
        """Whether any is."""
        return any(process.poll() is None for process in self._running)

    def _start(self, command: list[str], more: Mapping[str, str] = {}) -> None:
        log = self.folder.joinpath("log").open("ab")
        env = os.environ | {"OMP_NUM_THREADS": "1", **more}
        self._running.append(
            subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=env, start_new_session=True)
        )

    def end(self) -> None:
        for process in self._running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        time.sleep(2.0)
        for path in self.folder.glob("*.pid"):
            with contextlib.suppress(ProcessLookupError, ValueError):
                os.kill(int(path.read_text()), signal.SIGKILL)
        for process in self._running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._end()


def steps_of(folder: Path) -> list[Row]:
    """The steps as those see them who are left: the master, or a worker that nothing happens to."""
    path = folder / "master.steps"
    path = path if path.exists() else folder / "worker1.steps"
    lines = path.read_text().splitlines() if path.exists() else []
    rows = [line.split() for line in lines]
    return [(float(row[0]), int(row[1]), int(row[2])) for row in rows if len(row) == 3]


def victim(folder: Path) -> int:
    return int((folder / f"worker{VICTIM}.pid").read_text())


def wait_until_whole(folder: Path, alive: Callable[[], bool]) -> None:
    """Until the last three steps had everybody."""
    until = time.monotonic() + STARTING
    while True:
        last = steps_of(folder)[-3:]
        fresh = last and time.monotonic() - last[-1][0] < 4 * PACE
        if len(last) == 3 and fresh and all(counted >= WORKERS for _, _, counted in last):
            return
        if not alive():
            raise RuntimeError(f"its processes have ended; last steps: {last}")
        if time.monotonic() > until:
            raise RuntimeError(f"not whole after {STARTING:.0f} s; last steps: {last}")
        time.sleep(0.2)


def first_whole(rows: Sequence[Row], since: float) -> float | None:
    """When the first step with everybody after ``since`` ended."""
    return next((at for at, _, counted in rows if counted >= WORKERS and at > since), None)


def judged(
    rows: Sequence[Row], began: float, struck: float, free: float, since: float, end: float
) -> dict[str, float | None]:
    """Pause, steps lost and seconds until everybody counts, of one failure.

    Args:
        rows: (time, step, workers counted), by time.
        began: of the calm before the failure, whose steps last as usual.
        struck: the failure.
        free: the seconds of ``whole`` begin: the failure, or the end of the stop.
        since: no earlier step can have had everybody: a process has come in the dead one's place.
        end: of what was seen.
    """
    before = [(at, step) for at, step, _ in rows if began <= at <= struck]
    usual = statistics.median(after - earlier for (earlier, _), (after, _) in pairwise(before))
    later = [(at, step) for at, step, _ in rows if struck < at <= end]
    steps = [before[-1][1], *(step for _, step in later)]
    again = sum(step <= most for step, most in zip(steps[1:], accumulate(steps, max), strict=False))
    times = [before[-1][0], *(at for at, _ in later), end]
    whole = first_whole(rows, since)
    return {
        "pause": round(max(0.0, max(after - earlier for earlier, after in pairwise(times)) - usual), 2),
        "lost": again,
        "whole": None if whole is None else round(whole - free, 2),
        "usual": round(usual, 3),
    }


def strike(failure: str, processes: Processes) -> dict[str, float | None]:
    """One failure, from the calm before it until the workers are whole again."""
    folder, began = processes.folder, time.monotonic()
    time.sleep(CALM)
    pid, struck = victim(folder), time.monotonic()
    if failure == "killed":
        free = struck
        os.kill(pid, signal.SIGKILL)
        processes.again()
        while victim(folder) == pid and time.monotonic() < struck + AFTER:
            time.sleep(0.05)
        since = time.monotonic()
    else:
        os.kill(pid, signal.SIGSTOP)
        time.sleep(STOPPED)
        with contextlib.suppress(ProcessLookupError):  # its supervisor may have ended it
            os.kill(pid, signal.SIGCONT)
        free = since = time.monotonic()
    while first_whole(steps_of(folder), since) is None and time.monotonic() < free + AFTER and processes.alive():
        time.sleep(0.2)
    time.sleep(MORE)
    return judged(steps_of(folder), began, struck, free, since, time.monotonic())


def measure(method: str, folder: Path) -> dict[str, Any]:
    """Both failures of a method; ``why`` if it did not get so far."""
    found: dict[str, Any] = {"method": method}
    processes = Processes(method, folder)
    try:
        for failure in ("killed", "stopped"):
            wait_until_whole(folder, processes.alive)
            found[failure] = strike(failure, processes)
    except (RuntimeError, OSError, ValueError, IndexError) as error:
        found["why"] = str(error)
    finally:
        processes.end()
    return found


def line(found: dict[str, Any]) -> str:
    texts = []
    for failure in ("killed", "stopped"):
        row = found.get(failure)
        if row is None:
            texts.append(f"{failure}: -")
            continue
        whole = "not" if row["whole"] is None else f"{row['whole']:.1f} s"
        texts.append(f"{failure}: pause {row['pause']:.1f} s, {row['lost']} steps lost, whole after {whole}")
    return f"{found['method']:9} " + "; ".join(texts) + (f" ({found['why']})" if "why" in found else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--out", type=Path, help="file of the results, as JSON")
    for name in ("--method", "--folder", "--meeting"):
        parser.add_argument(name, default="", help=argparse.SUPPRESS)
    parser.add_argument("--rank", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--again", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.method:
        ROLES[options.method](Path(options.folder), options)
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the processes are ended then, too
    rows = []
    for method in options.methods:
        if method in PATIENCE and find_spec(method) is None:
            print(f"{method:9} is not installed: pip install gcdist[peers]")
            continue
        with TemporaryDirectory(prefix="gcdist-failures-", ignore_cleanup_errors=True) as folder:
            rows.append(measure(method, Path(folder)))
            print(line(rows[-1]), flush=True)
            if "why" in rows[-1]:
                print(Path(folder, "log").read_text(errors="replace")[-2000:], file=sys.stderr)
    if options.out:
        about = {
            "benchmark": "failures",
            "machine": machine_text(),
            "versions": {"python": platform.python_version()}
            | {name: version(name) for name in ("torch", *PATIENCE) if find_spec(name)},
            "workers": WORKERS,
            "pace": PACE,
            "stopped": STOPPED,
            "save_every": SAVE_EVERY,
        }
        options.out.write_text(json.dumps({**about, "patience": PATIENCE, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
