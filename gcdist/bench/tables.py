"""The results of the runs: medians and spreads over seeds, relative to `sync` and to DDP, as tables and as JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

from rich.console import Console
from rich.table import Table

from gcdist.bench.cells import Cell, Outcome, read_outcome
from gcdist.bench.problems import EXACT, get_problem
from gcdist.bench.schemes import SCHEMES
from gcdist.config import ConfigError

Results = Sequence[tuple[Cell, Outcome]]
PAYS, LOSES = 1.05, 0.95  # speed-ups between them are called even


@dataclass(frozen=True, slots=True)
class Entry:
    """One scheme under one scenario, over its seeds. Times in seconds; NaN if no run reached the target."""

    problem: str
    scenario: str
    scheme: str
    runs: int
    reached: int
    seconds: float  # median over the runs that reached it
    least: float
    most: float
    steps: float
    megabytes_up: float
    accuracy: float  # mean at the end of the run
    best_loss: float  # mean of the least loss
    arrived: float
    lr: float
    deadline: float | str
    share: int  # partitions of an even share
    budget: float
    status: str  # of most runs that did not reach it
    why: str

    @property
    def all_reached(self) -> bool:
        """Whether every run reached the target."""
        return self.reached == self.runs


def load_results(folder: Path) -> list[tuple[Cell, Outcome]]:
    """All runs of a benchmark's folder; ConfigError if it holds none."""
    found = [read_outcome(path) for path in sorted((folder / "cells").rglob("seed*.json"))]
    if not found:
        raise ConfigError(f"{folder}: holds no results of gcdist bench wallclock")
    order = {name: i for i, name in enumerate(SCHEMES)}
    return sorted(found, key=lambda run: (run[0].problem, run[0].delays, order.get(run[0].scheme, 99), run[0].seed))


def entries(results: Results) -> list[Entry]:
    """One entry for each problem, scenario and scheme, in the order of the results."""
    groups: dict[tuple[str, str, str], list[tuple[Cell, Outcome]]] = {}
    for cell, outcome in results:
        groups.setdefault((cell.problem, cell.scenario.name, cell.scheme), []).append((cell, outcome))
    return [_entry(*key, runs) for key, runs in groups.items()]


def _entry(problem: str, scenario: str, scheme: str, runs: list[tuple[Cell, Outcome]]) -> Entry:
    cell = runs[0][0]
    outcomes = [outcome for _, outcome in runs]
    arrived = [outcome for outcome in outcomes if outcome.status == "reached"]
    others = [outcome for outcome in outcomes if outcome.status != "reached"]
    times = [outcome.seconds for outcome in arrived]
    nothing = math.nan
    return Entry(
        problem,
        scenario,
        scheme,
        runs=len(runs),
        reached=len(arrived),
        seconds=median(times) if times else nothing,
        least=min(times, default=nothing),
        most=max(times, default=nothing),
        steps=median(o.steps for o in arrived) if arrived else nothing,
        megabytes_up=median(o.bytes_up for o in arrived) / 1e6 if arrived else nothing,
        accuracy=_mean(o.curve[-1][3] for o in outcomes if o.curve),
        best_loss=_mean(o.best for o in outcomes if o.curve),
        arrived=_mean(o.arrived for o in outcomes),
        lr=cell.lr,
        deadline=cell.deadline,
        share=cell.even_share,
        budget=cell.budget,
        status=others[0].status if others else "",
        why=others[0].why if others else "",
    )


def _mean(values: Iterable[float]) -> float:
    numbers = [value for value in values if not math.isnan(value)]
    return fmean(numbers) if numbers else math.nan


def speed_ups(results: Results, of: str) -> dict[tuple[str, str, str], tuple[float, float, float]]:
    """The speed-up of each scheme over the scheme ``of``, by seed: (geometric mean, least, most).

    Keys are (problem, scenario, scheme). Only seeds with which both reached the target count; a key without such a seed
    is absent.
    """
    times = {
        (cell.problem, cell.scenario.name, cell.scheme, cell.seed): outcome.seconds
        for cell, outcome in results
        if outcome.status == "reached"
    }
    ratios: dict[tuple[str, str, str], list[float]] = {}
    for (problem, scenario, scheme, seed), seconds in times.items():
        other = times.get((problem, scenario, of, seed))
        if other is not None:
            ratios.setdefault((problem, scenario, scheme), []).append(other / seconds)
    return {
        key: (math.exp(fmean(math.log(ratio) for ratio in found)), min(found), max(found))
        for key, found in ratios.items()
    }


def verdict(ratio: float) -> str:
    """A speed-up in words.

    >>> verdict(1.3), verdict(1.0), verdict(0.8)
    ('faster', 'even', 'slower')
    """
    return "faster" if ratio >= PAYS else "slower" if ratio <= LOSES else "even"


def time_text(entry: Entry) -> str:
    """The time of an entry, or the reason for its absence."""
    if entry.reached == 0:
        return f"> {entry.budget:g}" if entry.status == "budget" else entry.status
    text = f"{entry.seconds:.1f}"
    if entry.runs > 1:
        text += f" ({entry.least:.1f}-{entry.most:.1f})"
    return text if entry.all_reached else f"{text} [{entry.reached}/{entry.runs}]"


