"""Signals that ask a process to end, turned into events of master and worker."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType

REPEAT_SECONDS = 5.0  # a signal so soon after the first one is the same wish: it came by a second way
WISHES = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def on_signals(act: Callable[[str, int], None], clock: Callable[[], float] = time.monotonic) -> Callable[[], None]:
    """Call ``act(name, number)`` on the first SIGINT, SIGTERM or SIGHUP (a closed terminal). Returns the undo.

    Launchers, terminals and process groups bring the same wish two or three times: what comes within `REPEAT_SECONDS` of
    the first signal is ignored, after the undo too. A later one is a second wish: it does what it did before (Ctrl-C raises
    KeyboardInterrupt, the others end the process at once). A SIGHUP that is ignored (nohup) stays ignored.

    Only the main thread can listen to signals; elsewhere this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        return lambda: None
    before = {number: signal.getsignal(number) for number in WISHES}
    if before[signal.SIGHUP] is signal.SIG_IGN:
        del before[signal.SIGHUP]
    first: list[float] = []  # when the first one came

    def restore() -> None:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)

    def handle(number: int, frame: FrameType | None) -> None:
        if not first:
            first.append(clock())
            act(signal.Signals(number).name, number)
        elif clock() - first[0] > REPEAT_SECONDS:
            restore()
            os.kill(os.getpid(), number)

    def undo() -> None:
        if not first:
            restore()

    for number in before:
        signal.signal(number, handle)
    return undo
