"""A run's folder as arrays. Each damaged or missing part becomes a line in ``problems``; the rest is read."""

from __future__ import annotations

import json
import math
import re
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gcdist.config import ConfigError
from gcdist.observe import PLAN_VERSION, WorkerRound, read_rounds
from gcdist.types import F64, I64, Mask

FRESH = 60.0  # seconds: a run without an end is running if its last line is younger
_WHYS = ("complete", "deadline", "count", "stop")
_JOINED = re.compile(r"worker (\d+) joined$")
_GONE = re.compile(r"worker (\d+) (?:lost: (.*)|is (leaving)|closed: (.*))$", re.DOTALL)
_SERIES = (
    "seconds", "step_seconds", "loss", "bytes_up", "bytes_down", "deadline", "noise_planned", "noise_observed", "live",
    "data_seconds", "compute_seconds", "choice_seconds", "spread",
)  # fmt: skip


@dataclass(slots=True, eq=False)
class Run:
    """The readable part of a run. T steps, N workers; worker i of the arrays is worker i + 1 in every text."""

    path: Path
    config: dict[str, Any]
    step_T: I64
    series: dict[str, F64]  # (T,) each, NaN without data
    why_T: list[str]
    plan_T: I64
    arrived_TN: Mask
    away_TN: Mask  # absent at the opening of the step
    rounds: list[WorkerRound]
    split: bool  # the rounds separate the link from the work at the worker
    events: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]
    plans: dict[int, dict[str, Any]]
    summary: dict[str, Any]
    written: float  # Unix seconds of the newest line
    problems: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.resolve().name

    @property
    def workers(self) -> int:
        """N."""
        return int(self.arrived_TN.shape[1])

    @property
    def steps(self) -> int:
        """T."""
        return len(self.step_T)

    @property
    def wanted(self) -> int | None:
        """Steps in the settings."""
        steps = self.config.get("steps")
        return steps if isinstance(steps, int) else None

    @property
    def opened_T(self) -> F64:
        """Seconds from the run's start to the opening of each step."""
        return self.series["seconds"] - self.series["step_seconds"]

    @property
    def virtual(self) -> bool:
        """Whether its seconds are those of a virtual clock."""
        said = self.summary.get("virtual") is True
        return said or any(event.get("kind") == "clock" and event.get("virtual") is True for event in self.events)

    def setting(self, key: str, default: Any = None) -> Any:
        """One setting by its dotted key."""
        value: Any = self.config
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return default if value is None else value

    def state(self, now: float | None = None) -> tuple[Literal["running", "done", "halted"], str]:
        """The run's end and its reason, as far as the folder records them."""
        end = next((event for event in reversed(self.events) if event.get("kind") == "end"), None)
        last = self.events[-1] if self.events else {}
        if self.summary or (end is not None and end.get("finished")):
            return "done", ""
        newest = max(self.written, float(last.get("time") or 0.0))
        if end is not None and float(end.get("time") or 0.0) >= newest - 1.0:
            return "halted", str(end.get("text", ""))
        if (time.time() if now is None else now) - newest < FRESH:
            return "running", ""
        if self.wanted is not None and self.steps >= self.wanted:
            return "done", ""
        why = str(last.get("text", "")).splitlines()
        return "halted", f"its last line: {why[0]}" if why else "nothing says why"


