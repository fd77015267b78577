"""The run's rounds as ``trace.json`` in Chrome's trace event format: open it in Perfetto or chrome://tracing.

Two tracks a worker. The first has what each step made of it: counted or missed, from the step's opening on. The second has
its rounds, which may be longer than a step: in each the link down, each partition (with the wait for its data and an
injected delay), work that a cut left unfinished, encoding, the link up; between two rounds the worker waits. Down and up are
measured together, and divided here by their bytes. The master's track has the steps. Marks: a deadline that was reached, a
cut row, a late message, a round that was dropped, a lost worker.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from gcdist.observe.files import GrowingFile, Trouble
from gcdist.observe.times import WorkerRound

MOST_BYTES = 64 << 20  # of the file: viewers are slow with larger ones
LEAST_WAIT = 1e-5  # seconds: shorter waits are not shown
ROUNDS = 100_000  # added to a worker's number: the track of its rounds
MOST_PARTS = 32  # partitions of a round that have a slice each; of more, one slice tells the number
_SEPARATOR = b",\n"


class Trace:
    """Adds the events of each step, until the file has ``most`` bytes; a last mark shows its end.

    The file is a JSON array that `close` ends; the viewers also take it without its end, as a kill leaves it. An existing
    file is continued.
    """

    def __init__(self, path: str | Path, trouble: Trouble | None = None, most: int = MOST_BYTES) -> None:
        self._named: set[int] = set()
        self._free: dict[int, float] = {}  # by worker: since when it waits
        self._most = most
        trouble = trouble or Trouble(lambda text: None)
        self.file = GrowingFile(Path(path), trouble, _SEPARATOR)  # cuts off the end of close(), or a half event

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
            free = self._free.get(each.worker, each.sent)
            if each.sent - free > LEAST_WAIT:
                events.append(_slice("wait", ROUNDS + each.worker, free, each.sent - free))
            events += _round(each)
            if each.end == "lost":
                self._free.pop(each.worker, None)
            else:
                self._free[each.worker] = each.sent + each.seconds
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
        self.file.write(events if self.file.size else b"[\n" + events)  # also after a deletion of the file


# formatted here, because json.dumps takes three times as long, and no name needs an escape


def _round(each: WorkerRound) -> list[str]:
    track = ROUNDS + each.worker
    done = each.load if each.done is None else each.done
    about = (
        f', "args": {{"step": {each.step}, "partitions": {each.load}, "done": {done}, "bytes up": {each.up}, '
        f'"bytes down": {each.down}, "compute s": {each.compute or 0.0:.6f}, "data s": {each.data or 0.0:.6f}}}'
    )
    events = [_slice(f"round: {each.end}", track, each.sent, each.seconds, about)]
    link, behind, held = each.link, each.sent + each.seconds, each.held
    if link is not None and held is not None:
        down = link * each.down / (each.down + each.up) if each.down + each.up else link / 2
        at = each.sent + down
        if down > 0:
            events.append(_slice("receive", track, each.sent, down))
        for name, begin, end in _at_worker(each, held):
            if end > begin:
                events.append(_slice(name, track, at + begin, end - begin))
        if link > down:
            events.append(_slice("upload", track, at + held, link - down))
        if each.ends and done < each.load:
            events.append(_mark(f"cut: {done} of {each.load} partitions", track, at + min(each.row, held)))
    mark = {"lost": "lost", "late": "late", "stale": "dropped its round", "failed": "failed"}.get(each.end)
    if mark is not None:
        events.append(_mark(f"worker {each.worker} {mark}", track, behind))
    return events


def _at_worker(each: WorkerRound, held: float) -> list[tuple[str, float, float]]:
    """What the worker did: (name, begin, end) in seconds since the receipt, in order."""
    if not each.ends:  # not known when each partition was done
        data = min(each.data or 0.0, held)
        computed = data + min(each.compute or 0.0, held - data)
        rest = "encode, delay" if each.compute else "work that was dropped"
        return [("data", 0.0, data), (f"compute {each.load} partitions", data, computed), (rest, computed, held)]
    found, at = [], 0.0
    for partition, end in sorted(each.ends, key=lambda one: one[1]):
        found.append((f"partition {partition}", at, min(end, held)))
        at = max(at, min(end, held))
    if len(found) > MOST_PARTS:
        found = [(f"compute {len(found)} partitions", 0.0, at)]
    row = max(at, min(each.row, held))
    return [*found, ("cut short", at, row), ("encode, delay", row, held)]


def _slice(name: str, track: int, start: float, seconds: float, more: str = "") -> str:
    at, length = round(start * 1e6), round(seconds * 1e6)
    return f'{{"name": "{name}", "ph": "X", "pid": 0, "tid": {track}, "ts": {at}, "dur": {length}{more}}}'


def _mark(name: str, track: int, at: float) -> str:
    return f'{{"name": "{name}", "ph": "i", "s": "t", "pid": 0, "tid": {track}, "ts": {round(at * 1e6)}}}'


def _name(track: int) -> str:
    rank = track % ROUNDS
    name = "master" if track == 0 else f"worker {rank}" if track < ROUNDS else f"worker {rank}, rounds"
    return f'{{"name": "thread_name", "ph": "M", "pid": 0, "tid": {track}, "args": {{"name": "{name}"}}}}'
