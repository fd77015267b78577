"""The command line. A user's mistake is one clear line and exit code 2, never a traceback."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

from gcdist.config import ConfigError
from gcdist.last_words import leave
from gcdist.types import RunHaltedError

# command -> (module, function, help). A module is imported when its command is used: torch alone takes two seconds.
COMMANDS = {
    "init": ("init", "init", "Write a starter for your own model: a task file, its settings, a launch line."),
    "train": ("training", "train", "Train on the processes that torchrun has started."),
    "simulate": ("training", "simulated", "The same run on a virtual clock, in this process."),
    "launch": (
        "launch",
        "launch",
        "Start a master and workers: gcdist launch local -n 8 -- ..., gcdist launch ssh ...",
    ),
    "bench": ("bench", "bench", "Wall-clock time of every scheme under delays, by real processes."),
    "doctor": ("doctor", "doctor", "Check this machine and the network before a run; each finding with its fix."),
    "secure": ("secure", "secure", "Certificates for links over TLS: make, list, revoke."),
    "plan": ("plan", "plan", "Solve for code, data allocation and bits, and say what they promise."),
    "report": ("report", "report", "Write a page of one run or several: who was slow and why, loss, arrivals, bytes."),
    "runs": ("runs", "runs", "List run folders: when, task, steps, last loss, running, done or halted and why."),
    "watch": ("watch", "watch", "Watch a run from another shell: each worker's arrivals, times, deadline, bytes."),
    "coco": ("coco", "coco", "COCO detection: gcdist coco pictures draws what a run's detector finds."),
}


COMPLETE = "_GCDIST_COMPLETE"  # set by the shell's completion script, with the line in one of the next two
LINES = ("COMP_WORDS", "_TYPER_COMPLETE_ARGS")
GROUPS = ("launch", "bench", "secure", "coco")  # commands with commands of their own


def version_line() -> str:
    """The versions that a report of an error should name; nothing is imported for them.

    >>> version_line().split()[::2]
    ['gcdist', 'torch', 'numba', 'python']
    """
    told = [f"{name} {_version_of(name)}" for name in ("gcdist", "torch", "numba")]
    return ", ".join([*told, f"python {sys.version.split()[0]}"])


def _version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _command_in(argv: Sequence[str]) -> str | None:
    """The command whose module is needed: the first word; while a shell completes, only one that has something to offer."""
    if COMPLETE not in os.environ:
        return next((word for word in argv if not word.startswith("-")), None)
    line = next((os.environ[name] for name in LINES if name in os.environ), "")
    words = [*line.split(), *([""] if line[-1:].isspace() else [])][1:]  # the last one is being written
    # the modules of some commands import torch, which takes seconds: not for files, which the shell completes by itself
    needed = len(words) > 1 and (words[0] in GROUPS or words[-1].startswith("-"))
    return words[0] if needed else None


def _app(argv: Sequence[str]) -> typer.Typer:
    """The commands, the one that is asked for in earnest and the others by name and help."""
    app = typer.Typer(
        name="gcdist",
        help="Coded, quantized distributed training that does not wait for stragglers.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )

    @app.callback(invoke_without_command=True)
    def about(
        context: typer.Context,
        show_version: Annotated[bool, typer.Option("--version", help="Print the versions and exit.")] = False,
    ) -> None:
        if show_version:
            typer.echo(version_line())
            raise typer.Exit

    wanted = _command_in(argv)
    for name, (module, function, text) in COMMANDS.items():
        if name == wanted:
            target = getattr(importlib.import_module(f"gcdist.commands.{module}"), function)
            if isinstance(target, typer.Typer):  # a command with commands of its own
                app.add_typer(target, name=name, help=text)
            else:
                app.command(name)(target)
        else:
            app.command(name, help=text)(_elsewhere)
    return app


def _elsewhere() -> None:
    """Stands for a command that was not asked for."""


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of ``gcdist``; ends the process with 0, 1 (the run failed), 2 (the user's mistake) or 128 + signal."""
    words = list(sys.argv[1:] if argv is None else argv)
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # its warnings bury a run's last lines under C++ frames
    try:
        with _lines_may_be_lost():
            _app(words)(words, prog_name="gcdist")
    except ConfigError as error:
        leave("mistake", str(error))
        _fail(error, 2)
    except RunHaltedError as error:
        _fail(error, 1)


@contextmanager
def _lines_may_be_lost() -> Iterator[None]:
    """What cannot be printed at the end (a closed pipe, a full disk) does not change how the process ends."""
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                if stream is not None:
                    stream.flush()
            except (OSError, ValueError):
                with suppress(OSError, ValueError):  # Python tries again as it ends, and would change the exit code
                    nowhere = os.open(os.devnull, os.O_WRONLY)
                    os.dup2(nowhere, stream.fileno())
                    os.close(nowhere)


def _fail(error: Exception, code: int) -> None:
    rank = os.environ.get("RANK", "0")
    who = "gcdist" if rank == "0" else f"gcdist (rank {rank})"
    with suppress(OSError, ValueError, AttributeError):
        for line in str(error).splitlines():
            print(f"{who}: {line}", file=sys.stderr)
    sys.exit(code)
