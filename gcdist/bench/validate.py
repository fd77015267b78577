"""The simulator's error: every real run of a benchmark's folder against the same cell on a virtual clock.

Equal seeds give equal injected delays. The machine's constants come from other runs, and scale with the processor time
of a partition in the compared run. The comparison covers the time of the steps that both made, and the time to the
target.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

from gcdist.bench.cells import Cell, Outcome
from gcdist.bench.machine import Machine
from gcdist.bench.tables import Results

LEAST_STEPS = 10
FAR = 0.1


@dataclass(frozen=True, slots=True)
class Pair:
    """One run: seconds of ``steps`` steps, real and predicted."""

    scenario: str
    scheme: str
    seed: int
    workers: int
    steps: int
    real: float
    predicted: float
    real_target: float = math.nan
    predicted_target: float = math.nan
    cpu_seconds: float = math.nan  # processor time of a partition in the real run

    @property
    def error(self) -> float:
        """Relative."""
        return abs(self.predicted / self.real - 1)

    @property
    def target_error(self) -> float:
        """Of the time to the target, relative; NaN unless both reached it."""
        return abs(self.predicted_target / self.real_target - 1)

    def is_of(self, cell: Cell, real: Outcome) -> bool:
        """Whether this very run was predicted, and not repeated since."""
        same = cell.workers == self.workers and len(real.ends) >= self.steps
        return same and real.ends[self.steps - 1] == self.real


def compare(
    results: Results, predict: Callable[[Sequence[tuple[Cell, Outcome]]], Iterable[Outcome]], known: Sequence[Pair] = ()
) -> list[Pair]:
    """Predict every run of gcdist's own (the simulator has no DDP) that made at least ``LEAST_STEPS`` steps.

    ``predict`` takes cells with their real outcomes. ``known``: earlier predictions; only repeated runs are predicted
    again.
    """
    own = [(cell, real) for cell, real in results if cell.what.engine == "gcdist" and len(real.ends) >= LEAST_STEPS]
    before = {(pair.scenario, pair.scheme, pair.seed): pair for pair in known}
    found = {cell.place: pair for cell, real in own if (pair := before.get(_run_of(cell))) and pair.is_of(cell, real)}
    missing = [(cell, real) for cell, real in own if cell.place not in found]
    for (cell, real), predicted in zip(missing, predict(missing), strict=True):
        steps = min(len(real.ends), len(predicted.ends))
        if steps >= LEAST_STEPS:
            times = real.ends[steps - 1], predicted.ends[steps - 1], real.seconds, predicted.seconds, real.cpu_seconds
            found[cell.place] = Pair(*_run_of(cell), cell.workers, steps, *times)
    return [found[cell.place] for cell, _ in own if cell.place in found]


def _run_of(cell: Cell) -> tuple[str, str, int]:
    return f"{cell.problem}, {cell.scenario.name}", cell.scheme, cell.seed


def pair_rows(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """For JSON."""
    return [{**asdict(pair), "error": pair.error, "target_error": pair.target_error} for pair in pairs]


def read_pairs(path: Path) -> list[Pair]:
    """Pairs from the output of `pair_rows`."""
    rows = json.loads(path.read_text(encoding="utf-8"))
    for row in rows:
        row |= {key: math.nan for key in ("real_target", "predicted_target", "cpu_seconds") if row.get(key) is None}
    return [Pair(**{key: row[key] for key in Pair.__dataclass_fields__}) for row in rows]


def validation_lines(
    pairs: Sequence[Pair],
    by: Sequence[str] = ("scenario", "scheme"),
    machines: Mapping[str, Machine] | None = None,
) -> list[str]:
    """A Markdown table with a row for each value of the attributes ``by``; ``machines``: of each problem."""
    heads = *by, "runs", "cores", "real s", "predicted s", "median error", "worst", "time to target: median error"
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for key in dict.fromkeys(_key(pair, by) for pair in pairs):
        here = [pair for pair in pairs if _key(pair, by) == key]
        real, predicted = median(p.real for p in here), median(p.predicted for p in here)
        errors = [pair.error for pair in here]
        off = f"{median(errors):.1%} | {max(errors):.1%} | {_of_targets(here, 'median')}"
        cores = _slowness(here, machines or {})
        lines.append(f"| {' | '.join(key)} | {len(here)} | {cores} | {real:.2f} | {predicted:.2f} | {off} |")
    return lines


def summary(pairs: Sequence[Pair]) -> str:
    """The median and worst error of all runs, in a sentence or two."""
    if not pairs:
        return f"No run of {LEAST_STEPS} steps or more that the simulator could predict."
    errors = [pair.error for pair in pairs]
    text = f"All {len(pairs)} runs: median error {median(errors):.1%}, worst {max(errors):.1%}"
    far = sum(error > FAR for error in errors)
    text += f"; {far} more than {FAR:.0%} off." if far else "."
    return f"{text} Time to the target: {_of_targets(pairs, 'median')}, worst {_of_targets(pairs, 'worst')}."


def _slowness(pairs: Sequence[Pair], machines: Mapping[str, Machine]) -> str:
    """Processor time of a partition over that of the machine's measurement, least to most."""
    known = [(pair.cpu_seconds, machines.get(pair.scenario.partition(",")[0])) for pair in pairs]
    found = [seconds / machine.cpu_seconds for seconds, machine in known if machine and not math.isnan(seconds)]
    return f"{min(found):.2f}-{max(found):.2f}" if found else "-"


def _key(pair: Pair, by: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"`{pair.scheme}`" if name == "scheme" else str(getattr(pair, name)) for name in by)


def _of_targets(pairs: Sequence[Pair], what: Literal["median", "worst"]) -> str:
    errors = [pair.target_error for pair in pairs if not math.isnan(pair.target_error)]
    if not errors:
        return "-"
    return f"{median(errors) if what == 'median' else max(errors):.1%}"
