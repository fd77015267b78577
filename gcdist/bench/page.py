"""`RESULTS.md`: hardware, versions, commands, every table and picture, written from a benchmark's folders."""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from gcdist.bench.first_screen import first_screen
from gcdist.bench.forecast import forecast, forecast_text
from gcdist.bench.machine import Machine, machines_in
from gcdist.bench.pace import pace_lines
from gcdist.bench.peers import ENGINES
from gcdist.bench.plots import loss_against_time, predictions, speed_up_by_workers, time_to_target
from gcdist.bench.problems import get_problem
from gcdist.bench.tables import (
    Entry,
    Results,
    entries,
    in_registry_order,
    load_results,
    names,
    number,
    ratio_text,
    remarks,
    samples_text,
    speed_ups,
)
from gcdist.bench.tables import time_text as text_of
from gcdist.bench.validate import Pair, read_pairs, summary, validation_lines

ABOUT = (
    "Written by `gcdist bench report`; do not edit. Every second counts from the first step on: warm-up, planning, every "
    "wait. Every run is one of real processes; schemes met the same data, initial weights, batches and delays (by seed, "
    "worker and step), and those of one command took turns. Step size, deadline and, for digits, the samples of a step were "
    "tuned for each scheme and delay model in the simulator, on seeds that are not these (DDP takes those of `sync`); a "
    "deadline may be too short where the machine is busier than the simulated one."
)


def commands_of(folders: Sequence[Path]) -> list[str]:
    """The commands that made these folders."""
    files = [folder / "commands.txt" for folder in folders]
    return [line for path in files if path.exists() for line in path.read_text(encoding="utf-8").splitlines()]


def write_page(folders: Sequence[Path], page: Path, pictures: Path) -> None:
    """The page and its pictures.

    Args:
        folders: of `gcdist bench wallclock`; the one with the most runs is the main one; folders with other numbers of
            workers and the same pace give the picture of speed-up against n.
        page: the Markdown file.
        pictures: folder for PNG files, below the page's.
    """
    loaded = sorted((load_results(folder) for folder in folders), key=len, reverse=True)
    main = loaded[0]
    lines = ["# Wall clock under stragglers", "", *first_screen(main, page, pictures), "## How it was measured", ""]
    lines += _head(main, commands_of(folders), [line for folder in folders for line in pace_lines(folder)])
    machines = {name: each for folder in folders for name, each in machines_in(folder).items()}
    for problem in dict.fromkeys(cell.problem for cell, _ in main):
        of_problem = [(cell, outcome) for cell, outcome in main if cell.problem == problem]
        lines += _problem(problem, of_problem, page, pictures, machines.get(problem))
    several = [(cell, outcome) for results in loaded for cell, outcome in results if cell.pace == main[0][0].pace]
    lines += _by_workers(several, page, pictures)
    lines += _validation(folders, page, pictures)
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _validation(folders: Sequence[Path], page: Path, pictures: Path) -> list[str]:
    """The simulator against these runs, if `gcdist bench validate` has compared them."""
    lines: list[str] = []
    every: list[Pair] = []
    for folder in folders:
        path = folder / "validation.json"
        if path.exists():
            pairs = read_pairs(path)
            about = (
                f"{folder.name}: seconds of the same steps with the same delays, real and predicted by the simulator. It "
                "knows the machine from short runs before these, and how fast its cores were during a run from the workers' "
                "processor clocks ('cores': processor time of a partition, over that in the short runs):"
            )
            machine = machines_in(folder)
            lines += [] if lines else ["## The simulator against these runs", ""]
            every += pairs
            lines += [about, ""]
            for by in ("scenario", "scheme"):
                lines += [*validation_lines(pairs, [by], machine), ""]
            lines += [summary(pairs), ""]
    if every:
        path = pictures / "predictions.png"
        predictions(every, path)
        lines += [f"![real against predicted]({path.relative_to(page.parent)})", ""]
    return lines


def _head(results: Results, commands: Sequence[str], paces: Sequence[str]) -> list[str]:
    cells = [cell for cell, _ in results]
    first = cells[0]
    seeds = sorted({cell.seed for cell in cells})
    engines = {cell.what.engine for cell in cells}
    peers = [name for name in ENGINES if name in engines]
    packages = ["torch", "numpy", "gcdist", *(name for name in peers if find_spec(name))]
    versions = [f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in packages)]
    return [
        ABOUT,
        "",
        f"- machine: {machine_text()}",
        f"- versions: {', '.join(versions)}",
        f"- {first.workers} workers and a master (DDP: {first.workers} ranks), one thread each; an even share of the data "
        f"takes at least {first.pace:g} s where delays are injected, and twice the data takes twice as long",
        *(f"- {line}" for line in dict.fromkeys(paces)),
        *(
            f"- {name}: step size and samples of `sync`, its timeout tuned by real runs of another seed"
            for name in peers
        ),
        f"- {len(seeds)} seeds; a run ends at the target, or after {first.budget:g} s",
        "",
        *(f"    {command}" for command in commands),
        "",
    ]


