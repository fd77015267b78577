"""How well the simulator predicts: every real run of a benchmark's folder against the same cell on a virtual clock.

Seeds are the same, so the injected delays are the same numbers; the machine's constants were measured from runs that are
not compared. Compared is the time of as many steps as both made, and the time to the target.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

from gcdist.bench.cells import Cell, Outcome
from gcdist.bench.tables import Results

LEAST_STEPS = 10


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

    @property
    def error(self) -> float:
        """Relative."""
        return abs(self.predicted / self.real - 1)

    @property
    def target_error(self) -> float:
        """Of the time to the target, relative; NaN unless both reached it."""
        return abs(self.predicted_target / self.real_target - 1)


def compare(results: Results, predict: Callable[[Sequence[Cell]], Iterable[Outcome]]) -> list[Pair]:
    """Predict every run of gcdist's own (the simulator has no DDP) that made at least ``LEAST_STEPS`` steps."""
    own = [(cell, real) for cell, real in results if cell.what.engine == "gcdist" and len(real.ends) >= LEAST_STEPS]
    pairs = []
    for (cell, real), predicted in zip(own, predict([cell for cell, _ in own]), strict=True):
        steps = min(len(real.ends), len(predicted.ends))
        if steps >= LEAST_STEPS:
            times = real.ends[steps - 1], predicted.ends[steps - 1], real.seconds, predicted.seconds
            name = f"{cell.problem}, {cell.scenario.name}"
            pairs.append(Pair(name, cell.scheme, cell.seed, cell.workers, steps, *times))
    return pairs


def pair_rows(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """For JSON."""
    return [{**asdict(pair), "error": pair.error, "target_error": pair.target_error} for pair in pairs]


def read_pairs(path: Path) -> list[Pair]:
    """What was written from `pair_rows`."""
    rows = json.loads(path.read_text(encoding="utf-8"))
    for row in rows:
        row |= {key: math.nan for key in ("real_target", "predicted_target") if row.get(key) is None}
    return [Pair(**{key: row[key] for key in Pair.__dataclass_fields__}) for row in rows]


def validation_lines(pairs: Sequence[Pair]) -> list[str]:
    """A Markdown table by scenario and scheme, and the median and worst error of all."""
    lines = [
        "| scenario | scheme | runs | real s | predicted s | median error | worst | time to target: median error |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for key in dict.fromkeys((pair.scenario, pair.scheme) for pair in pairs):
        here = [pair for pair in pairs if (pair.scenario, pair.scheme) == key]
        real, predicted = median(p.real for p in here), median(p.predicted for p in here)
        errors = [pair.error for pair in here]
        off = f"{median(errors):.1%} | {max(errors):.1%} | {_of_targets(here, 'median')}"
        lines.append(f"| {key[0]} | `{key[1]}` | {len(here)} | {real:.2f} | {predicted:.2f} | {off} |")
    if pairs:
        errors = [pair.error for pair in pairs]
        lines += ["", f"All {len(pairs)} runs: median error {median(errors):.1%}, worst {max(errors):.1%}."]
        lines[-1] += f" Time to the target: {_of_targets(pairs, 'median')}, worst {_of_targets(pairs, 'worst')}."
    return lines


def _of_targets(pairs: Sequence[Pair], what: Literal["median", "worst"]) -> str:
    errors = [pair.target_error for pair in pairs if not math.isnan(pair.target_error)]
    if not errors:
        return "-"
    return f"{median(errors) if what == 'median' else max(errors):.1%}"