def read_run(path: str | Path) -> Run:
    """Read a run's folder.

    Raises:
        ConfigError: there is no such folder, or no file of a run is in it.
    """
    path = Path(path)
    if not path.is_dir():
        raise ConfigError(f"{path}: no such folder")
    names = ("metrics.jsonl", "config.toml", "events.jsonl", "summary.json")
    if not any((path / name).exists() for name in names):
        raise ConfigError(f"{path}: no run is in this folder (none of {', '.join(names)})")
    problems: list[str] = []
    config = _whole(path / "config.toml", tomllib.loads, problems)
    summary = _whole(path / "summary.json", json.loads, problems, needed=False)
    metrics = [line for line in _lines(path / "metrics.jsonl", problems) if isinstance(line.get("step"), int)]
    events = _lines(path / "events.jsonl", problems)
    evaluations = _lines(path / "evaluations.jsonl", problems, needed=False)
    plans = {}
    for file in sorted((path / "plans").glob("*.json")) if (path / "plans").is_dir() else ():
        plan = _whole(file, json.loads, problems)
        if isinstance(plan.get("plan_id"), int):
            plan["rows"] = _plan_rows(plan, problems)
            plans[plan["plan_id"]] = plan
    metrics = _in_order(metrics, problems)
    rounds = _rounds(path, problems)
    workers = _count(config, metrics, plans, rounds)
    step_T = np.array([line["step"] for line in metrics], np.int64)
    series = {name: np.array([_float(line.get(name)) for line in metrics], np.float64) for name in _SERIES}
    arrived_TN = _ranks(metrics, "arrived", workers)
    split = any(each.held is not None for each in rounds)
    if metrics and not rounds:
        rounds = _from_trace(path, problems)
    if metrics and not split:
        problems.append(
            "the times of this run do not tell a worker's link from its computing (no workers.jsonl: an older version)"
        )
    known = any("away" in line for line in metrics)
    away_TN = _ranks(metrics, "away", workers) if known else _away(events, step_T, workers)
    return Run(
        path=path,
        config=config,
        step_T=step_T,
        series=series,
        why_T=[str(line.get("why")) if line.get("why") in _WHYS else "" for line in metrics],
        plan_T=np.array([line.get("plan_id", -1) for line in metrics], np.int64),
        arrived_TN=arrived_TN,
        away_TN=away_TN & ~arrived_TN,
        rounds=rounds,
        split=split,
        events=events,
        evaluations=evaluations,
        plans=plans,
        summary=summary,
        written=max((file.stat().st_mtime for name in names if (file := path / name).exists()), default=0.0),
        problems=problems,
    )


def losses(run: Run) -> dict[int, list[tuple[int, str]]]:
    """By worker: the step after which it was lost or left, and the reason."""
    found: dict[int, list[tuple[int, str]]] = {}
    for event in run.events:
        gone = _GONE.match(str(event.get("text", "")))
        if gone and event.get("kind") == "members":
            why = next((text for text in gone.groups()[1:] if text), "")
            found.setdefault(int(gone[1]), []).append((int(event.get("step") or 0), why))
    return found


def _whole(path: Path, parse: Callable[[str], Any], problems: list[str], needed: bool = True) -> dict[str, Any]:
    try:
        value = parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if needed:
            problems.append(f"{path.name} is missing")
        return {}
    except (OSError, ValueError) as error:
        problems.append(f"{path.name} cannot be read: {' '.join(str(error).split())}")
        return {}
    if isinstance(value, dict):
        return value
    problems.append(f"{path.name} holds no table of values")
    return {}


