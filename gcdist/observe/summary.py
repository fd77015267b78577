"""The summary of a run, as a table for people and as values for ``summary.json``."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

MANY = 40  # workers in the table; beyond it, only those with the largest deviation
RARE = 0.1  # of the steps: a partition counted in fewer is shown in red
INJECTED = "injected delays"
PLAIN_WIDTH = 120  # characters of a summary as text
SUSPECT = 4.0  # sigmas: an arrival rate with a larger deviation disproves the planned one


@dataclass(frozen=True, slots=True)
class WorkerArrivals:
    """Arrival rate of one worker over the steps that promised one: planned is the mean of 1 - p.

    ``done`` is the share of its partitions that counted, on average over these steps; below ``observed`` where rows are cut.
    """

    rank: int
    steps: int
    planned: float
    observed: float
    sigmas: float  # (observed - planned) over its standard deviation under the promises
    done: float = 0.0


@dataclass(frozen=True, slots=True)
class PartitionCount:
    """A partition missing in some step; numbers of partitions begin at 0, as in ``data.holds``."""

    partition: int
    samples: float  # its share of them
    counted: int  # steps
    ago: int | None  # steps from its last count to the end of the run; None: never counted
    longest: int  # steps in a row without it


@dataclass(frozen=True, slots=True)
class Summary:
    """A finished run. Times in seconds; bytes as the links counted them."""

    scheme: str
    quantizer: str
    workers: int
    steps: int
    metrics: Mapping[str, float]  # of the task's own evaluation
    wall_seconds: float
    waiting_seconds: float | None  # estimated for a wait for all; None: no data for an estimate
    waiting_check: tuple[float, float] | None  # real `sync` steps: measured, and as estimated for the same steps
    arrivals: Sequence[WorkerArrivals]
    bytes_up: int
    bytes_up_float32: int  # the same messages with float32 payloads
    bytes_down: int
    bytes_down_float32: int  # the same with float32 parameters
    folder: Path
    evaluation_seconds: float = 0.0  # apart from the wall clock, as the next one
    checkpoint_seconds: float = 0.0
    notes: Sequence[str] = ()  # lines for the user's attention
    samples_counted: float = 1.0  # share of the samples that a step counted, mean over the steps
    steps_without_gradient: int = 0
    partitions_missed: int = 0  # partitions missing in some step
    partitions: Sequence[PartitionCount] = ()  # those with the fewest counts
    waiting_by: str = INJECTED  # source of ``waiting_seconds``; or "measured times"
    waiting_at_least: bool = False  # a lower bound, because some worker took longer than every wait
    virtual: bool = False  # the clock is that of `gcdist simulate`

    def as_dict(self) -> dict[str, Any]:
        """The values as plain dictionaries."""
        return asdict(self)

    def __str__(self) -> str:
        """The table that the command line prints: ``print(cluster.summary())``."""
        out = io.StringIO()
        print_summary(self, Console(file=out, width=PLAIN_WIDTH))
        return out.getvalue().rstrip()


def bytes_text(count: float) -> str:
    """A number of bytes for people, in powers of 1000.

    >>> bytes_text(999), bytes_text(12_345), bytes_text(9.9996e8)
    ('999 B', '12.3 kB', '1 GB')
    """
    units = ["B", "kB", "MB", "GB", "TB"]
    while count >= 999.5 and len(units) > 1:
        count /= 1000
        units.pop(0)
    return f"{count:.3g} {units[0]}"


def summary_table(summary: Summary) -> Group:
    """The summary to print with rich."""
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="bold")
    facts.add_column()
    for name, text in _facts(summary):
        facts.add_row(name, text)
    missed = (_partitions(summary), Text()) if summary.partitions else ()
    return Group(facts, Text(), *missed, _arrivals(summary.arrivals))


def print_summary(summary: Summary, console: Console | None = None) -> None:
    """Print the summary; the run's folder stands on a line of its own, never cut."""
    console = console or Console()
    console.print(summary_table(summary))
    console.print(f"\nrun folder: {summary.folder}", soft_wrap=True, markup=False, highlight=False)


