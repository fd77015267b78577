"""Compile the kernels before the first round, once per machine: the first process compiles, the others read its cache."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gcdist.quantize import warm
from gcdist.quantize.jit import cache_folder
from gcdist.types import Quantizer


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Hold the cache folder's lock; without one (a read-only home) go on."""
    folder = cache_folder()
    try:
        lock = (Path(folder) / "lock").open("w") if folder else None
    except OSError:
        lock = None
    if lock is None:
        yield
        return
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def warm_kernels(quantizer: Quantizer) -> None:
    """Make this process ready to encode and decode."""
    with _one_at_a_time():
        warm(quantizer)
