"""Why a process ends, left for the launcher that started it: the run's last line."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from typing import Literal, NamedTuple, TypeAlias

VARIABLE = "GCDIST_LAST_WORDS"  # a file that this process writes them into
COMMAND = "GCDIST_COMMAND"  # the launcher's own command line
MOST = 4000  # characters
Kind: TypeAlias = Literal["run", "end", "mistake", "refused"]


class LastWords(NamedTuple):
    """What a process has left.

    ``kind``: "run": it may still run, and this is how it would go on; "end": its run is over; "mistake": its settings or its
    input are wrong; "refused": by the master.
    """

    kind: Kind
    text: str


def leave(kind: Kind, text: str) -> None:
    """Leave word, in place of what was left before; nothing happens where no launcher asks for it."""
    name = os.environ.get(VARIABLE)
    if name:
        words = json.dumps({"kind": kind, "text": text[:MOST]}) if text else ""
        with suppress(OSError), open(name, "w", encoding="utf-8") as file:
            file.write(words)


def read(raw: bytes) -> LastWords | None:
    """What `leave` wrote; None for nothing, or anything else.

    >>> read(b'{"kind": "end", "text": "stopped"}'), read(b"?")
    (LastWords(kind='end', text='stopped'), None)
    """
    with suppress(ValueError, TypeError, KeyError):
        words = json.loads(raw)
        if words["kind"] in ("run", "end", "mistake", "refused"):
            return LastWords(words["kind"], str(words["text"])[:MOST])
    return None
