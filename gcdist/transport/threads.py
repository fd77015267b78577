"""The transport's threads, and their end with the process.

A thread inside torch at the shutdown of the interpreter aborts the process, so all are told to end and joined before.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Callable
from typing import Protocol
from weakref import WeakSet

_EXIT_SECONDS = 12.0  # a half-done transfer holds its thread for a piece_timeout


class Ends(Protocol):
    """An object with threads that can be told to end."""

    def abandon(self) -> None:
        """End now, without a goodbye; must not block for long."""
        ...


_threads: WeakSet[threading.Thread] = WeakSet()
_running: WeakSet[Ends] = WeakSet()


def spawn(name: str, target: Callable[..., None], *arguments: object) -> threading.Thread:
    """Start a thread of the transport."""
    thread = threading.Thread(target=target, args=arguments, name=f"gcdist-{name}", daemon=True)
    _threads.add(thread)
    thread.start()
    return thread


def ends_with_process(item: Ends) -> None:
    """Tell ``item`` to end when the process ends."""
    _running.add(item)


def join_all(threads: list[threading.Thread], timeout: float) -> bool:
    """Wait for ``threads`` (the calling one excepted), ``timeout`` seconds in all; whether they have ended."""
    until = time.monotonic() + timeout
    # a thread that another thread is starting has no ident yet and cannot be joined
    others = [thread for thread in threads if thread is not threading.current_thread() and thread.ident is not None]
    for thread in others:
        thread.join(max(0.0, until - time.monotonic()))
    return not any(thread.is_alive() for thread in others)


@atexit.register
def _end_all() -> None:
    for item in list(_running):
        item.abandon()
    join_all(list(_threads), _EXIT_SECONDS)
