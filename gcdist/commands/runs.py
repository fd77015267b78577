"""`gcdist runs`: a table of run folders."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from gcdist.observe import plain
from gcdist.report.table import RunRow, run_folders, run_row
from gcdist.report.verdict import seconds_text

WIDTH = 160  # of a table that goes to a file
STYLES = {"running": "cyan", "done": "green", "halted": "red"}


def runs(
    places: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[FOLDER ...]", help="Run folders, or folders that hold some; by default runs."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False,
) -> None:
    """List run folders: when, task, scheme, steps, last loss, and whether a run goes on, is done, or was halted and why.

    Example: gcdist runs

    Example: gcdist runs /shared/runs runs/first
    """
    rows = [run_row(folder) for folder in run_folders(places or [Path("runs")])]
    rows.sort(key=lambda row: row.when or 0.0)
    if as_json:
        typer.echo(json.dumps(plain([row.as_dict() for row in rows])))
        return
    if not rows:
        print("no run folders there")
        return
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    console.print(_table(rows))
    for row in rows:
        for problem in row.problems:
            console.print(f"{row.folder}: {problem}", markup=False, highlight=False, soft_wrap=True)


def _table(rows: list[RunRow]) -> Table:
    table = Table("run", "when", "task", "scheme", "workers", "steps", "loss", "took", "state")
    for column in table.columns[4:8]:
        column.justify = "right"
    table.columns[0].overflow = table.columns[8].overflow = "fold"
    for row in rows:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(row.when)) if row.when else "-"
        steps = f"{row.steps}/{row.wanted}" if row.wanted else str(row.steps)
        loss = "-" if row.loss is None else f"{row.loss:.4g}"
        state = f"{row.state}: {row.why}" if row.why else row.state
        cells = (row.folder.name, when, row.task, row.scheme, str(row.workers), steps, loss, seconds_text(row.seconds))
        table.add_row(*cells, f"[{STYLES[row.state]}]{row.state}[/]{_escaped(state.removeprefix(row.state))}")
    return table


def _escaped(text: str) -> str:
    return text.replace("[", "\\[")
