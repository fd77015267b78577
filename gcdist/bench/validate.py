"""How well the simulator predicts: every real run of a benchmark's folder against the same cell on a virtual clock.

Seeds are the same, so the injected delays are the same numbers. Compared is the time of as many steps as both made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from gcdist.bench.cells import Cell, Outcome
from gcdist.bench.tables import Results


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

    @property
    def error(self) -> float:
        """Relative."""
        return abs(self.predicted / self.real - 1)


def compare(results: Results, run: Callable[[Cell], Outcome]) -> list[Pair]:
    """Predict every run of gcdist's own (the simulator has no DDP) that made at least ten steps."""
    pairs = []
    for cell, real in results:
        if cell.what.engine != "gcdist" or len(real.ends) < 10:
            continue
        predicted = run(cell)
        steps = min(len(real.ends), len(predicted.ends))
        if steps >= 10:
            times = real.ends[steps - 1], predicted.ends[steps - 1]
            pairs.append(Pair(cell.scenario.name, cell.scheme, cell.seed, cell.workers, steps, *times))
    return pairs


def validation_lines(pairs: Sequence[Pair]) -> list[str]:
    """A Markdown table by scenario and scheme, and the median and worst error of all."""
    lines = [
        "| scenario | scheme | runs | real s | predicted s | median error | worst |",
        "|---|---|---|---|---|---|---|",
    ]
    for key in dict.fromkeys((pair.scenario, pair.scheme) for pair in pairs):
        here = [pair for pair in pairs if (pair.scenario, pair.scheme) == key]
        real, predicted = median(p.real for p in here), median(p.predicted for p in here)
        errors = [pair.error for pair in here]
        off = f"{median(errors):.1%} | {max(errors):.1%}"
        lines.append(f"| {key[0]} | `{key[1]}` | {len(here)} | {real:.2f} | {predicted:.2f} | {off} |")
    if pairs:
        errors = [pair.error for pair in pairs]
        lines += ["", f"All {len(pairs)} runs: median error {median(errors):.1%}, worst {max(errors):.1%}."]
    return lines
