"""Pictures of a benchmark, readable without colour: line styles and markers tell the schemes apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gcdist.bench.cells import Outcome
from gcdist.bench.tables import Entry, Results, entries, in_registry_order, names, speed_ups
from gcdist.bench.validate import Pair
from gcdist.types import F64

STYLES = ["-", "--", "-.", ":"]
MARKERS = ["o", "s", "^", "D", "v", "x", "P", "*", "<", ">"]
SHOWN = ("ddp", "sync", "ignore", "erasurehead", "joint", "partial", "auto", "shifted-auto")
POINTS = 200  # of a curve
DPI = 110
TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)


def _pyplot() -> Any:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def _look(i: int) -> dict[str, Any]:
    return {
        "linestyle": STYLES[i % len(STYLES)],
        "marker": MARKERS[i % len(MARKERS)],
        "color": str(0.6 * (i % 3) / 2),
        "markersize": 4,
        "linewidth": 1.3,
    }


def loss_against_time(results: Results, problem: str, path: Path, shown: Sequence[str] = SHOWN) -> None:
    """One panel a scenario: least training loss so far against wall clock, median over the seeds of the shown schemes."""
    plt = _pyplot()
    here = [(cell, outcome) for cell, outcome in results if cell.problem == problem]
    scenarios = list(dict.fromkeys(cell.scenario.name for cell, _ in here))
    columns = min(3, len(scenarios))
    rows = -(-len(scenarios) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(max(8, 5 * columns), 3.6 * rows + 0.9), squeeze=False)
    for axis in axes.flat[len(scenarios) :]:
        axis.set_visible(False)
    lines: dict[str, Any] = {}
    for axis, scenario in zip(axes.flat, scenarios, strict=False):
        for i, scheme in enumerate(shown):
            runs = [o for c, o in here if c.scenario.name == scenario and c.scheme == scheme and len(o.curve) > 1]
            if runs:
                style = _look(i) | {"markevery": (7 * i, POINTS // 4)}
                (lines[scheme],) = axis.plot(*_median_curve(runs), **style)
        target = next(cell.target for cell, _ in here)
        axis.axhline(target, color="0.5", linewidth=0.7)
        axis.set(yscale="log", title=f"delays: {scenario}", xlabel="wall clock, s", ylabel="training loss")
        axis.set_xlim(left=0)
    figure.legend(
        lines.values(), lines.keys(), loc="lower center", ncols=min(3 + 2 * columns, len(lines)), frameon=False
    )
    figure.suptitle(f"{problem}: least loss so far against wall clock, median over seeds; the grey line is the target")
    figure.tight_layout(rect=(0, 0.1 / rows, 1, 1))
    save(figure, path)


def _median_curve(runs: Sequence[Outcome]) -> tuple[F64, F64]:
    """(POINTS,) seconds, until the median run ends, and the median of the runs' least losses until then."""
    seconds = np.linspace(0, float(np.median([run.curve[-1][1] for run in runs])), POINTS)
    least = []
    for run in runs:
        at, loss = np.array([row[1] for row in run.curve]), np.array([row[2] for row in run.curve])
        least.append(np.fmin.accumulate(loss)[np.searchsorted(at, seconds, side="right") - 1])
    return seconds, np.median(least, axis=0)


def time_to_target(results: Results, problem: str, path: Path) -> None:
    """Bars with spread: seconds to the target by scheme, one panel a scenario; no bar without the target."""
    plt = _pyplot()
    found = [entry for entry in entries(results) if entry.problem == problem]
    scenarios = names(found, "scenario")
    schemes = in_registry_order(names(found, "scheme"))
    columns = min(4, len(scenarios))
    rows = -(-len(scenarios) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(3.4 * columns + 1, (0.23 * len(schemes) + 1.1) * rows), squeeze=False, sharey=True
    )
    for axis in axes.flat[len(scenarios) :]:
        axis.set_visible(False)
    for axis, scenario in zip(axes.flat, scenarios, strict=False):
        mine = {entry.scheme: entry for entry in found if entry.scenario == scenario}
        _bars(axis, [mine.get(scheme) for scheme in schemes])
        axis.set_yticks(range(len(schemes)), schemes, fontsize=8)
        axis.set(title=scenario, xlabel="s to target")
        axis.invert_yaxis() if axis is axes.flat[0] else None
    figure.suptitle(f"{problem}: time to target, median and range over seeds")
    figure.tight_layout()
    save(figure, path)


