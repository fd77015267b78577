"""`gcdist watch`: the live view of a run that another process writes."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from gcdist.config import ConfigError
from gcdist.observe import Board, FolderTail, Progress, plain
from gcdist.report import judge, read_run
from gcdist.report.reading import Run

SHOWN = ("members", "error", "drop", "fault", "warning", "checkpoint", "plan", "end")  # kinds of events
ROWS = 40


def watch(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run, also on a shared disk.")],
    every: Annotated[float, typer.Option(help="Seconds between two looks at the folder.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Show what there is now, with the verdict, and end.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a line of JSON a step; with --once the newest.")
    ] = False,
) -> None:
    """Watch a run from another shell: arrivals, seconds at the worker and on the link, deadline, bytes; until it ends.

    On a terminal a live picture, elsewhere a plain line every some steps; a virtual clock is said to be one. Ctrl-C ends the
    watching, not the run.

    Example: gcdist watch runs/first

    Example: gcdist watch runs/first --once
    """
    if not 0.05 <= every <= 3600:
        raise ConfigError(f"watch --every: found {every:g}; should be 0.05 to 3600 seconds")
    found = read_run(run)
    tail = FolderTail(run, found.workers)
    if once:
        _show_once(found, tail, as_json)
        return
    try:
        if as_json:
            _follow_json(run, tail, every)
        else:
            _follow(run, found, tail, every)
    except KeyboardInterrupt:
        return


def _show_once(run: Run, tail: FolderTail, as_json: bool) -> None:
    board = Board(run.wanted, run.virtual, _no_clock)
    for record in tail.steps():
        board.add(record)
    for step, _, metrics in tail.evaluations():
        board.evaluate(metrics, step)
    if as_json:
        typer.echo(json.dumps(plain(asdict(board.last) if board.last is not None else {})))
        return
    console = Console()
    console.print(board.picture(ROWS))
    for line in judge(run).lines():
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _no_clock() -> float:
    """Real seconds of the steps of a virtual clock: the folder does not have them, so no pace is shown."""
    return 0.0


def _follow_json(path: Path, tail: FolderTail, every: float) -> None:
    while True:
        over = read_run(path).state()[0] != "running"
        for record in tail.steps():
            print(json.dumps(plain(asdict(record)), separators=(",", ":")), flush=True)
        if over:
            return
        time.sleep(every)


def _follow(path: Path, run: Run, tail: FolderTail, every: float) -> None:
    progress = Progress(run.wanted, Console(), virtual=run.virtual, clock=_no_clock)
    state, why = run.state()
    try:
        while True:
            records = tail.steps()
            if tail.rewound:
                progress.note("the run has gone back to its newest checkpoint")
            for record in records:
                progress.step(record)
            for step, seconds, metrics in tail.evaluations():
                progress.evaluation(step, seconds, metrics)
            for kind, text in tail.events():
                if kind in SHOWN:
                    progress.note(f"{kind}: {text}")
            if state != "running":
                break
            time.sleep(every)
            state, why = read_run(path).state()
    finally:
        progress.close()
    print(f"the run is {state}{f': {why}' if why else ''}")
    for line in judge(read_run(path)).lines():
        print(line)