def _facts(summary: Summary) -> list[tuple[str, str]]:
    facts = [("run", f"{summary.steps} steps of {summary.scheme}, {summary.workers} workers, {summary.quantizer}")]
    facts += [(_words(name), _number(name, value)) for name, value in summary.metrics.items()]
    facts.append(("virtual clock" if summary.virtual else "wall clock", f"{summary.wall_seconds:.1f} s"))
    apart = {"evaluation": summary.evaluation_seconds, "checkpoints": summary.checkpoint_seconds}
    if any(seconds >= 0.05 for seconds in apart.values()):
        facts.append(("not in it", ", ".join(f"{name} {seconds:.1f} s" for name, seconds in apart.items())))
    if summary.waiting_seconds is not None:
        times = f" ({summary.waiting_seconds / summary.wall_seconds:.2f} times)" if summary.wall_seconds > 0 else ""
        least = "at least " if summary.waiting_at_least else ""
        how = f"estimated {'at the same delays' if summary.waiting_by == INJECTED else f'by the {summary.waiting_by}'}"
        facts.append(("waiting for all", f"{least}{summary.waiting_seconds:.1f} s{times}, {how}"))
    if summary.waiting_check is not None:
        measured, estimated = summary.waiting_check
        off = f", off by {abs(estimated / measured - 1):.1%}" if measured > 0 else ""
        facts.append(("its check", f"real sync steps took {measured:.2f} s, estimated {estimated:.2f} s{off}"))
    for name, sent, whole in (
        ("bytes up", summary.bytes_up, summary.bytes_up_float32),
        ("bytes down", summary.bytes_down, summary.bytes_down_float32),
    ):
        less = f" ({whole / sent:.1f} times)" if sent else ""
        facts.append((name, f"{bytes_text(sent)}, in float32 {bytes_text(whole)}{less}"))
    if summary.partitions_missed or summary.steps_without_gradient:
        without = f"{_steps(summary.steps_without_gradient)} without a gradient"
        facts.append(("data counted", f"{summary.samples_counted:.1%} of the samples a step; {without}"))
    facts += [("note", line) for line in summary.notes]
    return facts


def metric_text(name: str, value: float) -> str:
    """A metric with its name, for people.

    >>> metric_text("test_accuracy", 0.97222)
    'test accuracy 97.22%'
    """
    return f"{_words(name)} {_number(name, value)}"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _number(name: str, value: float) -> str:
    return f"{value:.2%}" if name.endswith("accuracy") else f"{value:.4g}"


def _steps(count: int) -> str:
    """So many steps, in words.

    >>> _steps(1), _steps(0)
    ('1 step', '0 steps')
    """
    return f"{count} step" if count == 1 else f"{count} steps"


def _partitions(summary: Summary) -> Table:
    shown, all_of = len(summary.partitions), summary.partitions_missed
    of = f", {shown} of {all_of}" if shown < all_of else ""
    table = Table(title=f"partitions that were counted least{of}", title_justify="left", title_style="bold")
    for heading in ("partition", "samples", "counted", "last counted", "longest without"):
        table.add_column(heading, justify="right")
    for part in summary.partitions:
        ago = "never" if part.ago is None else "in the last step" if part.ago == 0 else f"{_steps(part.ago)} before"
        rate = part.counted / max(1, summary.steps)
        style = "red" if rate < RARE else ""
        cells = f"{part.samples:.1%}", f"{rate:.1%}", ago, _steps(part.longest)
        table.add_row(str(part.partition), *cells, style=style)
    return table


def _arrivals(arrivals: Sequence[WorkerArrivals]) -> Table:
    title = "arrival rate of each worker"
    if len(arrivals) > MANY:
        title = f"arrival rates furthest off their plans, {MANY} of {len(arrivals):,} workers (all: summary.json)"
        arrivals = sorted(arrivals, key=lambda worker: -abs(worker.sigmas) if worker.steps else 0.0)[:MANY]
    table = Table(title=title, title_justify="left", title_style="bold")
    for heading in ("worker", "steps", "planned", "observed", "sigmas off", "work done"):
        table.add_column(heading, justify="right")
    for worker in arrivals:
        if worker.steps == 0:
            table.add_row(str(worker.rank), "0", "-", "-", "-", "-")
            continue
        style = "red" if abs(worker.sigmas) > SUSPECT else ""
        rates = f"{worker.planned:.1%}", f"{worker.observed:.1%}", f"{worker.sigmas:+.1f}"
        table.add_row(str(worker.rank), str(worker.steps), *rates, f"{worker.done:.0%}", style=style)
    return table