def _bars(axis: Any, found: Sequence[Entry | None]) -> None:
    longest = max((entry.most for entry in found if entry is not None and entry.reached), default=1.0)
    for place, entry in enumerate(found):
        if entry is None:
            axis.text(0.02 * longest, place, "not run", va="center", fontsize=7, color="0.5")
            continue
        if not entry.reached:
            axis.text(0.02 * longest, place, entry.status or "-", va="center", fontsize=7, style="italic")
            continue
        shade = "0.35" if entry.scheme.startswith("ddp") or entry.scheme == "sync" else "0.75"
        axis.barh(place, entry.seconds, color=shade, edgecolor="black", linewidth=0.5)
        spread = np.array([[entry.seconds - entry.least], [entry.most - entry.seconds]])
        axis.errorbar(entry.seconds, place, xerr=spread, color="black", capsize=2, linewidth=0.8)
        if not entry.all_reached:
            axis.text(entry.most * 1.03, place, f"{entry.reached}/{entry.runs}", va="center", fontsize=7)


def predictions(pairs: Sequence[Pair], path: Path) -> None:
    """Seconds of the same steps, real against predicted, a marker a scenario, with a band of 10% either way."""
    plt = _pyplot()
    figure, axis = plt.subplots(figsize=(6.4, 5.6))
    scenarios = list(dict.fromkeys(pair.scenario for pair in pairs))
    for i, scenario in enumerate(scenarios):
        here = [pair for pair in pairs if pair.scenario == scenario]
        look = _look(i) | {"linestyle": "", "markersize": 5, "markerfacecolor": "none"}
        axis.plot([pair.predicted for pair in here], [pair.real for pair in here], label=scenario, **look)
    seconds = [second for pair in pairs for second in (pair.real, pair.predicted)]
    ends = np.array([0.8 * min(seconds), 1.25 * max(seconds)])
    axis.plot(ends, ends, color="black", linewidth=0.7)
    axis.fill_between(ends, 0.9 * ends, 1.1 * ends, color="0.88", linewidth=0, zorder=0)
    axis.set(xscale="log", yscale="log", xlabel="predicted, s", ylabel="real, s", title="The simulator; grey: 10% off")
    ticks = [tick for tick in TICKS if ends[0] <= tick <= ends[1]]
    for side in (axis.xaxis, axis.yaxis):
        side.set_major_locator(plt.FixedLocator(ticks))
        side.set_major_formatter(plt.ScalarFormatter())
        side.set_minor_formatter(plt.NullFormatter())
    axis.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    save(figure, path)


def speed_up_by_workers(results: Results, problem: str, scenario: str, path: Path, of: str = "sync") -> None:
    """Speed-up over waiting for all against the number of workers, geometric mean and range over seeds."""
    plt = _pyplot()
    sizes = sorted({cell.workers for cell, _ in results})
    figure, axis = plt.subplots(figsize=(6, 4))
    tables = {n: speed_ups([(c, o) for c, o in results if c.workers == n], of) for n in sizes}
    schemes = in_registry_order({cell.scheme for cell, _ in results} - {of})
    found = {
        scheme: [(n, tables[n][problem, scenario, scheme]) for n in sizes if (problem, scenario, scheme) in tables[n]]
        for scheme in schemes
    }
    for i, (scheme, points) in enumerate((scheme, points) for scheme, points in found.items() if len(points) > 1):
        aside = 0.1 * i  # else spreads hide each other
        n, middle = [p[0] + aside for p in points], np.array([p[1][0] for p in points])
        spread = np.array([[p[1][0] - p[1][1], p[1][2] - p[1][0]] for p in points]).T
        axis.errorbar(n, middle, yerr=np.maximum(spread, 0), label=scheme, capsize=3, elinewidth=0.8, **_look(i))
    axis.axhline(1.0, color="0.5", linewidth=0.7)
    axis.set(xlabel="workers", ylabel=f"times faster than {of}", title=f"{problem}, delays: {scenario}")
    axis.set_xticks(sizes)
    axis.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    save(figure, path)


def figure_of(width: float, height: float) -> tuple[Any, Any]:
    """A figure of so many inches, and its axis."""
    return _pyplot().subplots(figsize=(width, height), layout="constrained")  # type: ignore[no-any-return]


def save(figure: Any, path: Path) -> None:
    """Write the PNG and forget the figure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)
    _pyplot().close(figure)