def ratio_text(entry: Entry, ratios: Mapping[tuple[str, str, str], tuple[float, float, float]]) -> str:
    """The speed-up of an entry with its range."""
    found = ratios.get((entry.problem, entry.scenario, entry.scheme))
    if found is None:
        return "-"
    middle, least, most = found
    spread = f" ({least:.2f}-{most:.2f})" if entry.runs > 1 else ""
    return f"{middle:.2f}{spread}"


def names(found: Sequence[Entry], what: str) -> list[str]:
    """The different values of an attribute, in order of appearance."""
    return list(dict.fromkeys(getattr(entry, what) for entry in found))


def in_registry_order(schemes: Iterable[str]) -> list[str]:
    """Schemes in the registry's order, then schemes of the results that are no longer registered."""
    order = {name: i for i, name in enumerate(SCHEMES)}
    return sorted(schemes, key=lambda name: order.get(name, len(order)))


def print_tables(results: Results, console: Console) -> None:
    """For the terminal: one table for each problem and scenario."""
    found = entries(results)
    to_sync, to_ddp = speed_ups(results, "sync"), speed_ups(results, "ddp")
    for problem in names(found, "problem"):
        here = [entry for entry in found if entry.problem == problem]
        for scenario in names(here, "scenario"):
            rows = {entry.scheme: entry for entry in here if entry.scenario == scenario}
            table = Table(title=f"{problem}, delays: {scenario}", title_justify="left", title_style="bold")
            table.add_column("scheme")
            for heading in (
                "s to target",
                "times sync",
                "times DDP",
                "steps",
                "MB up",
                "workers a step",
                "lr",
                "samples",
                "deadline",
            ):
                table.add_column(heading, justify="right")
            for name in in_registry_order(rows):
                entry = rows[name]
                table.add_row(
                    name,
                    time_text(entry),
                    ratio_text(entry, to_sync),
                    ratio_text(entry, to_ddp),
                    number(entry.steps, ".0f"),
                    number(entry.megabytes_up, ".2f"),
                    number(entry.arrived, ".1f"),
                    f"{entry.lr:g}",
                    samples_text(entry),
                    number(entry.deadline, ".3g"),
                )
            console.print(table)
    for line in remarks(results):
        console.print(line, soft_wrap=True, highlight=False)


def number(value: float | str, form: str) -> str:
    """A number, or a dash if there is none."""
    if isinstance(value, str):
        return value
    return "-" if math.isnan(value) else format(value, form)


def samples_text(entry: Entry) -> str:
    """Samples of a worker's even share in a step; "all" where gradients are exact."""
    problem = get_problem(entry.problem)
    return "all" if problem.batch_size >= EXACT else str(entry.share * problem.batch_size)


def remarks(results: Results) -> list[str]:
    """A line a scenario: whether coding pays there, and the schemes that cannot be recommended."""
    lines = []
    found = entries(results)
    ratios = speed_ups(results, "sync")
    for problem, scenario in dict.fromkeys((entry.problem, entry.scenario) for entry in found):
        here = [entry for entry in found if (entry.problem, entry.scenario) == (problem, scenario)]
        good = [entry for entry in here if entry.all_reached]
        coded = [entry for entry in _of_kind(good, "coded") if (problem, scenario, entry.scheme) in ratios]
        if not coded:
            continue
        best = max(coded, key=lambda entry: ratios[problem, scenario, entry.scheme][0])
        ratio = ratios[problem, scenario, best.scheme][0]
        text = f"{problem}, {scenario}: against waiting for all the fastest code, {best.scheme}, is {verdict(ratio)}"
        text += f" ({ratio:.2f} times)"
        biased = [entry for entry in _of_kind(good, "biased") if entry.seconds < best.seconds]
        if biased:
            winner = min(biased, key=lambda entry: entry.seconds)
            text += f"; {winner.scheme}, which is biased, is faster still ({winner.seconds:.1f} s)"
        if line := _cut_against_others(results, good):
            text += f"; {line}"
        missed = [entry.scheme for entry in here if not entry.all_reached]
        if missed:
            text += f"; the target was not always reached by {', '.join(in_registry_order(missed))}"
        lines.append(text)
    return lines


def _cut_against_others(results: Results, good: Sequence[Entry]) -> str:
    """The speed-up of cut rows over the best other scheme; "" if no scheme cuts, or no other reached the target."""
    of = {entry.scheme for entry in good if entry.scheme in SCHEMES}
    cut = [entry for entry in good if entry.scheme in of and SCHEMES[entry.scheme].cuts]
    others = [entry for entry in good if entry not in cut]
    if not cut or not others:
        return ""
    best, other = (min(group, key=lambda entry: entry.seconds) for group in (cut, others))
    found = speed_ups(results, other.scheme).get((best.problem, best.scenario, best.scheme))
    return (
        ""
        if found is None
        else f"cut rows ({best.scheme}) against the best of all others ({other.scheme}): {found[0]:.2f} times"
    )


def _of_kind(found: Iterable[Entry], kind: str) -> list[Entry]:
    return [entry for entry in found if entry.scheme in SCHEMES and SCHEMES[entry.scheme].kind == kind]


def results_json(results: Results) -> dict[str, Any]:
    """Entries, speed-ups and remarks."""
    ups = {of: speed_ups(results, of) for of in ("sync", "ddp")}
    rows = []
    for entry in entries(results):
        key = (entry.problem, entry.scenario, entry.scheme)
        rows.append({**asdict(entry), **{f"times_{of}": found.get(key) for of, found in ups.items()}})
    return {"entries": rows, "remarks": remarks(results)}
