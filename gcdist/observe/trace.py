"""The run's rounds as ``trace.json`` in Chrome's trace event format: open it in Perfetto or chrome://tracing.

Two tracks a worker. The first has what each step made of it: counted or missed, from the step's opening on. The second has
its rounds, which may be longer than a step: in each the link down, waiting for data, computing, the rest of its time at the
worker (encoding, an injected delay), the link up. Down and up are measured together, and cut here by their bytes. Between
two rounds the worker waits. The master's track has the steps; marks are deadlines that were reached, and lost workers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from gcdist.observe.files import GrowingFile, Trouble
from gcdist.observe.times import WorkerRound

MOST_BYTES = 64 << 20  # of the file: viewers open no more with ease
ROUNDS = 100_000  # added to a worker's number: the track of its rounds
_SEPARATOR = b",\n"


class Trace:
    """Adds what happened in each step, until the file has ``most`` bytes; then a last mark says where it ends.

    The file is a JSON array that `close` ends; the viewers also take it without its end, as a kill leaves it. An existing
    file is continued.
    """

    def __init__(self, path: str | Path, trouble: Trouble | None = None, most: int = MOST_BYTES) -> None:
        self._named: set[int] = set()
        self._most = most
        trouble = trouble or Trouble(lambda text: None)
        self.file = GrowingFile(Path(path), trouble, _SEPARATOR)  # without the end that close() wrote, or a half event

    def step(
        self,
        step: int,
        opened: float,
        seconds: float,
        arrivals: Mapping[int, float],
        missing: tuple[int, ...] = (),
        why: str = "",
        rounds: Sequence[WorkerRound] = (),
    ) -> None:
        """One step.

        Args:
            step: its number.
            opened: seconds from the run's start to the opening.
            seconds: from the opening to the close.
            arrivals: seconds from the opening to the arrival, by rank.
            missing: ranks that were waited for and not counted.
            why: it was closed.
            rounds: of workers, that ended since the last step had ended.
        """
        if self.file.size >= self._most:
            return
        events = [_slice(f"step {step}", 0, opened, seconds)]
        if why in ("deadline", "count"):
            events.append(_mark(why, 0, opened + seconds))
        events += [_slice("counted", rank, opened, after) for rank, after in arrivals.items()]
        events += [_slice("missed", rank, opened, seconds) for rank in missing]
        for each in rounds:
            events += _round(each)
        tracks = {0, *arrivals, *missing, *(ROUNDS + each.worker for each in rounds)} - self._named
        self._named.update(tracks)
        self._add([_name(track) for track in sorted(tracks)] + events)
        if self.file.size >= self._most:
            text = f"trace.json ends here: it has {self._most >> 20} MB; workers.jsonl goes on"
            self._add([_mark(text, 0, opened + seconds)])

    def close(self) -> None:
        """End the array; idempotent."""
        if not self.file.closed:
            end = {"name": "process_name", "ph": "M", "pid": 0, "args": {"name": "gcdist"}}
            self._write(json.dumps(end).encode() + b"\n]\n")
            self.file.close()

    def _add(self, events: list[str]) -> None:
        self._write("".join(f"{event},\n" for event in events).encode())

    def _write(self, events: bytes) -> None:
        self.file.write(events if self.file.size else b"[\n" + events)  # also where the file was deleted meanwhile


# written by hand: json.dumps takes three times as long, and no name here needs an escape


def _round(each: WorkerRound) -> list[str]:
    track = ROUNDS + each.worker
    about = f', "args": {{"step": {each.step}, "partitions": {each.load}, "bytes up": {each.up}, "bytes down": {each.down}}}'
    events = [_slice(f"round: {each.end}", track, each.sent, each.seconds, about)]
    link, at = each.link, each.sent
    if link is not None and each.held is not None:
        down = link * each.down / (each.down + each.up) if each.down + each.up else link / 2
        data = min(each.data or 0.0, each.held)
        compute = min(each.compute or 0.0, each.held - data)
        rest = each.held - data - compute
        parts = (
            ("receive", down),
            ("data", data),
            (f"compute {each.load} partitions", compute),
            ("encode, delay" if each.compute else "work that was dropped", rest),
            ("upload", link - down),
        )
        for name, seconds in parts:
            if seconds > 0:
                events.append(_slice(name, track, at, seconds))
                at += seconds
    if each.end == "lost":
        events.append(_mark(f"worker {each.worker} lost", track, each.sent + each.seconds))
    return events


def _slice(name: str, track: int, start: float, seconds: float, more: str = "") -> str:
    at, length = round(start * 1e6), round(seconds * 1e6)
    return f'{{"name": "{name}", "ph": "X", "pid": 0, "tid": {track}, "ts": {at}, "dur": {length}{more}}}'


def _mark(name: str, track: int, at: float) -> str:
    return f'{{"name": "{name}", "ph": "i", "s": "t", "pid": 0, "tid": {track}, "ts": {round(at * 1e6)}}}'


def _name(track: int) -> str:
    rank = track % ROUNDS
    name = "master" if track == 0 else f"worker {rank}" if track < ROUNDS else f"worker {rank}, rounds"
    return f'{{"name": "thread_name", "ph": "M", "pid": 0, "tid": {track}, "args": {{"name": "{name}"}}}}'