def _lines(path: Path, problems: list[str], needed: bool = True) -> list[dict[str, Any]]:
    """The whole lines of a file; damaged ones are counted and left out."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        if needed:
            problems.append(f"{path.name} is missing")
        return []
    except OSError as error:
        problems.append(f"{path.name} cannot be read: {error.strerror}")
        return []
    good, bad = [], 0
    for line in raw.split(b"\n")[:-1]:  # the text after the last newline is not complete yet
        try:
            value = json.loads(line)
        except ValueError:
            value = None
        if isinstance(value, dict):
            good.append(value)
        else:
            bad += 1
    if bad:
        problems.append(f"{path.name}: {bad} damaged line{'s' if bad > 1 else ''} left out, {len(good)} read")
    return good


def _plan_rows(plan: dict[str, Any], problems: list[str]) -> list[dict[str, Any]]:
    """A plan's rows with ``index``, the worker's in arrays; files of before version 2 count workers from 0."""
    version, rows = plan.get("version", 1), plan.get("rows")
    if version not in (1, PLAN_VERSION):
        problems.append(f"plan {plan['plan_id']} has version {version!r}, known are up to {PLAN_VERSION}: left out")
        return []
    first = 0 if version == 1 else 1
    found = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    return [{**row, "index": row["worker"] - first} for row in found if isinstance(row.get("worker"), int)]


def _in_order(metrics: list[dict[str, Any]], problems: list[str]) -> list[dict[str, Any]]:
    """Steps in rising order; of a repeated step, the last line."""
    by_step = {line["step"]: line for line in metrics}
    if len(by_step) < len(metrics):
        problems.append(f"metrics.jsonl: {len(metrics) - len(by_step)} steps stand there twice; the last line counts")
    return [by_step[step] for step in sorted(by_step)]


def _rounds(path: Path, problems: list[str]) -> list[WorkerRound]:
    lines = _lines(path / "workers.jsonl", problems, needed=False)
    rounds: list[WorkerRound] = []
    try:
        rounds.extend(read_rounds(lines))
    except (ValueError, TypeError, IndexError) as error:
        problems.append(f"{error}" if isinstance(error, ValueError) else "workers.jsonl: a line is no list of rounds")
    return rounds


def _from_trace(path: Path, problems: list[str]) -> list[WorkerRound]:
    """The rounds in an older run's trace: only arrival times of messages."""
    found: list[WorkerRound] = []
    step = -1
    try:
        text = (path / "trace.json").read_text(encoding="utf-8")
    except (OSError, ValueError):
        problems.append("trace.json is missing or cannot be read: how long each worker took is not known")
        return []
    for line in text.splitlines():
        try:
            event = json.loads(line.strip().rstrip(","))
            name, rank = event["name"], int(event["tid"])
            sent, seconds = float(event["ts"]) * 1e-6, float(event["dur"]) * 1e-6
        except (ValueError, KeyError, TypeError):
            continue  # brackets, names of threads, a half line
        if name.startswith("step "):
            step = int(name[5:])
        elif name in ("counted", "missed"):
            end: Literal["counted", "stale"] = "counted" if name == "counted" else "stale"
            found.append(WorkerRound(rank, step, end, sent, seconds, None, None, None, 0, 0, 0))
    return found


def _count(
    config: dict[str, Any], metrics: list[dict[str, Any]], plans: dict[int, dict[str, Any]], rounds: list[WorkerRound]
) -> int:
    """The number of workers of the run."""
    cluster = config.get("cluster")
    stated = cluster.get("workers") if isinstance(cluster, dict) else None
    seen = [rank for line in metrics for rank in _whole_numbers(line.get("arrived"))]
    live = [int(line["live"]) for line in metrics if isinstance(line.get("live"), int)]
    planned = [len(plan.get("rows", ())) for plan in plans.values()]
    timed = [each.worker for each in rounds]
    return max(
        [stated if isinstance(stated, int) else 0, *seen, *live, *timed, *([0] if stated else planned)], default=0
    )


def _whole_numbers(value: Any) -> list[int]:
    return [each for each in value if isinstance(each, int)] if isinstance(value, list) else []


def _ranks(metrics: list[dict[str, Any]], key: str, workers: int) -> Mask:
    found_TN = np.zeros((len(metrics), workers), bool)
    for t, line in enumerate(metrics):
        found_TN[t, [rank - 1 for rank in _whole_numbers(line.get(key)) if 1 <= rank <= workers]] = True
    return found_TN


def _away(events: list[dict[str, Any]], step_T: I64, workers: int) -> Mask:
    """The absences, from the lines on joined and lost workers."""
    away_TN = np.zeros((len(step_T), workers), bool)
    for event in events:
        text, step = str(event.get("text", "")), event.get("step")
        after = 0 if step is None else int(np.searchsorted(step_T, step, side="right"))
        match = _JOINED.match(text) or _GONE.match(text)
        if match is not None and event.get("kind") == "members" and 1 <= int(match[1]) <= workers:
            away_TN[after:, int(match[1]) - 1] = _JOINED.match(text) is None
    return away_TN


def _float(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan


def absences(away_T: Mask) -> Iterator[tuple[int, int]]:
    """Spells of True as (first, one after the last).

    >>> list(absences(np.array([True, False, True, True])))
    [(0, 1), (2, 4)]
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[0], away_T.astype(np.int8), [0]])))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
