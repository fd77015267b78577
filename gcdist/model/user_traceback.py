"""A user's error in words: where it happened, and the traceback of the user's own code."""

from __future__ import annotations

import traceback
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
# what stands between the worker's loop and the user's code; the embedded tasks are users' code like any other
_ROOMS = ("model", "exchange", "master", "worker", "simulator", "run")
_OWN = (
    *(f"{_PACKAGE / room}/" for room in _ROOMS),
    *(str(_PACKAGE / "tasks" / name) for name in ("task.py", "loss.py")),
)


def users_traceback(error: BaseException) -> str:
    """The traceback as Python prints it, without gcdist's frames above the user's code.

    Frames below it stay, whosever they are. "" if there is no user's frame at all: the error's own line says everything.
    """
    told = traceback.TracebackException.from_exception(error)
    seen: set[int] = set()
    todo: list[traceback.TracebackException | None] = [told]
    while todo:
        link = todo.pop()
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        frames = list(link.stack)
        while frames and frames[0].filename.startswith(_OWN):
            del frames[0]
        link.stack = traceback.StackSummary.from_list(frames)
        todo += [link.__cause__, link.__context__]
    return "".join(told.format()).rstrip() if told.stack else ""
