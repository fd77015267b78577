"""The folder of a run: written as the run goes, whole lines only, readable after a kill at any moment."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from gcdist.observe.logs import WorkerLogs
from gcdist.observe.trace import Trace
from gcdist.types import Plan


def plain(value: Any) -> Any:
    """``value`` as JSON's types: numpy and paths converted, numbers that are not finite become None.

    >>> plain({"arrived": np.array([0, 2]), "loss": float("nan"), "deadline": np.float64(0.5)})
    {'arrived': [0, 2], 'loss': None, 'deadline': 0.5}
    """
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(inner) for inner in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value


class RunFolder:
    """Writes ``config.toml``, ``plans/ID.json``, ``metrics.jsonl``, ``events.jsonl``, ``trace.json`` and ``summary.json``.

    ``evaluations.jsonl`` has a line an evaluation. ``trace`` takes the rounds for ``trace.json``. A line is flushed as it is
    written; the other files appear whole or not at all. A folder that holds a run already is refused (ValueError), unless
    ``resume``: then lines are added after the last whole one.
    """

    def __init__(self, path: str | Path, resume: bool = False) -> None:
        self.path = Path(path)
        if not resume and (self.path / "metrics.jsonl").exists():
            raise ValueError(f"run folder {self.path} already holds a run; choose another name, or resume it")
        (self.path / "plans").mkdir(parents=True, exist_ok=True)
        self._metrics = _open_lines(self.path / "metrics.jsonl")
        self._events = _open_lines(self.path / "events.jsonl")
        self._step: int | None = None  # the last that has ended
        self.trace = Trace(self.path / "trace.json")
        self.logs = WorkerLogs(self.path / "logs")  # logs/worker-RANK.log

    def write_config(self, text: str) -> None:
        """``config.toml``: the settings with all values resolved."""
        self._write("config.toml", text)

    def write_plan(self, plan: Plan, **about: Any) -> None:
        """``plans/ID.json``: the plan, rows as {worker, parts, bits, p}; ``about`` is added (noise ratio, reason, ...)."""
        rows = [
            {"worker": worker, "parts": plan.parts(row), "bits": plan.bits_RS[row], "p": plan.p_R[row]}
            for row, worker in enumerate(plan.worker_R.tolist())
        ]
        uncovered = np.flatnonzero(~plan.covered_K)
        values = {"plan_id": plan.plan_id, "partitions": len(plan.covered_K), "uncovered": uncovered, "rows": rows}
        self._write(f"plans/{plan.plan_id}.json", json.dumps(plain({**values, **about}), indent=1) + "\n")

    def step(self, step: int, **values: Any) -> None:
        """A line of ``metrics.jsonl``.

        Keys in use: seconds (since the start), loss, arrived (ranks), bytes_up, bytes_down, noise_planned, noise_observed,
        deadline, why, step_seconds, plan_id, data_seconds, compute_seconds, cpu_seconds, loss_share.
        """
        _line(self._metrics, {"step": step, **values})
        self._step = step

    def evaluation(self, step: int, seconds: float, evaluation_seconds: float, metrics: Mapping[str, float]) -> None:
        """A line of ``evaluations.jsonl``: after so many steps, at those seconds of the run, what the evaluation gave."""
        with _open_lines(self.path / "evaluations.jsonl") as file:
            _line(
                file,
                {"step": step, "seconds": seconds, "evaluation_seconds": evaluation_seconds, "metrics": dict(metrics)},
            )

    def rewind(self, step: int) -> None:
        """Go back to before ``step``: metrics of it and later ones, evaluations after it, and the summary are removed."""
        self._metrics.close()
        self._cut("metrics.jsonl", lambda at: at < step)
        self._metrics = _open_lines(self.path / "metrics.jsonl")
        self._cut("evaluations.jsonl", lambda at: at <= step)
        (self.path / "summary.json").unlink(missing_ok=True)

    def _cut(self, name: str, stays: Callable[[int], bool]) -> None:
        path = self.path / name
        if path.exists():
            lines = [json.dumps(line, separators=(",", ":")) + "\n" for line in read_lines(path) if stays(line["step"])]
            self._write(name, "".join(lines))

    def event(self, kind: str, text: str, **values: Any) -> None:
        """A line of ``events.jsonl``: ``kind`` (drop, fault, members, plan, ...) and ``text`` for a reader.

        With the time of day (Unix seconds), and the last step that had ended.
        """
        _line(self._events, {"time": round(time.time(), 3), "step": self._step, "kind": kind, "text": text, **values})

    def write_summary(self, values: Mapping[str, Any]) -> None:
        """``summary.json``."""
        self._write("summary.json", json.dumps(plain(values), indent=1) + "\n")

    def close(self) -> None:
        """Close the files; idempotent."""
        self._metrics.close()
        self._events.close()
        self.trace.close()
        self.logs.close()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, name: str, text: str) -> None:
        target = self.path / name
        half = target.with_name(target.name + ".part")
        half.write_text(text, encoding="utf-8")
        os.replace(half, target)


def read_lines(path: str | Path) -> Iterator[dict[str, Any]]:
    """The records of a ``.jsonl`` file; a half line at its end, of a writer that was killed, is ignored."""
    with open(path, "rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield json.loads(line)


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """All steps of the run folder ``path``, in the order written."""
    return list(read_lines(Path(path) / "metrics.jsonl"))


def _open_lines(path: Path) -> IO[bytes]:
    """Open for adding lines; a half line at the end is cut off."""
    if path.exists():
        whole = path.read_bytes().rfind(b"\n") + 1
        os.truncate(path, whole)
    return open(path, "ab", buffering=0)


def _line(file: IO[bytes], values: Mapping[str, Any]) -> None:
    # one unbuffered write a line: a kill leaves whole lines
    file.write(json.dumps(plain(values), separators=(",", ":")).encode() + b"\n")
