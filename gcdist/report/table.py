"""The table of run folders: time, task, scheme, steps, and state."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gcdist.config import ConfigError
from gcdist.report.reading import Run, read_run

_SCRIPT = "script:"  # that of gcdist.tasks.registry, which would import torch


@dataclass(frozen=True, slots=True)
class RunRow:
    """One run folder."""

    folder: Path
    when: float | None  # Unix seconds of its first event
    task: str
    scheme: str
    workers: int
    steps: int
    wanted: int | None
    loss: float | None  # of the last step that had one
    seconds: float
    state: str  # running, done, halted
    why: str
    problems: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """The values for JSON."""
        return asdict(self)


def run_folders(places: list[Path]) -> list[Path]:
    """The run folders among these and directly in them, sorted.

    Raises:
        ConfigError: a place that is no folder.
    """
    found: set[Path] = set()
    for place in places:
        if not place.is_dir():
            raise ConfigError(f"{place}: no such folder")
        for folder in (place, *place.iterdir()):
            if folder.is_dir() and ((folder / "metrics.jsonl").exists() or (folder / "config.toml").exists()):
                found.add(folder)
    return sorted(found)


def run_row(folder: Path) -> RunRow:
    """The row of one folder."""
    run = read_run(folder)
    state, why = run.state()
    loss = run.series["loss"][np.isfinite(run.series["loss"])]
    return RunRow(
        folder=folder,
        when=_began(run),
        task=_task(str(run.setting("task.name", "-"))),
        scheme=str(run.summary.get("scheme") or run.setting("code.scheme", "-")),
        workers=run.workers,
        steps=run.steps,
        wanted=run.wanted,
        loss=float(loss[-1]) if len(loss) else None,
        seconds=float(np.nan_to_num(run.series["seconds"][-1])) if run.steps else 0.0,
        state=state,
        why=why,
        problems=tuple(run.problems),
    )


def _task(name: str) -> str:
    """A task's name without folders; of a script's own task, the script's.

    >>> _task("digits"), _task("/home/me/tasks.py:cats"), _task("script:/home/me/train.py"), _task("script:-")
    ('digits', 'tasks.py:cats', 'train.py', 'a script')
    """
    script = name.startswith(_SCRIPT)
    last = Path(name.removeprefix(_SCRIPT) if script else name).name
    return "a script" if script and last in ("", "-") else last


def _began(run: Run) -> float | None:
    first = next((event.get("time") for event in run.events), None)
    if isinstance(first, (int, float)):
        return float(first)
    return (run.path / "config.toml").stat().st_mtime if (run.path / "config.toml").exists() else None
