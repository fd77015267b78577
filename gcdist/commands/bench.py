"""`gcdist bench`: wall-clock time of every scheme under delays, by real processes."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from gcdist.bench.engine import Bench, note_command, prepare, run, validated
from gcdist.bench.machine import machines_in
from gcdist.bench.pace import pace_lines
from gcdist.bench.page import write_page
from gcdist.bench.peers import installed
from gcdist.bench.problems import PROBLEMS
from gcdist.bench.scenarios import BUILT_IN, FORMS
from gcdist.bench.schemes import SCHEMES
from gcdist.bench.tables import print_tables, results_json
from gcdist.bench.validate import pair_rows, summary, validation_lines
from gcdist.config import ConfigError
from gcdist.observe import plain

bench = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
SCHEMES_HELP = f'Names with commas between, or "all" that are installed; of {", ".join(SCHEMES)}.'
DELAYS_HELP = f"Names with commas between; of {', '.join(BUILT_IN)}, {FORMS}."
PROBLEM_HELP = f"What is trained; of {', '.join(PROBLEMS)}."
SAMPLES_HELP = (
    "Whether the samples of a step are tuned, where gradients are not exact; fewer make steps that wait shorter."
)
ONLY_TUNE_HELP = "Tune in the simulator and say what the runs will cost; the same command without it makes them."
CORES_HELP = "Processes that simulate; without it one for each core."
WIDTH = 120  # of tables that go to a file
QUICK = "ddp,sync,ignore-rescaled,osgc,joint-auto,auto"


@bench.callback()
def about() -> None:
    """Measure wall-clock time under stragglers, every wait counted."""


@bench.command("wallclock")
def wallclock(
    schemes: Annotated[str, typer.Option(help=SCHEMES_HELP)] = QUICK,
    delays: Annotated[str, typer.Option(help=DELAYS_HELP)] = "none,exponential",
    workers: Annotated[int, typer.Option(help="Workers, without the master.")] = 8,
    seeds: Annotated[int, typer.Option(help="Runs of each scheme under each delay model.")] = 3,
    problem: Annotated[str, typer.Option(help=PROBLEM_HELP)] = "digits",
    target: Annotated[float | None, typer.Option(help="Training loss to reach; without it the problem's own.")] = None,
    budget: Annotated[float, typer.Option(help="Seconds after which a run has missed the target.")] = 40.0,
    pace: Annotated[float, typer.Option(help="Least seconds of an even share of the data.")] = 0.05,
    out: Annotated[Path, typer.Option(help="Folder of the results; a benchmark that was stopped goes on.")] = Path(
        "runs/wallclock"
    ),
    cores: Annotated[int | None, typer.Option(help=CORES_HELP)] = None,
    samples: Annotated[bool, typer.Option("--tune-samples/--fixed-samples", help=SAMPLES_HELP)] = True,
    only_tune: Annotated[bool, typer.Option("--only-tune", help=ONLY_TUNE_HELP)] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON, nothing else.")] = False,
) -> None:
    """Time to a target loss, for every scheme under every delay model, with the same data, weights and delays.

    Step size, deadline and samples of a step are tuned for each scheme in the simulator first, on other seeds.

    Example: gcdist bench wallclock --schemes ddp,sync,joint --delays exponential,pareto --seeds 3 --out runs/mine
    """
    asked = Bench(
        problem=problem,
        schemes=tuple(installed(SCHEMES)) if schemes == "all" else _names(schemes, "schemes"),
        delays=_names(delays, "delays"),
        workers=workers,
        seeds=seeds,
        target=target,
        budget=budget,
        pace=pace,
        samples=samples,
    )
    to = sys.stderr if as_json else sys.stdout
    asked.check()
    using = cores or os.cpu_count() or 1
    if only_tune:
        prepare(asked, out, lambda line: print(line, file=to, flush=True), using)
        return
    note_command(out, shlex.join(["gcdist", *sys.argv[1:]]))
    results = run(asked, out, lambda line: print(line, file=to, flush=True), using)
    pairs = validated(out, using, anew=False)
    if as_json:
        typer.echo(json.dumps(plain({**results_json(results), "simulator": pair_rows(pairs)})))
    else:
        print_tables(results, Console(width=None if sys.stdout.isatty() else WIDTH))
        for line in pace_lines(out):
            print(line)
        print("the simulator against all runs of this folder (gcdist bench validate):")
        print(summary(pairs))
        print(f"results: {out}")


@bench.command("validate")
def validate(
    folder: Annotated[Path, typer.Argument(help="Folder of gcdist bench wallclock.")],
    cores: Annotated[int | None, typer.Option(help=CORES_HELP)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the pairs as JSON, nothing else.")] = False,
) -> None:
    """Predict every real run of a folder in the simulator, with the same seeds, and compare the times.

    Example: gcdist bench validate runs/wallclock
    """
    pairs = validated(folder, cores or os.cpu_count() or 1)
    text = "\n".join([*validation_lines(pairs, machines=machines_in(folder)), "", summary(pairs)])
    typer.echo(json.dumps(plain(pair_rows(pairs))) if as_json else text)


@bench.command("report")
def report(
    folders: Annotated[list[Path], typer.Argument(help="Folders of gcdist bench wallclock.")],
    page: Annotated[Path, typer.Option(help="The page to write.")] = Path("RESULTS.md"),
    pictures: Annotated[
        Path | None, typer.Option(help="Folder of its pictures; without it img beside the page.")
    ] = None,
) -> None:
    """Write a page of tables and pictures from results.

    Example: gcdist bench report runs/wallclock --page RESULTS.md
    """
    into = pictures or page.parent / "img"
    if not into.is_relative_to(page.parent):  # the page links to them
        raise ConfigError(f"--pictures: found {into}; should be a folder in that of the page, {page.parent}")
    write_page(folders, page, into)
    print(f"written: {page}")


def _names(text: str, what: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise ConfigError(f"{what}: found {text!r}; should be names with commas between")
    return names
