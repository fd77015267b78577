"""The folder of a run: written during the run in whole lines, readable after a kill at any moment.

A failure of the disk does not end a run: see `files`. A folder has one master: see `lock`.
"""

from __future__ import annotations

import errno
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from gcdist.observe.files import MOST_WAITING, GrowingFile, Trouble, cut_off, make_folder, refuse_links
from gcdist.observe.lock import FolderLock, LockedError
from gcdist.observe.logs import WorkerLogs
from gcdist.observe.stream import EventStream
from gcdist.observe.tail import step_record
from gcdist.observe.times import TimesFile, WorkerRound
from gcdist.observe.trace import Trace
from gcdist.types import Plan
from gcdist.whole_file import write_whole

PLAN_VERSION = 2  # of a plan in JSON; files without a version count workers from 0


def plain(value: Any) -> Any:
    """``value`` as JSON's types: numpy and paths converted, numbers that are not finite become None.

    >>> plain({"arrived": np.array([0, 2]), "loss": float("nan"), "deadline": np.float64(0.5)})
    {'arrived': [0, 2], 'loss': None, 'deadline': 0.5}
    """
    if value is None or isinstance(value, (str, bool, int)):  # the usual ones first: a run writes many
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(inner) for inner in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return plain(value.tolist())
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value


