"""`gcdist report`: one page of one run, or of several side by side."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from gcdist.config import ConfigError
from gcdist.observe import plain
from gcdist.report import judge, read_run, write_report


def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN [RUN ...]", help="Folders of runs, also of one that runs.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="The page; by default report.html in the (first) run's folder.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the verdicts with every worker's figures as JSON, and write no page.")
    ] = False,
) -> None:
    """Write report.html: who was slow and why, loss, arrivals, noise, bytes, deadline, events. It needs no network.

    Example: gcdist report runs/first

    Example: gcdist report runs/first runs/second --out compared.html
    """
    read = [read_run(path) for path in runs]
    judged = [judge(run) for run in read]
    if as_json:
        values = [
            {"run": run.path, "problems": run.problems, **asdict(verdict)}
            for run, verdict in zip(read, judged, strict=True)
        ]
        typer.echo(json.dumps(plain(values)))
        return
    page = out or runs[0] / "report.html"
    try:
        write_report([(run, verdict, []) for run, verdict in zip(read, judged, strict=True)], page)
    except OSError as error:
        raise ConfigError(f"report: {page} cannot be written: {error.strerror}") from None
    for run, verdict in zip(read, judged, strict=True):
        if len(read) > 1:
            print(f"{run.name}:")
        for line in verdict.lines():
            print(line)
        for problem in run.problems:
            print(f"gcdist: {run.name}: {problem}", file=sys.stderr)
    print(f"report: {page}")
