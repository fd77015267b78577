"""`gcdist train` and `gcdist simulate`: the same loop over a cluster of processes or over a virtual clock."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from gcdist.api import connect, simulate
from gcdist.commands.tables import workers_table
from gcdist.config import Config, ConfigError, load_config
from gcdist.exchange.signals import on_signals
from gcdist.last_words import COMMAND, leave
from gcdist.master.port import Say
from gcdist.observe import Progress, Summary, plain, print_summary
from gcdist.report import judge, read_run
from gcdist.report.verdict import WORDS
from gcdist.run.cluster import Cluster
from gcdist.run.session import load_user_task
from gcdist.tasks import Task
from gcdist.types import RunStoppedError

ConfigFile = Annotated[
    Path, typer.Argument(help="Settings of the run (TOML); examples/reference.toml shows every key.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one setting: --set straggler.deadline=0.5"),
]
Resume = Annotated[
    Path | None,
    typer.Option(
        metavar="RUNFOLDER",
        help="Continue the run of this folder from its newest checkpoint, or begin it at step 0 if there is none: one "
        "command for every start of a job.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the summary as JSON on standard output, nothing else.")]


def make_optimizer(config: Config, task: Task) -> torch.optim.Optimizer:
    """The optimizer that the settings name."""
    wanted, parameters = config.optimizer, task.model.parameters()
    if wanted.name == "sgd":
        return torch.optim.SGD(parameters, wanted.lr, momentum=wanted.momentum, weight_decay=wanted.weight_decay)
    kind = torch.optim.Adam if wanted.name == "adam" else torch.optim.AdamW
    return kind(parameters, wanted.lr, weight_decay=wanted.weight_decay)


class Configured:
    """An optimizer as a checkpoint keeps it: its state is the run's, its settings are always those of the config."""

    begins_anew = True  # where the checkpoint has one of another kind

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self.kind = type(optimizer).__name__

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's."""
        return self._optimizer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The optimizer's state, without the settings in it."""
        settings = [{k: v for k, v in group.items() if k != "params"} for group in self._optimizer.param_groups]
        self._optimizer.load_state_dict(state_dict)
        for group, own in zip(self._optimizer.param_groups, settings, strict=True):
            group.update(own)


class _Relay:
    """The master's log lines go where the progress is shown, once there is one; the run's events have them all."""

    def __init__(self) -> None:
        self._held: list[str] = []
        self._to: Callable[[str], None] = self._held.append

    def __call__(self, kind: str, text: str) -> None:
        self._to(f"{kind}: {text}")

    def show(self, to: Callable[[str], None]) -> None:
        """From now on lines go there, the ones so far first."""
        self._to = to
        for line in self._held:
            to(line)
        self._held.clear()


def train(config: ConfigFile, overrides: Overrides = None, as_json: Json = False, resume: Resume = None) -> None:
    """Train on processes that torchrun (or another launcher) has started: rank 0 is the master, the others are workers.

    Example: torchrun --standalone --nproc-per-node=9 --no-python gcdist train examples/digits.toml
    """
    _run(
        config, overrides, as_json, lambda task, settings, say: connect(task, settings, say=say, resume=resume or False)
    )


def simulated(config: ConfigFile, overrides: Overrides = None, as_json: Json = False, resume: Resume = None) -> None:
    """The same run on a virtual clock, in this process: real gradients, simulated workers, delays and network.

    Example: gcdist simulate examples/digits.toml --set cluster.workers=8
    """
    torch.set_num_threads(1)  # partitions are small; threads would fight over them
    stops: list[str] = []  # signals that ask the run to end: between two steps, behind a checkpoint
    undo = on_signals(lambda name, number: stops.append(name))
    try:
        _run(
            config,
            overrides,
            as_json,
            lambda task, settings, say: simulate(task, settings, say=say, resume=resume or False),
            stops,
        )
    finally:
        undo()


def _run(
    path: Path,
    overrides: list[str] | None,
    as_json: bool,
    start: Callable[[Task, Config, Say], Cluster],
    stops: Sequence[str] = (),
) -> None:
    config = load_config(path, overrides or [])
    task = load_user_task(config, path.resolve().parent)
    relay = _Relay()
    with start(task, config, relay) as cluster:
        # a worker ends inside start(): only the master comes here
        cluster.again = again(cluster.folder.path, sys.argv[1:])
        leave("run", f"its run folder is {cluster.folder.path}; {cluster.again}")
        console = Console(quiet=as_json)
        if not as_json:
            _show(console, f"run folder: {cluster.folder.path}")
        try:
            summary = train_loop(cluster, task, relay, console, stops)
        except RunStoppedError as stop:
            print(f"gcdist: {stop}; what there is of the run is in {cluster.folder.path}", file=sys.stderr)
            raise
    if as_json:
        typer.echo(json.dumps(plain(summary.as_dict())))
    else:
        with suppress(OSError, ValueError):  # a full disk or a closed pipe for its output; the run is whole
            _print_end(cluster, summary, console)


def _show(console: Console, line: str) -> None:
    with suppress(OSError, ValueError):
        console.print(line, soft_wrap=True, markup=False, highlight=False)


def _print_end(cluster: Cluster, summary: Summary, console: Console) -> None:
    console.print()
    report = cluster.plan_report
    if report is not None:
        console.print(workers_table(report, f"the last plan: {summary.scheme}, {summary.quantizer}"))
        console.print()
    print_summary(summary, console)
    for line in worth_knowing(cluster.folder.path):
        console.print(line, soft_wrap=True, markup=False, highlight=False)


def again(folder: Path, arguments: list[str]) -> str:
    """The command that goes on with the run in ``folder``, which was begun with ``arguments``.

    >>> again(Path("runs/x"), ["simulate", "x.toml"])
    'it goes on with: gcdist simulate x.toml --resume runs/x'
    """
    if any(word.split("=")[0] == "--resume" for word in arguments):
        return "the same command goes on"
    command = os.environ.get(COMMAND) or shlex.join(["gcdist", *arguments])
    return f"it goes on with: {command} --resume {shlex.quote(str(folder))}"


def worth_knowing(folder: Path) -> list[str]:
    """The two or three things that somebody should know of a finished run, and the command that shows more."""
    try:
        verdict = judge(read_run(folder))
    except ConfigError:  # the folder was lost meanwhile; the run was not
        return []
    lines = [each.text for each in verdict.troubles] or [verdict.headline.rsplit(". ", 1)[-1]]
    return [*lines[:WORDS], f"more: gcdist report {folder}"]


def train_loop(cluster: Cluster, task: Task, relay: _Relay, console: Console, stops: Sequence[str] = ()) -> Summary:
    """Train for ``config.steps`` steps, evaluate, check the wait-for-all estimate; write the summary.

    Raises:
        RunStoppedError: a step has ended, and ``stops`` names a signal by now.
    """
    config = cluster.config
    optimizer = make_optimizer(config, task)
    cluster.track(optimizer=Configured(optimizer))
    with Progress(config.steps, console, virtual=cluster.virtual) as progress:
        relay.show(progress.note)
        cluster.observe(progress)
        for step in cluster.steps(config.steps):
            step.backward()
            optimizer.step()
            if stops:
                raise RunStoppedError(stops[0])
        cluster.folder.stream.remove(progress)  # all steps are shown before the lines below
        metrics = cluster.final_evaluation()
        checks = config.summary.sync_check_steps
        if checks:
            progress.note(f"waiting for all workers in {checks} more steps, to check what that takes")
            cluster.check_waiting(checks)
    summary = cluster.summary(metrics)
    cluster.folder.write_summary(summary.as_dict())
    return summary