def machine_text() -> str:
    """This machine in a few words."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [line for line in info.read_text(encoding="utf-8").splitlines() if line.startswith("model name")]
        model = lines[0].partition(":")[2].strip() if lines else model
    return f"{model}, {os.cpu_count()} cores, shared by all processes"


def _problem(problem: str, results: Results, page: Path, pictures: Path, machine: Machine | None) -> list[str]:
    found = entries(results)
    scenarios = names(found, "scenario")
    schemes = in_registry_order(names(found, "scheme"))
    by = {(entry.scenario, entry.scheme): entry for entry in found}
    cell = results[0][0]
    about = {c.scenario.name: c.scenario.about for c, _ in results}
    curves, bars = pictures / f"{problem}_loss.png", pictures / f"{problem}_time.png"
    loss_against_time(results, problem, curves)
    time_to_target(results, problem, bars)
    lines = [f"## {problem}", "", f"{get_problem(problem).about}. Target: training loss {cell.target:g}.", ""]
    lines += [f"- {name}: {text}" for name, text in about.items()]
    lines += ["", *(f"- {line}" for line in remarks(results)), ""]
    lines += ["Seconds to the target, median (least-most); [reached/runs] where not all did:", ""]
    lines += _grid(schemes, scenarios, by, text_of)
    for of, title in (("sync", "waiting for all"), ("ddp", "DistributedDataParallel")):
        ratios = speed_ups(results, of)
        if ratios:
            lines += [
                "",
                f"Times faster than {title} (`{of}`), geometric mean (least-most); below 1: slower:",
                "",
            ]
            lines += _grid(schemes, scenarios, by, partial(ratio_text, ratios=ratios))
    lines += _beforehand(results, by, machine)
    for title, take in _MORE.items():
        lines += ["", f"{title}:", "", *_grid(schemes, scenarios, by, take)]
    lines += [
        "",
        *(f"![{text}]({path.relative_to(page.parent)})" for text, path in (("loss", curves), ("time", bars))),
        "",
    ]
    return lines


COMES = "auto"  # gcdist with its defaults


def _beforehand(results: Results, by: Mapping[tuple[str, str], Entry], machine: Machine | None) -> list[str]:
    """The doctor's forecast for the delays, beside the results."""
    ratios = speed_ups(results, "sync")
    first = {cell.scenario.name: cell for cell, _ in reversed(results) if cell.scheme == COMES}
    rows = []
    for scenario, cell in first.items():
        entry = by[scenario, COMES]
        if not entry.steps > 0:  # NaN: it never arrived
            continue
        worth = forecast(replace(cell, share=None), round(entry.steps), machine)
        if worth is not None:
            rows.append(f"| {scenario} | {forecast_text(worth)} | {ratio_text(entry, ratios)} |")
    if not rows:
        return []
    about = (
        "Beforehand: is it worth coding, and how many times faster than waiting for all, as `gcdist doctor` says from so "
        f"many steps of such delays, and as measured with `{COMES}`. The doctor chooses by the code of the run, from the "
        "times that the steps before have shown; what links take and the master between two steps it has from the short "
        "runs before these. How much partitions differ it does not know, so that it gives a range:"
    )
    return ["", about, "", "| delays | doctor | measured |", "|---|---|---|", *sorted(rows)]


def _loss(entry: Entry) -> str:
    return f"{number(entry.accuracy, '.1%')}, {number(entry.best_loss, '.2g')}"


_MORE: dict[str, Callable[[Entry], str]] = {
    "Steps to the target, and workers a step": lambda e: f"{number(e.steps, '.0f')}, {number(e.arrived, '.1f')}",
    "Megabytes sent by all workers until the target": lambda e: number(e.megabytes_up, ".2f"),
    "Test accuracy at the end, and the least training loss, means": _loss,
    "Step size, samples of a worker's even share in a step, and deadline in seconds, as tuned": lambda e: (
        f"{e.lr:g}, {samples_text(e)}, {number(e.deadline, '.3g')}"
    ),
}


def _grid(
    schemes: Sequence[str],
    scenarios: Sequence[str],
    by: Mapping[tuple[str, str], Entry],
    take: Callable[[Entry], str],
) -> list[str]:
    lines = ["| scheme | " + " | ".join(scenarios) + " |", "|---|" + "---|" * len(scenarios)]
    for scheme in schemes:
        cells = [take(by[scenario, scheme]) if (scenario, scheme) in by else "" for scenario in scenarios]
        lines.append(f"| `{scheme}` | " + " | ".join(cells) + " |")
    return lines


def _by_workers(results: Results, page: Path, pictures: Path) -> list[str]:
    """A picture for each problem and scenario with several numbers of workers in a scheme beside `sync`."""
    runs = dict.fromkeys((c.problem, c.scenario.name, c.scheme, c.workers) for c, _ in results if c.scheme != "sync")
    sizes = Counter(run[:3] for run in runs)
    lines: list[str] = []
    for problem, scenario in dict.fromkeys(run[:2] for run in runs if sizes[run[:3]] > 1):
        path = pictures / f"{problem}_{scenario}_workers.png"
        speed_up_by_workers(results, problem, scenario, path)
        lines += [f"![{problem}, {scenario}]({path.relative_to(page.parent)})", ""]
    return ["## Speed-up against the number of workers", "", *lines] if lines else []
