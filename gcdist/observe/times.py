"""Each worker's seconds: ``workers.jsonl`` in the run's folder, a line a step with the rounds that ended in it.

A round of a worker begins when the master sends it and ends when the worker is free again. ``held`` is the part of its
``seconds`` at the worker: computing, waiting for data, encoding, an injected delay. The rest is the link, both ways. A
long file has fewer steps: one in ten beyond `THIN_BYTES`, one in a hundred beyond twice as much.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import fields
from operator import attrgetter
from typing import Any, Literal, TypeAlias

from gcdist.observe.files import GrowingFile
from gcdist.records import record

VERSION = 1  # of workers.jsonl
THIN_BYTES = 32 << 20
End: TypeAlias = Literal["counted", "late", "stale", "failed", "lost"]


@record
class WorkerRound:
    """One round of one worker. Times in seconds, sizes in bytes; None: not known.

    ``end``: counted (its message was in time), late (it was not), stale (the worker dropped the round for a newer step),
    failed (the user's code raised), lost (the link broke).
    """

    worker: int  # 1..n
    step: int  # of the round
    end: End
    sent: float  # since the run's start
    seconds: float
    held: float | None
    compute: float | None
    data: float | None
    load: int  # partitions
    up: int
    down: int
    done: int | None = None  # partitions in its messages, below ``load`` for a cut row; None: an older file
    ends: tuple[tuple[int, float], ...] = ()  # (partition, seconds from the receipt until it was done), not in the file
    row: float = 0.0  # seconds from the receipt until its row was complete or cut, not in the file

    @property
    def whole(self) -> bool:
        """Whether a gradient of all its partitions arrived, so that its seconds are those of the whole row."""
        return self.end in ("counted", "late") and (self.done is None or self.done >= self.load)

    @property
    def share(self) -> float:
        """The arrived share of its partitions, 0 to 1."""
        if self.end not in ("counted", "late"):
            return 0.0
        return 1.0 if self.done is None or not self.load else min(1.0, self.done / self.load)

    @property
    def link(self) -> float | None:
        """Seconds on the link, both ways."""
        return None if self.held is None else max(0.0, self.seconds - self.held)


COLUMNS = tuple(field.name for field in fields(WorkerRound) if field.name not in ("ends", "row"))
ADDED = {"done"}  # columns missing in older files of this version
_values = attrgetter(*COLUMNS)


class TimesFile:
    """Writes ``workers.jsonl``; an existing file is continued."""

    def __init__(self, file: GrowingFile) -> None:
        self.file = file

    def step(self, step: int, rounds: Iterable[WorkerRound]) -> None:
        """The rounds that ended in this step."""
        size = self.file.size
        if step % 10 ** min(6, size // THIN_BYTES):
            return
        header = b"" if size else _line({"version": VERSION, "columns": COLUMNS})  # also after a deletion of the file
        rows = [[round(value, 6) if type(value) is float else value for value in _values(each)] for each in rounds]
        self.file.write(header + _line({"step": step, "rounds": rows}))


def _line(values: dict[str, Any]) -> bytes:
    return json.dumps(values, separators=(",", ":")).encode() + b"\n"


def read_rounds(lines: Iterable[dict[str, Any]]) -> Iterator[WorkerRound]:
    """The rounds in the lines of a ``workers.jsonl``. Columns unknown to this version are left out.

    Raises:
        ValueError: a column is missing, or a line has no rounds.
    """
    places: list[int] = []
    names: list[str] = []
    for line in lines:
        if "columns" in line:
            columns = line["columns"]
            missing = [name for name in COLUMNS if name not in columns and name not in ADDED]
            if missing:
                raise ValueError(f"workers.jsonl: column {missing[0]!r} is missing (version {line.get('version')})")
            places = [columns.index(name) for name in COLUMNS if name in columns]
            names = [name for name in COLUMNS if name in columns]
        elif not places or "rounds" not in line:
            raise ValueError("workers.jsonl: a line without rounds, or no columns before it")
        else:
            for row in line["rounds"]:
                yield WorkerRound(**dict(zip(names, (row[at] for at in places), strict=True)))