class RunFolder:
    """Writes ``config.toml``, ``plans/ID.json``, ``metrics.jsonl``, ``events.jsonl``, ``trace.json`` and ``summary.json``.

    ``evaluations.jsonl`` has a line an evaluation, ``workers.jsonl`` where each worker's time went (`times`). ``trace``
    takes the rounds for ``trace.json``. A line is flushed as it is written; the other files appear whole or not at all.
    All records also go to ``stream``, for observers. Records that the disk refuses wait, and `on_trouble` gets a line.
    A deleted folder is made again; a folder in its place is used if it holds no run.

    Args:
        path: of the folder; made if it is not there.
        resume: it may hold a run; lines are added after its last whole one.
        wait: called with a line before a holder on another host is waited for.

    Raises:
        ValueError: it holds a run already, and not ``resume``; a link is in it; another process writes into it.
        OSError: it cannot be written.
    """

    def __init__(self, path: str | Path, resume: bool = False, wait: Callable[[str], None] = lambda text: None) -> None:
        self.path = Path(path)
        self.on_trouble: Callable[[str], None] = lambda text: self.event("disk", text)
        self.trouble = Trouble(lambda text: self.on_trouble(text))
        self._config: str | None = None
        self._waiting: dict[str, str] = {}  # newest texts of whole files that the disk refused
        if not resume and (self.path / "metrics.jsonl").exists():
            raise ValueError(f"run folder {self.path} already holds a run; choose another name, or resume it")
        refuse_links(self.path)
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = FolderLock(self.path, wait)
        try:
            self._place = _place(self.path)
            make_folder(self.path / "plans")
            self._metrics, self._events, self._evaluations = (
                GrowingFile(self.path / name, self.trouble)
                for name in ("metrics.jsonl", "events.jsonl", "evaluations.jsonl")
            )
            self._times = TimesFile(GrowingFile(self.path / "workers.jsonl", self.trouble))
            self.trace = Trace(self.path / "trace.json", self.trouble)
        except BaseException:
            self._lock.release()
            raise
        self._step: int | None = None  # the last that has ended
        self.summed_up: int | None = None  # that of the summary
        self.stream = EventStream(self.event)
        self.logs = WorkerLogs(self.path / "logs", must_be_ours=self.must_be_ours)  # logs/worker-RANK.log
        for file in self._files():
            file.must_be_ours = self.must_be_ours

    def must_be_ours(self) -> None:
        """OSError if another folder has taken this one's place."""
        if _place(self.path) != self._place:
            raise OSError(errno.ESTALE, "another folder stands in the run folder's place", str(self.path))

    def write_config(self, text: str) -> None:
        """``config.toml``: the settings with all values resolved."""
        if text == self._config:
            return
        self._config = text
        self._write("config.toml", text)

    def write_plan(self, plan: Plan, **about: Any) -> None:
        """``plans/ID.json``: rows {worker, parts, bits, p}, worker 1..n; ``about`` is added (noise ratio, reason, ...)"""
        rows = [
            {"worker": worker + 1, "parts": plan.parts(row), "bits": plan.bits_RS[row], "p": plan.p_R[row]}
            for row, worker in enumerate(plan.worker_R.tolist())
        ]
        uncovered = np.flatnonzero(~plan.covered_K)
        values = {
            "version": PLAN_VERSION, "plan_id": plan.plan_id, "partitions": len(plan.covered_K), "uncovered": uncovered,
            "rows": rows,
        }  # fmt: skip
        self._write(f"plans/{plan.plan_id}.json", json.dumps(plain({**values, **about}), indent=1) + "\n")

    def step(self, step: int, rounds: Sequence[WorkerRound] = (), **values: Any) -> None:
        """A line of ``metrics.jsonl``, and one of ``workers.jsonl`` with the rounds of workers that have ended.

        Keys in use: seconds (since the start), loss, arrived and away (ranks), live, bytes_up, bytes_down,
        bytes_down_float32, noise_planned, noise_observed, deadline, why, step_seconds, plan_id, data_seconds,
        compute_seconds, cpu_seconds, choice_seconds, loss_share, done (share of its partitions, for each of arrived),
        metrics (by name), spread (S^2/|g|^2 of one partition, once it is known).
        """
        self._look()
        if rounds:
            self._times.step(step, rounds)
        line = plain({"step": step, **values})
        self._metrics.write(_line(line))
        self._step = step
        if self.stream.heard:
            workers = int(line.get("live") or 0) + len(line.get("away") or ())
            self.stream.step(step_record(line, workers, tuple(rounds)))

    def evaluation(self, step: int, seconds: float, evaluation_seconds: float, metrics: Mapping[str, float]) -> None:
        """A line of ``evaluations.jsonl``: the number of steps, the seconds of the run, and the metrics."""
        line = {"step": step, "seconds": seconds, "evaluation_seconds": evaluation_seconds, "metrics": dict(metrics)}
        self._evaluations.write(_line(line))
        self.stream.evaluation(step, seconds, metrics)

    def evaluations(self) -> Iterator[dict[str, Any]]:
        """The lines of ``evaluations.jsonl`` so far that can be read."""
        for raw in self._evaluations.path.read_bytes().splitlines():
            with suppress(ValueError, RecursionError):
                line = json.loads(raw)
                if isinstance(line, dict) and isinstance(line.get("metrics"), dict):
                    yield line

    def rewind(self, step: int) -> None:
        """Go back to before ``step``: remove its metrics and later ones, evaluations after it, and the summary.

        Unreadable lines are removed, too; an event counts them.
        """
        self._metrics = self._cut(self._metrics, lambda line: int(line["step"]) < step)
        self._times = TimesFile(self._cut(self._times.file, lambda line: "columns" in line or int(line["step"]) < step))
        self._evaluations = self._cut(self._evaluations, lambda line: int(line["step"]) <= step)
        self._events = self._cut(self._events, lambda line: isinstance(line["text"], str))
        (self.path / "summary.json").unlink(missing_ok=True)

    def _cut(self, file: GrowingFile, stays: Callable[[dict[str, Any]], bool]) -> GrowingFile:
        file.close()
        kept, damaged = [], 0
        whole = file.path.read_bytes()
        for raw in whole.splitlines(keepends=True):
            try:
                line = json.loads(raw)
                if stays(line):
                    kept.append(raw)
            except (ValueError, TypeError, KeyError, RecursionError):
                damaged += 1
        left = b"".join(kept)
        if whole.startswith(left):  # a full disk can do that
            cut_off(file.path, len(left))
        else:
            write_whole(file.path, left)
        if damaged:
            self.on_trouble(f"{file.path}: {damaged} damaged lines were cut out")
        anew = GrowingFile(file.path, self.trouble)
        anew.must_be_ours = self.must_be_ours
        return anew

    def event(self, kind: str, text: str, **values: Any) -> None:
        """A line of ``events.jsonl``: ``kind`` (drop, fault, members, plan, ...) and ``text`` for a reader.

        With the time of day (Unix seconds), and the last step that had ended.
        """
        line = {"time": round(time.time(), 3), "step": self._step, "kind": kind, "text": text, **values}
        self._events.write(_line(line))
        self.stream.event(kind, text)

    def write_summary(self, values: Mapping[str, Any]) -> None:
        """``summary.json``."""
        self.summed_up = self._step
        self._write("summary.json", json.dumps(plain(values), indent=1) + "\n")

    def write_last_events(self, lines: Iterable[str]) -> None:
        """``last-events.jsonl``: the last events and instructions of the master's machine before the run halted."""
        self._write("last-events.jsonl", "".join(f"{line}\n" for line in lines))

    def close(self) -> None:
        """Close the observers and the files, and release the folder's lock; idempotent."""
        self.stream.close()
        self._write_waiting()
        self._metrics.close()
        self._times.file.close()
        self._evaluations.close()
        self.trace.close()
        self.logs.close()
        self._events.close()
        self._lock.release()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, name: str, text: str) -> None:
        self._waiting.pop(name, None)
        try:
            self.must_be_ours()
            write_whole(self.path / name, text)
        except OSError as error:
            self._waiting[name] = text
            self.trouble.failed(name, error)
            while sum(map(len, self._waiting.values())) > MOST_WAITING:
                oldest = next(iter(self._waiting))
                del self._waiting[oldest]
                self.trouble.left_out(oldest)

    def _write_waiting(self) -> None:
        """Write the waiting whole files, as far as the disk takes them."""
        for name, text in list(self._waiting.items()):
            try:
                self.must_be_ours()
                make_folder((self.path / name).parent)
                write_whole(self.path / name, text)
            except OSError as error:
                self.trouble.failed(name, error)
                return
            del self._waiting[name]
            self.trouble.wrote(name)

    def _look(self) -> None:
        """Whether the folder is still the opened one; else make it again, or use the new one."""
        try:
            if _place(self.path) != self._place:
                self._move_in()
        except FileNotFoundError:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                self._move_in()
            except (OSError, LockedError) as error:
                self.trouble.failed(self.path.name, error if isinstance(error, OSError) else OSError(str(error)))
        except (OSError, LockedError) as error:
            self.trouble.failed(self.path.name, error if isinstance(error, OSError) else OSError(str(error)))
        if self._waiting:
            self._write_waiting()

    def _files(self) -> list[GrowingFile]:
        return [self._metrics, self._events, self._evaluations, self._times.file, self.trace.file]

    def _move_in(self) -> None:
        for file in self._files():
            file.hold()  # no record goes into another run's folder
        if (self.path / "metrics.jsonl").exists():
            raise LockedError(f"{self.path} is another run's folder now")
        lock = FolderLock(self.path)
        self._lock.release()
        self._lock = lock
        self._place = _place(self.path)
        make_folder(self.path / "plans")
        for file in self._files():
            file.go_on()
        if self._config is not None:
            self._write("config.toml", self._config)
        self.trouble.wrote(self.path.name)
        self.on_trouble(f"run folder {self.path} was deleted or replaced: its files begin anew here")


def _place(path: Path) -> tuple[int, int]:
    """Device and number of a folder: a new folder in its place has others."""
    found = path.stat()
    return found.st_dev, found.st_ino


def read_lines(path: str | Path) -> Iterator[dict[str, Any]]:
    """The records of a ``.jsonl`` file; a half line at its end, from a killed writer, is ignored."""
    with open(path, "rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield json.loads(line)


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """All steps of the run folder ``path``, in the order written."""
    return list(read_lines(Path(path) / "metrics.jsonl"))


def _line(values: Mapping[str, Any]) -> bytes:
    return json.dumps(plain(values), separators=(",", ":")).encode() + b"\n"
