"""SIGINT and SIGTERM, turned into events of master and worker."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType


def on_signals(act: Callable[[str, int], None]) -> Callable[[], None]:
    """Call ``act(name, number)`` on the first SIGINT or SIGTERM; a second one does what it did before. Returns the undo.

    Only the main thread can listen to signals; elsewhere this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        return lambda: None
    wanted = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in wanted}

    def undo() -> None:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)

    def handle(number: int, frame: FrameType | None) -> None:
        undo()
        act(signal.Signals(number).name, number)

    for number in wanted:
        signal.signal(number, handle)
    return undo
