"""A run's last steps as a picture for a terminal, or as one plain line."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from statistics import median

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gcdist.observe.stream import StepRecord
from gcdist.observe.summary import bytes_text, metric_text
from gcdist.observe.times import WorkerRound

WINDOW = 50  # steps in the mean of rates
BAR = 10  # characters
WHOLE = 0.995  # of the data: a loss of at least this share is shown as that of all data
ROWS = 24  # most workers on the board: those that count least
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
    """The last steps of a run. For one thread at a time.

    Args:
        steps: of the run; None: not known.
        virtual: the steps' seconds are virtual; ``clock`` then gives the time left.
        clock: real seconds.
    """

    def __init__(self, steps: int | None, virtual: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self.steps = steps
        self.metrics: dict[str, float] = {}  # of the newest evaluation
        self.evaluated: int | None = None  # after so many steps
        self._virtual = virtual
        self._clock = clock
        self._ends: deque[float] = deque(maxlen=WINDOW)  # of the last steps, seconds of a clock on the wall
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
        self._ends.append(self._clock() if self._virtual else record.seconds)
        self.bytes_up += record.bytes_up
        self.bytes_down += record.bytes_down
        self.bytes_down_float32 += record.bytes_down_float32
        for each in record.rounds:
            self._rounds.setdefault(each.worker, deque(maxlen=WINDOW)).append(each)

    def evaluate(self, metrics: Mapping[str, float], steps: int | None = None) -> None:
        """Take in an evaluation, made after so many steps."""
        self.metrics, self.evaluated = dict(metrics), steps

    def rate(self) -> float | None:
        """Steps a second, of the last steps; None: not known."""
        if len(self._last) < 2:
            return None
        done, took = self._last[-1].step - self._last[0].step, self._ends[-1] - self._ends[0]
        return done / took if done > 0 and took > 0 else None

    def left(self) -> float | None:
        """Seconds to the end at the pace of the last steps; None: not known."""
        rate = self.rate()
        return None if self.steps is None or rate is None else (self.steps - 1 - self._last[-1].step) / rate

    def line(self) -> str:
        """The newest step in one plain line, with the time left if it is known."""
        last = self.last
        if last is None:
            return "no step yet"
        of = f"/{self.steps}" if self.steps is not None else ""
        told = "".join(f"  {metric_text(name, value)}" for name, value in last.metrics.items())
        whole = f" (float32 {bytes_text(self.bytes_down_float32)})" if self.bytes_down_float32 else ""
        noise = "" if last.noise_observed is None else f"  noise {last.noise_observed:.2g}"
        unit = "s virtual" if self._virtual else "s"
        return (
            f"step {last.step + 1}{of}  {_loss(last)}{told}"
            f"  arrived {len(last.arrived)}/{last.live}{noise}"
            f"  up {bytes_text(self.bytes_up)}  down {bytes_text(self.bytes_down)}{whole}"
            f"  {last.seconds:.1f} {unit}  deadline {_deadline(last)}{self._pace()}{self._evaluation()}"
        )

    def _pace(self) -> str:
        """Steps a second and the time left, in real seconds, also if the run's clock is virtual."""
        rate, left = self.rate(), self.left()
        text = "" if rate is None else f"  {rate:.3g} steps/s"
        return text + (f"  {length_text(left)} left" if left is not None and left > 0 else "")

    def _evaluation(self) -> str:
        """The newest evaluation, with its step: its loss is of other data and an older model than the step's."""
        if not self.metrics:
            return ""
        when = "" if self.evaluated is None else f" after step {self.evaluated}"
        return f"  evaluated{when}: {', '.join(metric_text(name, value) for name, value in self.metrics.items())}"

    def picture(self, rows: int = ROWS) -> RenderableType:
        """All of it, with a line for each worker, for at most ``rows`` of them."""
        last = self.last
        if last is None:
            return Text("waiting for the first step")
        head = Table.grid(padding=(0, 1))
        total = self.steps if self.steps is not None else last.step + 1
        head.add_row(ProgressBar(total=total, completed=last.step + 1, width=20), self.line())
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


def _loss(record: StepRecord) -> str:
    if record.loss is None:
        return "no loss: nothing to train on" if record.arrived else "no gradient: nobody arrived"
    part = "" if record.loss_share > WHOLE else f" of {record.loss_share:.0%} of the data"
    return f"loss {record.loss:.4f}{part}"


def _deadline(record: StepRecord) -> str:
    return "none" if record.deadline is None or math.isinf(record.deadline) else f"{record.deadline:.3g} s"


def _share(share: float) -> tuple[str, str]:
    return (bar(share), f"{share:.0%}") if math.isfinite(share) else ("", "-")


def _typical(seconds: list[float | None]) -> str:
    known = [value for value in seconds if value is not None]
    return f"{median(known):.3g} s" if known else "-"
