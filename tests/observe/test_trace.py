"""``trace.json``: what a viewer shows of each round, whatever becomes of it, in a file that stays bounded."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gcdist.exchange.sidecar import Sidecar, ends_of
from gcdist.observe import WorkerRound
from gcdist.observe.times import End
from gcdist.observe.trace import MOST_PARTS, ROUNDS, Trace


def a_round(end: End, sent: float, done: int, ends: tuple[tuple[int, float], ...], row: float) -> WorkerRound:
    """Of 3 partitions: 1 s at the worker, 0.1 s on the link."""
    return WorkerRound(2, 7, end, sent, 1.1, 1.0, 0.6, 0.1, 3, 100, 100, done, ends, row)


def events_of(path: Path, rounds: list[WorkerRound]) -> list[dict[str, Any]]:
    with closing(Trace(path)) as trace:
        trace.step(7, 0.0, 1.2, {1: 1.0}, (2,), "deadline", rounds)
    events: list[dict[str, Any]] = json.loads(path.read_text())
    return events


def slices(events: list[dict[str, Any]]) -> list[tuple[str, float, float]]:
    """(name, start, end) in seconds, of worker 2's rounds."""
    return [
        (event["name"], event["ts"] * 1e-6, (event["ts"] + event["dur"]) * 1e-6)
        for event in events
        if event["ph"] == "X" and event["tid"] == ROUNDS + 2
    ]


def marks(events: list[dict[str, Any]]) -> list[tuple[str, float]]:
    return [(event["name"], round(event["ts"] * 1e-6, 6)) for event in events if event["ph"] == "i"]


def test_each_part_of_a_round_is_shown_and_the_wait_before_the_next(tmp_path: Path) -> None:
    whole = a_round("counted", 0.0, 3, ((5, 0.3), (1, 0.5), (4, 0.8)), 0.8)
    events = events_of(tmp_path / "trace.json", [whole, a_round("counted", 1.5, 3, whole.ends, 0.8)])
    found = slices(events)
    expected = [
        ("round: counted", 0.0, 1.1), ("receive", 0.0, 0.05), ("partition 5", 0.05, 0.35), ("partition 1", 0.35, 0.55),
        ("partition 4", 0.55, 0.85), ("encode, delay", 0.85, 1.05), ("upload", 1.05, 1.1), ("wait", 1.1, 1.5),
    ]  # fmt: skip
    assert [each[0] for each in found[:8]] == [each[0] for each in expected]
    for one, wanted in zip(found, expected, strict=False):
        assert one[1:] == pytest.approx(wanted[1:]), wanted
    [first] = [event for event in events if event["name"] == "round: counted" and event["ts"] == 0]
    assert (first["args"]["partitions"], first["args"]["done"], first["args"]["data s"]) == (3, 3, 0.1)
    assert marks(events) == [("deadline", 1.2)]


def test_cut_late_dropped_and_lost_rounds_are_marked(tmp_path: Path) -> None:
    cut = a_round("late", 0.0, 1, ((5, 0.3),), 0.9)
    lost = WorkerRound(3, 7, "lost", 0.0, 0.7, None, None, None, 3, 0, 100, 0)
    events = events_of(tmp_path / "trace.json", [cut, a_round("stale", 1.1, 0, (), 0.0), lost])
    names = [name for name, _, _ in slices(events)]
    assert names[:6] == ["round: late", "receive", "partition 5", "cut short", "encode, delay", "upload"]
    assert "wait" not in names
    assert marks(events) == [
        ("deadline", 1.2),
        ("cut: 1 of 3 partitions", 0.95),
        ("worker 2 late", 1.1),
        ("worker 2 dropped its round", 2.2),
        ("worker 3 lost", 0.7),
    ]


def test_parts_lie_within_their_round_and_many_are_one(tmp_path: Path) -> None:
    many = tuple((j, 0.01 * (j + 1)) for j in range(MOST_PARTS + 1))
    found = slices(events_of(tmp_path / "many.json", [a_round("counted", 0.0, 3, many, 9.0)]))
    assert [name for name, _, _ in found] == [
        "round: counted",
        "receive",
        f"compute {MOST_PARTS + 1} partitions",
        "cut short",
        "upload",
    ]
    wild = ((5, 7.0), (1, 0.2))  # a worker's word
    for name, start, end in slices(events_of(tmp_path / "wild.json", [a_round("counted", 0.0, 3, wild, 0.1)])):
        assert 0.0 <= start <= end <= 1.1 + 1e-9, name


def test_the_file_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    with closing(Trace(path, most=20_000)) as trace:
        for step in range(200):
            ends = ((5, 0.3), (1, 0.5), (4, 0.8))
            trace.step(step, 2.0 * step, 1.2, {2: 1.1}, (), "", [a_round("counted", 2.0 * step, 3, ends, 0.8)])
    assert path.stat().st_size < 25_000
    assert "trace.json ends here" in marks(json.loads(path.read_text()))[-1][0]


def test_the_ends_in_a_sidecar_are_anybodys_bytes() -> None:
    parts_P4 = np.array([[3.0, 0.5, 0.1, 0.25], [1.0, 0.4, 0.1, 0.5]])
    raw = Sidecar(parts_P4, row_seconds=0.75).pack()
    assert ends_of(raw) == (((3, 0.25), (1, 0.5)), 0.75)
    assert ends_of(raw[:100]) == ((), 0.0)
    assert ends_of(raw[:7]) == ((), 0.0)
    parts_P4[1, 3] = np.nan
    assert ends_of(Sidecar(parts_P4, row_seconds=0.75).pack()) == ((), 0.0)
