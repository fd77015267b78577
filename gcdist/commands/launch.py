"""`gcdist launch local`: one master and n workers on this machine, each a child of its own."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from gcdist.config import ConfigError
from gcdist.launcher import CommandError, launch_local

launch = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@launch.callback()
def about() -> None:
    """Start a run's processes; they go on when one of them dies."""


@launch.command("local", context_settings={"allow_interspersed_args": False})
def local(
    workers: Annotated[int, typer.Option("-n", "--workers", help="Workers, without the master.")],
    command: Annotated[list[str] | None, typer.Argument(metavar="-- COMMAND ...", help="What all run.")] = None,
    max_restarts: Annotated[
        int | None, typer.Option(help="Times a worker that died is started again; without it as often as needed.")
    ] = None,
    restart_master: Annotated[
        int, typer.Option(help="Times a master that died is started again (the command should resume).")
    ] = 0,
) -> None:
    """Run a command as one master and n workers on this machine, until the master ends; the exit code is the master's.

    A worker that dies is started again, the others go on. Ctrl-C and SIGTERM end the run in order. Linux only.

    Example: gcdist launch local -n 8 -- python script.py

    Example: gcdist launch local -n 8 -- gcdist train CONFIG.toml
    """
    for name, value, least in (
        ("-n", workers, 1), ("--max-restarts", max_restarts, 0), ("--restart-master", restart_master, 0),
    ):  # fmt: skip
        if value is not None and value < least:
            raise ConfigError(f"launch local {name}: found {value}; should be {least} or more")
    if not command:
        raise ConfigError("launch local: no command given; for example: gcdist launch local -n 8 -- python script.py")
    if not sys.platform.startswith("linux"):
        raise ConfigError(f"launch local: found {sys.platform}; it needs Linux (use torchrun)")
    try:
        code = launch_local(command, workers, max_restarts, restart_master)
    except CommandError as error:
        print(f"gcdist launch: {error}", file=sys.stderr)
        code = 127
    raise typer.Exit(code)
