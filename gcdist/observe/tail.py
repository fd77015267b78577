"""Follows the folder of another process's run, also over a shared disk: new whole lines at each call."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gcdist.observe.stream import StepRecord
from gcdist.observe.times import WorkerRound, read_rounds


class LineTail:
    """New lines of one ``.jsonl`` file at each call. A cut or replaced file is read from its beginning."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0
        self._inode: int | None = None
        self.again = False  # the last call read again from the beginning

    def lines(self) -> Iterator[dict[str, Any]]:
        """Whole lines since the last call, without damaged ones."""
        self.again = False
        try:
            with self._path.open("rb") as file:
                about = file.seek(0, 2), self._path.stat().st_ino
                if self._inode is not None and (about[0] < self._at or about[1] != self._inode):
                    self._at, self.again = 0, True
                self._inode = about[1]
                file.seek(self._at)
                raw = file.read()
        except OSError:
            return
        whole = raw[: raw.rfind(b"\n") + 1]
        self._at += len(whole)
        for line in whole.splitlines():
            try:
                value = json.loads(line)
            except ValueError:
                continue
            if isinstance(value, dict):
                yield value


class FolderTail:
    """The steps, events and evaluations of a run's folder as they are written."""

    def __init__(self, path: Path, workers: int) -> None:
        self._metrics = LineTail(path / "metrics.jsonl")
        self._rounds = LineTail(path / "workers.jsonl")
        self._events = LineTail(path / "events.jsonl")
        self._evaluations = LineTail(path / "evaluations.jsonl")
        self._columns: list[dict[str, Any]] = []
        self._timed: dict[int, tuple[WorkerRound, ...]] = {}
        self.workers = workers
        self.rewound = False  # the run went back to a checkpoint, so that earlier lines are invalid

    def steps(self) -> list[StepRecord]:
        """Steps that have ended since the last call."""
        metrics = list(self._metrics.lines())  # read first, because a step's rounds are written before it
        for line in self._rounds.lines():
            self._time(line)
        self.rewound = self._metrics.again
        records = []
        for line in metrics:
            if isinstance(line.get("step"), int):
                arrived = _ranks(line.get("arrived"))
                live = line.get("live")
                self.workers = max(self.workers, *arrived, live if isinstance(live, int) else 0, 0)
                records.append(step_record(line, self.workers, self._timed.pop(line["step"], ())))
        return records

    def events(self) -> list[tuple[str, str]]:
        """(kind, text) of the events since the last call."""
        return [(str(line.get("kind", "")), str(line.get("text", ""))) for line in self._events.lines()]

    def evaluations(self) -> list[tuple[int, float, Mapping[str, float]]]:
        """(step, seconds, metrics) of the evaluations since the last call."""
        return [
            (line["step"], float(line.get("seconds") or 0.0), line["metrics"])
            for line in self._evaluations.lines()
            if isinstance(line.get("step"), int) and isinstance(line.get("metrics"), dict)
        ]

    def _time(self, line: dict[str, Any]) -> None:
        if "columns" in line:
            self._columns = [line]
        elif isinstance(line.get("step"), int):
            try:
                self._timed[line["step"]] = tuple(read_rounds([*self._columns, line]))
            except (ValueError, TypeError, IndexError):
                return  # another version's file: the rest is shown without it
            while len(self._timed) > 1000:
                del self._timed[next(iter(self._timed))]


def step_record(line: Mapping[str, Any], workers: int, rounds: tuple[WorkerRound, ...] = ()) -> StepRecord:
    """A line of ``metrics.jsonl``, of this version or an older one, as the record that observers get."""
    arrived = _ranks(line.get("arrived"))
    return StepRecord(
        step=int(line["step"]),
        seconds=float(line.get("seconds") or 0.0),
        step_seconds=float(line.get("step_seconds") or 0.0),
        loss=line.get("loss"),
        arrived=arrived,
        away=_ranks(line.get("away")),
        workers=workers,
        bytes_up=int(line.get("bytes_up") or 0),
        bytes_down=int(line.get("bytes_down") or 0),
        deadline=line.get("deadline"),
        why=str(line.get("why", "")),
        noise_planned=line.get("noise_planned"),
        noise_observed=line.get("noise_observed"),
        bytes_down_float32=int(line.get("bytes_down_float32") or 0),
        loss_share=1.0 if line.get("loss_share") is None else float(line["loss_share"]),
        metrics=_numbers(line.get("metrics")),
        rounds=rounds,
    )


def _ranks(value: Any) -> tuple[int, ...]:
    return tuple(rank for rank in value if isinstance(rank, int)) if isinstance(value, list) else ()


def _numbers(value: Any) -> dict[str, float]:
    named = value.items() if isinstance(value, dict) else ()
    return {str(name): float(number) for name, number in named if isinstance(number, (int, float))}
