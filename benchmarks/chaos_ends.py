"""The demo under every kind of end: killed, paused, stopped and hung up on, its disk full at times; and what that costs.

    python benchmarks/chaos_ends.py [--minutes 10] [--mean 15] [--workers 4] [--transport tls] [--seed 0]
        [--out ends.json] [--log lines.txt]

`gcdist launch local --restart-master` starts the run; whenever it has ended, the same command goes on with it. Faults come
at the times of a Poisson process, each of a kind drawn at random; a full disk needs root (a file system of its own). At the
end every promise of docs/faults.md that files can show is looked at: steps follow each other, checkpoints can be read, a
stop loses no step.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gcdist.run.checkpoint import good_checkpoints

CONFIG = Path(__file__).resolve().parents[1] / "examples" / "digits.toml"
STOPS = ("stop", "hang-up of the launcher", "hang-up of the group", "hang-up of the master")
KINDS = ("worker killed", "worker paused", "master killed", *STOPS, "disk full")
EXPECTED = {0, 129, 143}  # exit codes of a launcher that was asked to end
BAD_INPUT = 2  # exit code of a launcher whose command cannot run at all
Find = Callable[[int], dict[int, int]]  # processes below a launcher by rank
PATIENCE = 120.0  # s without a new step, outside of a full disk: a hang


@dataclass(slots=True)
class Tally:
    """What was done, and what came of it."""

    faults: Counter[str] = field(default_factory=Counter)
    lost: dict[str, list[int]] = field(default_factory=dict)  # steps that were run again, by what had ended the run
    codes: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    longest_pause: float = 0.0  # s between two steps
    in_step: bool = False  # whether the last stop met a life that had done a step


@contextlib.contextmanager
def disk(folder: Path) -> Iterator[Path | None]:
    """A file system of 64 MB; None where none can be made."""
    place = folder / "disk"
    place.mkdir()
    made = os.geteuid() == 0 and (
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", place], capture_output=True, check=False
        ).returncode
        == 0
    )
    try:
        yield place if made else None
    finally:
        if made:
            subprocess.run(["umount", "-l", place], check=False)


def fill(place: Path) -> None:
    """Take all the room there is."""
    with (place / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(1 << 16)):
            pass


class Run:
    """The run in its folder, started again and again by the same command."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.folder = folder / "run"
        self.log = folder.parent / "ends.log" if folder.name == "disk" else folder / "ends.log"
        settings = {
            "steps": 10**6,
            "cluster.workers": options.workers,
            "checkpoint.minutes": 0.25,
            "cluster.retry_first": 0.2,
            "cluster.transport": json.dumps(options.transport),
            "inject.mean": 0.1,  # the demo's list has a number for each of its eight workers
        }
        self.command = [
            sys.executable,
            "-m",
            "gcdist",
            "launch",
            "local",
            "-n",
            str(options.workers),
            "--restart-master",
            "1000",
        ]
        self.command += ["--", sys.executable, "-m", "gcdist", "train", str(CONFIG), "--resume", str(self.folder)]
        self.command += [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        self.env = {**os.environ, "GCDIST_SECRET": os.urandom(32).hex()}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> subprocess.Popen[bytes]:
        """Start the launcher, in a group of its own."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True, env=self.env
            )
        return self.process

    def steps(self) -> int:
        """Lines of ``metrics.jsonl``."""
        with contextlib.suppress(OSError):
            return (self.folder / "metrics.jsonl").read_bytes().count(b"\n")
        return 0

    def began(self) -> list[int]:
        """The steps that its lives so far have begun with."""
        found: list[int] = []
        with contextlib.suppress(OSError):
            for line in (self.folder / "events.jsonl").read_bytes().splitlines():
                text = str(json.loads(line)["text"])
                if text.startswith("going on from step-"):
                    found.append(int(text.split("-")[1]))
                elif text.endswith("the run begins at step 0"):
                    found.append(0)
        return found


def strike(
    kind: str, run: Run, place: Path | None, ranks: dict[int, int], rng: np.random.Generator
) -> Callable[[], None] | None:
    """Do it; what undoes it later, if anything does."""
    assert run.process is not None
    workers = sorted(rank for rank in ranks if rank > 0)
    with contextlib.suppress(ProcessLookupError):
        match kind:
            case "worker killed" if workers:
                os.kill(ranks[int(rng.choice(workers))], signal.SIGKILL)
            case "worker paused" if workers:
                pid = ranks[int(rng.choice(workers))]
                os.kill(pid, signal.SIGSTOP)

                def go_on() -> None:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGCONT)

                return go_on
            case "master killed" if 0 in ranks:
                os.kill(ranks[0], signal.SIGKILL)
            case "stop":
                os.killpg(run.process.pid, signal.SIGTERM)
            case "hang-up of the launcher":
                os.kill(run.process.pid, signal.SIGHUP)
            case "hang-up of the group":
                os.killpg(run.process.pid, signal.SIGHUP)
            case "hang-up of the master" if 0 in ranks:
                os.kill(ranks[0], signal.SIGHUP)
            case "disk full" if place is not None:
                fill(place)
                return (place / "filler").unlink
    return None


class Chaos:
    """Strikes for so many minutes; the run is started again whenever it has ended."""

    def __init__(self, run: Run, place: Path | None, options: argparse.Namespace, find: Find) -> None:
        self.run, self.place, self.find = run, place, find
        self.tally = Tally()
        self._rng = np.random.default_rng(options.seed)
        self._mean = options.mean
        self._kinds = [kind for kind in KINDS if kind != "disk full" or place is not None]
        self._undo: Callable[[], None] | None = None
        self._undo_at = self._due = 0.0
        self._was_full = False  # the disk, since the newest checkpoint
        self._why, self._steps_then = "", 0  # what has ended the last life, and its steps
        self._lives = 0  # that have said where they go on
        self._waits = True  # for a life's first word: it is struck no earlier
        self._seen, self._seen_at = 0, time.monotonic()

    def follow(self, seconds: float) -> None:
        """For so many seconds, and a last stop."""
        until = time.monotonic() + seconds
        process = self.run.start()
        while (now := time.monotonic()) < until:
            time.sleep(0.05)
            if self._undo is not None and now >= self._undo_at:
                self._free()
            if process.poll() is not None:
                self._ended(process)
                process = self.run.start()
                continue
            self._look(now)
            if not self._waits and now >= self._due:
                self._due = now + self._rng.exponential(self._mean)
                self._strike(process, str(self._rng.choice(self._kinds)))
        self._free()
        self._why, self.tally.in_step = "the last stop", not self._waits
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(PATIENCE)
        self._ended(process)

    def _look(self, now: float) -> None:
        steps = self.run.steps()
        if self._waits:
            begun = self.run.began()
            if len(begun) > self._lives and steps != self._seen:
                if self._why:
                    name = f"{self._why}, the disk full" if self._was_full else self._why
                    self.tally.lost.setdefault(name, []).append(max(0, self._steps_then - begun[-1]))
                self._lives, self._waits, self._why, self._was_full = len(begun), False, "", self._undo is not None
                self._due = now + self._rng.exponential(self._mean)
        elif steps != self._seen:
            self.tally.longest_pause = max(self.tally.longest_pause, now - self._seen_at)
        if steps != self._seen or self._undo is not None:
            self._seen, self._seen_at = steps, now
        elif now - self._seen_at > PATIENCE:
            self.tally.wrong.append(f"no step for {PATIENCE:g} s at step {steps}")
            assert self.run.process is not None
            os.killpg(self.run.process.pid, signal.SIGKILL)

    def _strike(self, process: subprocess.Popen[bytes], kind: str) -> None:
        if self._undo is not None and kind in ("disk full", "worker paused"):
            return
        steps = self.run.steps()
        undo = strike(kind, self.run, self.place, self.find(process.pid), self._rng)
        self.tally.faults[kind] += 1
        if undo is not None:
            self._undo, self._undo_at = undo, time.monotonic() + 1.0 + float(self._rng.exponential(6.0))
            self._was_full = self._was_full or kind == "disk full"
        if kind in STOPS or kind == "master killed":
            self._why, self._steps_then, self._waits = kind, steps, True
            if kind in STOPS:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(PATIENCE)
                self._steps_then = self.run.steps()

    def _ended(self, process: subprocess.Popen[bytes]) -> None:
        code = process.returncode
        self.tally.codes[code] += 1
        if code == BAD_INPUT:
            raise SystemExit(f"the run does not start: {self.run.log.read_text().splitlines()[-1]}")
        if code not in EXPECTED:
            self.tally.wrong.append(f"exit code {code} after {self._why or 'nothing'}")
        if left := self.find(process.pid):
            self.tally.wrong.append(f"processes are left: {left}")
        self._free()
        self._waits, self._steps_then, self._seen_at = True, self.run.steps(), time.monotonic()

    def _free(self) -> None:
        if self._undo is not None:
            self._undo()
            self._undo, self._seen_at = None, time.monotonic()


def check(run: Run, tally: Tally) -> None:
    """What the files promise."""
    lines = (run.folder / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    if steps != list(range(len(steps))):
        tally.wrong.append("metrics.jsonl: steps do not follow each other")
    damaged: list[str] = []
    checkpoints = list(good_checkpoints(run.folder / "checkpoints", damaged.append))
    tally.wrong += damaged
    if tally.in_step and (not checkpoints or checkpoints[0].step != len(steps)):
        tally.wrong.append(f"the last stop left no checkpoint of all {len(steps)} steps")
    for kind in STOPS:
        if any(tally.lost.get(kind, [])):
            tally.wrong.append(f"{kind}: steps were lost: {tally.lost[kind]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--mean", type=float, default=15.0, help="seconds between faults, on average")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--transport", choices=("gloo", "tls"), default="gloo", help="plane of the links")
    parser.add_argument("--seed", type=int, default=0, help="of the faults")
    parser.add_argument("--out", type=Path, help="write the figures to this JSON file")
    parser.add_argument("--log", type=Path, help="copy the lines of all processes to this file")
    options = parser.parse_args()
    figures = ends(options, runpy.run_path(str(Path(__file__).with_name("chaos.py")))["ranks_below"])
    if options.out:
        options.out.write_text(json.dumps(figures, indent=1) + "\n")
    sys.exit(1 if figures["wrong"] else 0)


def ends(options: argparse.Namespace, find: Find) -> dict[str, Any]:
    """Run it, print the table; the figures."""
    with tempfile.TemporaryDirectory() as folder, disk(Path(folder)) as place:
        run = Run(place or Path(folder), options)
        chaos = Chaos(run, place, options, find)
        tally = chaos.tally
        chaos.follow(60 * options.minutes)
        check(run, tally)
        steps = run.steps()
        if options.log:
            shutil.copy(run.log, options.log)
    print(
        f"{steps} steps in {options.minutes:g} minutes; exit codes {dict(tally.codes)}; "
        f"longest pause {tally.longest_pause:.1f} s"
    )
    for kind in KINDS:
        losses = {name: lost for name, lost in tally.lost.items() if name.split(",")[0] == kind}
        told = "; ".join(
            f"{name.removeprefix(kind).strip(', ') or 'steps run again'}: {lost}" for name, lost in losses.items()
        )
        print(f"{kind:>26} {tally.faults[kind]:>4}  {told}")
    print("wrong: " + ("; ".join(tally.wrong) or "nothing"))
    return {
        "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "torch": torch.__version__},
        **{name: value for name, value in vars(options).items() if name not in ("out", "log")},
        "steps": steps,
        "disk": place is not None,
        "faults": dict(tally.faults),
        "steps_run_again": tally.lost,
        "exit_codes": {str(code): count for code, count in tally.codes.items()},
        "longest_pause": tally.longest_pause,
        "wrong": tally.wrong,
    }


if __name__ == "__main__":
    main()
