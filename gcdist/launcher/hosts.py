"""The hosts file of `gcdist launch ssh`: one host a line."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

from gcdist.names import nearest

KEYS = ("workers", "python", "venv", "workdir")
_ENV = re.compile(r"env\.([A-Za-z_][A-Za-z0-9_]*)")


@dataclass(frozen=True, slots=True)
class Host:
    """A host, and the start of its workers there.

    Args:
        name: as ssh takes it: ``host``, ``user@host`` or an alias of the user's ssh config.
        workers: their number; 0 for a host of the master alone.
        python: the interpreter with gcdist installed; a ``~/`` at its beginning is the home folder there.
        workdir: the command's working directory; "": the home folder.
        env: further environment variables.
    """

    name: str
    workers: int = 1
    python: str = "python3"
    workdir: str = ""
    env: dict[str, str] = field(default_factory=dict)


class HostsError(Exception):
    """A hosts file that cannot be used; a line for each mistake."""


def read_hosts(path: str | Path) -> list[Host]:
    """The hosts of a file; HostsError.

    A line is a host and ``key=value`` words, quoted as for a shell: ``workers`` (1), ``python`` (python3) or ``venv``,
    ``workdir`` (the home folder), ``env.NAME``. ``#`` begins a comment.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not a text file"
        raise HostsError(f"{path}: {why}") from None
    hosts: list[Host] = []
    wrong: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            words = shlex.split(line, comments=True)
            if not words:
                continue
            host = _host(words)
            if host.name in {other.name for other in hosts}:
                raise ValueError(f"{host.name}: listed twice; more workers of a host: workers=N")
            hosts.append(host)
        except ValueError as error:
            wrong.append(f"{path}:{number}: {error}")
    if not wrong and not hosts:
        wrong.append(f"{path}: no host in it; a line is for example: node1 workers=2 venv=~/gcdist")
    if wrong:
        raise HostsError("\n".join(wrong))
    return hosts


def _host(words: list[str]) -> Host:
    """A line's host; ValueError.

    >>> _host(["node1", "workers=2", "venv=~/v", "env.A=b c"])
    Host(name='node1', workers=2, python='~/v/bin/python', workdir='', env={'A': 'b c'})
    """
    name, *rest = words
    if name.startswith("-") or "=" in name or not name.isprintable() or " " in name:
        raise ValueError(f"{name!r} is no host; a line is a host and then key=value words")
    given: dict[str, str] = {}
    env: dict[str, str] = {}
    for word in rest:
        key, equals, value = word.partition("=")
        variable = _ENV.fullmatch(key)
        if not equals:
            raise ValueError(f"found {word!r}; should be key=value, as in workers=2")
        if variable:
            env[variable[1]] = value
        elif key not in KEYS:
            near = nearest(key, KEYS)
            hint = f'; did you mean "{near}"?' if near else ";"
            raise ValueError(f"{key}: unknown{hint} allowed: {', '.join(KEYS)}, env.NAME")
        elif not value:
            raise ValueError(f"{key}: found nothing after =")
        elif key in given:
            raise ValueError(f"{key}: given twice")
        else:
            given[key] = value
    workers = given.get("workers", "1")
    if not workers.isdecimal():
        raise ValueError(f"workers: found {workers!r}; should be 0 or more")
    if "python" in given and "venv" in given:
        raise ValueError("python and venv: only one of them can be given")
    python = f"{given['venv'].rstrip('/')}/bin/python" if "venv" in given else given.get("python", "python3")
    return Host(name, int(workers), python, given.get("workdir", ""), env)
