"""A run's last steps as a picture for a terminal, or as one plain line."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from statistics import median

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gcdist.observe.stream import StepRecord
from gcdist.observe.summary import bytes_text, metric_text
from gcdist.observe.times import WorkerRound

WINDOW = 50  # steps that rates are taken over
BAR = 10  # characters
WHOLE = 0.995  # of the data: from here on a loss is shown as that of all
ROWS = 24  # workers that are shown; of more, those that count least
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def bar(share: float, width: int = BAR) -> str:
    """A share from 0 to 1 as a bar of characters.

    >>> bar(0.5, 4), bar(0.3, 4), bar(1.0, 2)
    ('██  ', '█▎  ', '██')
    """
    eighths = round(8 * width * min(1.0, max(0.0, share)))
    full, rest = divmod(eighths, 8)
    return ("█" * full + (_EIGHTHS[rest] if rest else "")).ljust(width)


def length_text(seconds: float) -> str:
    """A time left, for people.

    >>> length_text(42), length_text(125), length_text(7300)
    ('42 s', '2 min 05 s', '2 h 01 min')
    """
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class Board:
    """Keeps the last steps of a run. Not for several threads at a time.

    Args:
        steps: of the run; None: not known.
    """

    def __init__(self, steps: int | None) -> None:
        self.steps = steps
        self.metrics: dict[str, float] = {}  # of the newest evaluation
        self.bytes_up = self.bytes_down = self.bytes_down_float32 = 0
        self._last: deque[StepRecord] = deque(maxlen=WINDOW)
        self._rounds: dict[int, deque[WorkerRound]] = {}

    @property
    def last(self) -> StepRecord | None:
        """The newest step."""
        return self._last[-1] if self._last else None

    def add(self, record: StepRecord) -> None:
        """Take in a step."""
        self._last.append(record)
        self.bytes_up += record.bytes_up
        self.bytes_down += record.bytes_down
        self.bytes_down_float32 += record.bytes_down_float32
        for each in record.rounds:
            self._rounds.setdefault(each.worker, deque(maxlen=WINDOW)).append(each)

    def evaluate(self, metrics: Mapping[str, float]) -> None:
        """Take in an evaluation."""
        self.metrics = dict(metrics)

    def left(self) -> float | None:
        """Seconds to the end at the pace of the last steps; None: not known."""
        if self.steps is None or len(self._last) < 2:
            return None
        first, last = self._last[0], self._last[-1]
        done = last.step - first.step
        return (self.steps - 1 - last.step) * (last.seconds - first.seconds) / done if done > 0 else None

    def line(self) -> str:
        """The newest step in one plain line."""
        last = self.last
        if last is None:
            return "no step yet"
        of = f"/{self.steps}" if self.steps is not None else ""
        told = "".join(f"  {metric_text(name, value)}" for name, value in last.metrics.items())
        part = "" if last.loss is None or last.loss_share > WHOLE else f" of {last.loss_share:.0%} of the data"
        whole = f" (float32 {bytes_text(self.bytes_down_float32)})" if self.bytes_down_float32 else ""
        text = (
            f"step {last.step + 1}{of}  loss {'-' if last.loss is None else format(last.loss, '.4f')}{part}{told}"
            f"  arrived {len(last.arrived)}/{last.live}"
            f"  up {bytes_text(self.bytes_up)}  down {bytes_text(self.bytes_down)}{whole}"
            f"  {last.seconds:.1f} s  deadline {_deadline(last)}"
        )
        return text + "".join(f"  {metric_text(name, value)}" for name, value in self.metrics.items())

    def picture(self, rows: int = ROWS) -> RenderableType:
        """All of it, with a line for each worker, for at most ``rows`` of them."""
        last = self.last
        if last is None:
            return Text("waiting for the first step")
        head = Table.grid(padding=(0, 1))
        left = self.left()
        until = "" if left is None else f"{length_text(left)} left"
        total = self.steps if self.steps is not None else last.step + 1
        head.add_row(ProgressBar(total=total, completed=last.step + 1, width=20), self.line(), until)
        return Group(head, self._deadlines(), self._workers(last, rows))

    def _deadlines(self) -> Text:
        took = median(record.step_seconds for record in self._last)
        at_deadline = sum(record.why == "deadline" for record in self._last)
        last = self._last[-1]
        return Text(
            f"deadline {_deadline(last)}, a step takes {took:.3g} s; {at_deadline} of the last {len(self._last)} steps "
            f"ended at it; up {bytes_text(last.bytes_up)}, down {bytes_text(last.bytes_down)} a step"
        )

    def _workers(self, last: StepRecord, rows: int) -> Table:
        table = Table(box=None, padding=(0, 1), pad_edge=False)
        for heading in ("worker", "counted", "", "finished", "", "at the worker", "on the link", ""):
            table.add_column(heading, justify="left" if heading in ("counted", "finished") else "right")
        rates = {worker: self._rate(worker) for worker in range(1, last.workers + 1)}
        shown = sorted(rates)
        if len(shown) > rows:
            shown = sorted(sorted(rates, key=lambda worker: rates[worker])[:rows])
        for worker in shown:
            rounds = self._rounds.get(worker, ())
            finished = sum(each.share for each in rounds) / len(rounds) if rounds else math.nan
            table.add_row(
                str(worker),
                *_share(rates[worker]),
                *_share(finished),
                _typical([each.held for each in rounds]),
                _typical([each.link for each in rounds]),
                "away" if worker in last.away else "",
                style="dim" if worker in last.away else "",
            )
        if len(shown) < last.workers:
            table.caption = f"the {len(shown)} of {last.workers} workers that count least"
        return table

    def _rate(self, worker: int) -> float:
        there = [record for record in self._last if worker not in record.away]
        return sum(worker in record.arrived for record in there) / len(there) if there else 0.0


def _deadline(record: StepRecord) -> str:
    return "none" if record.deadline is None or math.isinf(record.deadline) else f"{record.deadline:.3g} s"


def _share(share: float) -> tuple[str, str]:
    return (bar(share), f"{share:.0%}") if math.isfinite(share) else ("", "-")


def _typical(seconds: list[float | None]) -> str:
    known = [value for value in seconds if value is not None]
    return f"{median(known):.3g} s" if known else "-"
