"""`gcdist launch`: one master and n workers, on this machine or over ssh, each started again when it dies."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from gcdist.config import ConfigError, load_config
from gcdist.last_words import COMMAND
from gcdist.launcher import CommandError, HostsError, launch_local, launch_ssh, read_hosts

launch = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
AfterDashes = {"allow_interspersed_args": False}
Command = Annotated[
    list[str] | None, typer.Argument(metavar="-- COMMAND ...", help="The command that every process runs.")
]
MaxRestarts = Annotated[
    int | None, typer.Option(help="How often a dead worker is started again; by default as often as needed.")
]
RestartMaster = Annotated[
    int, typer.Option(help="How often a dead master is started again (its command should have --resume).")
]


@launch.callback()
def about() -> None:
    """Start a run's processes; they go on when one of them dies."""


@launch.command("local", context_settings=AfterDashes)
def local(
    workers: Annotated[int, typer.Option("-n", "--workers", help="Workers, without the master.")],
    command: Command = None,
    max_restarts: MaxRestarts = None,
    restart_master: RestartMaster = 0,
) -> None:
    """Run a command as one master and n workers on this machine, until the master ends; the exit code is the master's.

    A worker that dies is started again, the others go on. Ctrl-C and SIGTERM end the run in order. Linux only.

    Example: gcdist launch local -n 8 -- python script.py

    Example: gcdist launch local -n 8 -- gcdist train CONFIG.toml
    """
    _check("local", {"-n": (workers, 1), "--max-restarts": (max_restarts, 0), "--restart-master": (restart_master, 0)})
    words = _given("local -n 8", command)
    _read_settings(words)
    _launch(lambda: launch_local(words, workers, max_restarts, restart_master))


@launch.command("ssh", context_settings=AfterDashes)
def over_ssh(
    hosts: Annotated[Path, typer.Option(help="File with a host a line: node1 workers=2 venv=~/gcdist")],
    command: Command = None,
    max_restarts: MaxRestarts = None,
    restart_master: RestartMaster = 0,
    master: Annotated[
        str | None,
        typer.Option(metavar="HOST", help="The host of the file that runs the master; by default this machine."),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(help="The master's address for the workers; by default that of the route to them."),
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="The master's port; by default a free one, with --master 29500.")
    ] = None,
    ssh: Annotated[str, typer.Option(help='The ssh program and its options: "ssh -F FILE".')] = "ssh",
) -> None:
    """Run a command as a master here and workers on other hosts, until the master ends; the exit code is the master's.

    A worker that dies is started again, and so is a connection that breaks; Ctrl-C and SIGTERM end the run in order, and
    leave nothing on the hosts. Keys or an agent must let ssh in without a question. Linux only.

    Example: gcdist launch ssh --hosts hosts.txt -- gcdist train CONFIG.toml

    A line of the file is a host with key=value words: workers (1), python (python3) or venv, workdir (the home folder),
    env.NAME. The command runs in workdir of each host, and finds its files there.
    """
    _check("ssh", {"--max-restarts": (max_restarts, 0), "--restart-master": (restart_master, 0), "--port": (port, 1)})
    if port is not None and port > 65535:
        raise ConfigError(f"launch ssh --port: found {port}; should be 65535 or less")
    words = _given("ssh --hosts hosts.txt", command)
    try:
        program = shlex.split(ssh)
        found = read_hosts(hosts)
    except HostsError as error:
        raise ConfigError(str(error)) from None
    except ValueError as error:
        raise ConfigError(f"launch ssh --ssh: found {ssh!r}: {error}") from None
    if not program:
        raise ConfigError("launch ssh --ssh: found nothing; for example: ssh -F FILE")
    _launch(
        lambda: launch_ssh(
            words, found, max_restarts, restart_master, ssh=program, master=master, address=address, port=port
        )
    )


def _check(name: str, values: dict[str, tuple[int | None, int]]) -> None:
    for option, (value, least) in values.items():
        if value is not None and value < least:
            raise ConfigError(f"launch {name} {option}: found {value}; should be {least} or more")


def _given(example: str, command: list[str] | None) -> list[str]:
    name = example.partition(" ")[0]
    if not command:
        raise ConfigError(f"launch {name}: no command given; for example: gcdist launch {example} -- python script.py")
    return command


def settings_of(command: list[str]) -> tuple[Path, list[str]] | None:
    """The file of settings and the overrides of a ``gcdist train`` command; None if it is none, or not understood.

    >>> settings_of(["gcdist", "train", "run.toml", "--set", "steps=3"])
    (PosixPath('run.toml'), ['steps=3'])
    """
    words = list(command)
    if len(words) > 2 and Path(words[0]).name.startswith("python") and words[1:3] == ["-m", "gcdist"]:
        words = words[2:]
    if len(words) < 2 or Path(words[0]).name != "gcdist" or words[1] != "train":
        return None
    files, overrides, rest = list[str](), list[str](), iter(words[2:])
    for word in rest:
        option, equals, value = word.partition("=")
        if option in ("--set", "--resume"):
            value = value if equals else next(rest, "")
            overrides += [value] if option == "--set" else []
        elif word == "--json":
            continue
        elif word.startswith("-"):
            return None
        else:
            files.append(word)
    return (Path(files[0]), overrides) if len(files) == 1 else None


def _read_settings(command: list[str]) -> None:
    """Say a mistake in the settings before anything is started; ConfigError."""
    if (found := settings_of(command)) is not None:
        load_config(*found)


def _launch(start: Callable[[], int]) -> None:
    if not sys.platform.startswith("linux"):
        raise ConfigError(f"launch: found {sys.platform}; it needs Linux (use torchrun)")
    os.environ[COMMAND] = shlex.join(["gcdist", *sys.argv[1:]])
    try:
        code = start()
    except CommandError as error:
        print(f"gcdist launch: {error}", file=sys.stderr)
        code = 127
    raise typer.Exit(code)
