"""The first screen of `RESULTS.md`: one table, one picture, five sentences, the losses among them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from gcdist.bench.plots import figure_of, save
from gcdist.bench.tables import LOSES, PAYS, Entry, Results, entries, names, speed_ups, time_text

OURS = "auto"  # gcdist as it comes
OTHERS = ("ddp", "torchft", "hivemind", "sync")
Ratios = Mapping[tuple[str, str, str], tuple[float, float, float]]


def first_screen(results: Results, page: Path, pictures: Path) -> list[str]:
    """The lines; none if the problem with the most runs was not run with `auto`.

    Args:
        results: of one benchmark; the problem with the most runs is shown.
        page: the Markdown file.
        pictures: folder for the picture, below the page's.
    """
    problem = shown_problem(results)
    found = [entry for entry in entries(results) if entry.problem == problem]
    scenarios = [s for s in names(found, "scenario") if any(e.scheme == OURS and e.scenario == s for e in found)]
    if not scenarios:
        return []
    by = {(entry.scenario, entry.scheme): entry for entry in found}
    shown = [name for name in OTHERS if any((s, name) in by for s in scenarios)]
    lines = [f"Seconds until {problem} is trained to the target, median (least-most), real processes:", ""]
    lines += [f"| delays | {' | '.join(f'`{name}`' for name in (*shown, OURS))} | fastest of all |"]
    lines += ["|---|" + "---|" * (len(shown) + 2)]
    for scenario in scenarios:
        cells = [time_text(by[scenario, n]) if (scenario, n) in by else "" for n in (*shown, OURS)]
        best = fastest(found, scenario)
        cells.append(f"`{best.scheme}`, {best.seconds:.1f}" if best else "nobody")
        lines.append(f"| {scenario} | {' | '.join(cells)} |")
    if "ddp" in shown:
        picture = pictures / "first.png"
        draw(results, problem, scenarios, shown, picture)
        lines += ["", f"![times faster than DDP, by delays]({picture.relative_to(page.parent)})"]
    return [*lines, "", *(f"{i}. {text}" for i, text in enumerate(sentences(results), 1)), ""]


def shown_problem(results: Results) -> str:
    """The problem with the most runs."""
    return Counter(cell.problem for cell, _ in results).most_common(1)[0][0]


def fastest(found: list[Entry], scenario: str) -> Entry | None:
    """The scheme with the least median among those that always reached the target."""
    here = [entry for entry in found if entry.scenario == scenario and entry.all_reached]
    return min(here, key=lambda entry: entry.seconds, default=None)


def sentences(results: Results) -> list[str]:
    """At most five: gain, best and worst case of `auto` against DDP, who beats it, and the missed targets."""
    problem = shown_problem(results)
    found = [entry for entry in entries(results) if entry.problem == problem]
    scenarios = [entry.scenario for entry in found if entry.scheme == OURS]
    ratios = speed_ups(results, "ddp")
    mine = {s: ratios[problem, s, OURS][0] for s in scenarios if (problem, s, OURS) in ratios}
    lines = []
    if mine:
        faster = [s for s in mine if mine[s] >= PAYS]
        best, worst = max(mine, key=lambda s: mine[s]), min(mine, key=lambda s: mine[s])
        lines.append(
            f"`{OURS}` is faster than DDP under {len(faster)} of the {len(mine)} kinds of delays where both arrive, "
            f"{mine[best]:.2f} times at best ({best})."
        )
        if mine[worst] <= LOSES:
            lines.append(f"It loses under {worst}: DDP is {1 / mine[worst]:.2f} times as fast.")
        else:
            lines.append(f"Its worst case is {worst}, {mine[worst]:.2f} times DDP's speed.")
    if beaten := _beaten(found, scenarios):
        lines.append(beaten)
    if told := _projects(found, problem, ratios):
        lines.append(told)
    missed = [f"`{e.scheme}` ({e.scenario}, {e.reached} of {e.runs})" for e in found if not e.all_reached]
    if missed:
        more = f" and {len(missed) - 6} more" if len(missed) > 6 else ""
        lines.append(f"The target was not always reached by {', '.join(missed[:6])}{more}.")
    else:
        lines.append("Every scheme reached the target in every run.")
    return lines


def _beaten(found: list[Entry], scenarios: list[str]) -> str:
    """Where another scheme is the fastest, and how much `auto` loses to it at worst."""
    by = {entry.scenario: entry for entry in found if entry.scheme == OURS and entry.all_reached}
    losses: list[tuple[float, str, str]] = []
    for scenario in scenarios:
        best = fastest(found, scenario)
        if best is not None and best.scheme != OURS and scenario in by:
            losses.append((by[scenario].seconds / best.seconds, scenario, best.scheme))
    if not losses:
        return f"Nobody is faster than `{OURS}`." if by else ""
    ratio, scenario, scheme = max(losses)
    return (
        f"Under {len(losses)} of {len(by)} another scheme is faster than `{OURS}`; it loses most to `{scheme}` "
        f"({scenario}), {ratio:.2f} times."
    )


def _projects(found: list[Entry], problem: str, ratios: Ratios) -> str:
    """torchft and hivemind in half a sentence each; "" where they were not run."""
    parts = []
    for name in ("torchft", "hivemind"):
        mine = [entry for entry in found if entry.scheme == name]
        if not mine:
            continue
        reached = sum(entry.all_reached for entry in mine)
        speeds = [ratios[problem, e.scenario, name][0] for e in mine if (problem, e.scenario, name) in ratios]
        text = f"{name} always reached the target under {reached} of {len(mine)}"
        parts.append(text + (f" ({min(speeds):.2f} to {max(speeds):.2f} times DDP's speed)" if speeds else ""))
    return f"{'; '.join(parts)}." if parts else ""


def draw(results: Results, problem: str, scenarios: list[str], others: list[str], path: Path) -> None:
    """Times faster than DDP by scenario, a bar a scheme, range over seeds; no bar where one of both did not arrive."""
    ratios = speed_ups(results, "ddp")
    figure, axis = figure_of(1.2 * len(scenarios) + 3, 3.6)
    schemes = [name for name in (*others, OURS) if name != "ddp"]
    width = 0.8 / len(schemes)
    for i, name in enumerate(schemes):
        points = [(x, ratios[problem, s, name]) for x, s in enumerate(scenarios) if (problem, s, name) in ratios]
        if not points:
            continue
        middle = np.array([r[0] for _, r in points])
        spread = np.array([[r[0] - r[1], r[2] - r[0]] for _, r in points]).T
        at = np.array([x for x, _ in points]) + (i - (len(schemes) - 1) / 2) * width
        shade = "0.25" if name == OURS else str(0.6 + 0.1 * i)
        axis.bar(at, middle, width, color=shade, edgecolor="black", linewidth=0.5, label=name)
        axis.errorbar(at, middle, yerr=np.maximum(spread, 0), color="black", fmt="none", capsize=2, linewidth=0.8)
    axis.axhline(1.0, color="0.3", linewidth=0.8)
    axis.set_xticks(range(len(scenarios)), scenarios, rotation=20, ha="right", fontsize=8)
    axis.set(ylabel="times faster than DDP", title=f"{problem}: below the line DDP is faster")
    axis.legend(frameon=False, fontsize=8)
    save(figure, path)
