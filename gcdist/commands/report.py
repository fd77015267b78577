"""`gcdist report`: one page of one run, or of several side by side."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from gcdist.config import ConfigError
from gcdist.observe import plain
from gcdist.report import Run, judge, read_run, write_report
from gcdist.report.whatif import outcomes, usual_changes

USUAL = "usual"  # changes that most people ask about


def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN [RUN ...]", help="Folders of runs, also of one that is running.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="The page; by default report.html in the (first) run's folder.")
    ] = None,
    what_if: Annotated[
        list[str] | None,
        typer.Option(
            "--what-if",
            metavar="CHANGES",
            help="Replay the recorded times with other settings: KEY=VALUE with commas between, again and again; "
            f'"{USUAL}": half and twice the deadline, learned, waiting, other codes and bits. Some seconds each.',
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the verdicts with every worker's figures as JSON, and write no page.")
    ] = False,
) -> None:
    """Write report.html: who was slow and why, loss, arrivals, noise, bytes, deadline, events. It needs no network.

    Example: gcdist report runs/first

    Example: gcdist report runs/first runs/second --out compared.html

    Example: gcdist report runs/first --what-if straggler.deadline=0.3 --what-if code.scheme=sync,straggler.deadline=wait
    """
    read = [read_run(path) for path in runs]
    judged = [judge(run) for run in read]
    replayed = [_what_if(run, what_if or []) for run in read]
    if as_json:
        values = [
            {"run": run.path, "problems": run.problems, **asdict(verdict), "what_if": [asdict(each) for each in whatif]}
            for run, verdict, whatif in zip(read, judged, replayed, strict=True)
        ]
        typer.echo(json.dumps(plain(values)))
        return
    page = out or runs[0] / "report.html"
    try:
        write_report(list(zip(read, judged, replayed, strict=True)), page)
    except OSError as error:
        raise ConfigError(f"report: {page} cannot be written: {error.strerror}") from None
    for run, verdict, whatif in zip(read, judged, replayed, strict=True):
        if len(read) > 1:
            print(f"{run.name}:")
        for line in (*verdict.lines(), *(each.line() for each in whatif)):
            print(line)
        for problem in run.problems:
            print(f"gcdist: {run.name}: {problem}", file=sys.stderr)
    print(f"report: {page}")


def _what_if(run: Run, wanted: list[str]) -> list[Any]:
    if not wanted:
        return []
    changes: list[list[str]] = []
    for text in wanted:
        changes += usual_changes(run) if text == USUAL else [_parted(text)]
    return outcomes(run, changes, lambda line: print(f"gcdist: {line}", file=sys.stderr, flush=True))


def _parted(text: str) -> list[str]:
    """KEY=VALUE with commas between; a comma within a value's brackets or quotes stays.

    >>> _parted('code.scheme="sync",straggler.deadline=wait'), _parted("straggler.p=[0.1,0.2]")
    (['code.scheme="sync"', 'straggler.deadline=wait'], ['straggler.p=[0.1,0.2]'])
    """
    parts: list[str] = []
    for piece in text.split(","):
        whole = not parts or (parts[-1].count("[") <= parts[-1].count("]") and parts[-1].count('"') % 2 == 0)
        if whole:
            parts.append(piece)
        else:
            parts[-1] += f",{piece}"
    return [part.strip() for part in parts if part.strip()]
