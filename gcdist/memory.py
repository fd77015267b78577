"""Large arrays that are used again: fresh memory costs a page fault every 4 KiB, about as much as filling it."""

from __future__ import annotations

import ctypes
import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from sys import getrefcount

import numpy as np

from gcdist.types import U8

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # names of glibc's malloc.h
SMALL = 64 << 10  # bytes; below, the allocator has memory at hand
_MINE = 2  # references to an array that only the recycler holds: its list's and getrefcount's argument


class Recycler:
    """Gives arrays, and gives one again when nobody holds it or a view of it any more. Any thread may ask.

    What a frame, a tensor or a slice refers to is held: nothing has to be handed back. There are never more arrays than were
    held at one time, rounded up to powers of two.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._arrays: dict[int, list[U8]] = {}  # by capacity

    def take(self, nbytes: int) -> U8:
        """An array (nbytes,) with any content.

        >>> recycler = Recycler()
        >>> first, second = recycler.take(10**6), recycler.take(10**6)
        >>> where, first = first.ctypes.data, first[:10]
        >>> recycler.take(10**6).ctypes.data == where  # a view of it is still in use
        False
        >>> del first
        >>> recycler.take(10**6).ctypes.data == where
        True
        """
        if nbytes < SMALL:
            return np.empty(nbytes, np.uint8)
        capacity = 1 << (nbytes - 1).bit_length()  # what is never touched takes no memory
        with self._lock:
            arrays = self._arrays.setdefault(capacity, [])
            for i in range(len(arrays)):
                if getrefcount(arrays[i]) == _MINE:
                    return arrays[i][:nbytes]
            arrays.append(np.empty(capacity, np.uint8))
            return arrays[-1][:nbytes]


recycler = Recycler()  # the process's


def keep_freed_memory() -> bool:
    """Ask the C library to keep what this process frees, for its next use; whether it is one that can (glibc).

    A backward pass allocates a gradient of each parameter, and every step frees them. By default glibc gives large ones back
    to the system at once, and each page of the next one is a fault: about as long as the pass itself. Memory does not grow
    by it: the next step needs as much.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_MMAP_THRESHOLD, 1 << 30) and mallopt(_TRIM_THRESHOLD, (1 << 31) - 1))


@contextmanager
def objects_set_aside() -> Iterator[None]:
    """Keep Python's garbage collector off the objects that are there already: those of torch take it milliseconds."""
    if gc.get_freeze_count():  # somebody else does it
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def cycles_sought_seldom(objects: int = 100_000) -> Iterator[None]:
    """Look for cycles once so many objects are new, in place of 700: where nearly all objects go by themselves.

    Each look at young objects moves those that a step still needs among the old ones, and a look at all of those follows.
    """
    before = gc.get_threshold()
    if before[0] >= objects:  # somebody else does it
        yield
        return
    gc.set_threshold(objects, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def free_bytes() -> int | None:
    """Memory of this machine that is free; None: it does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None


def size_text(nbytes: float) -> str:
    """Bytes for people.

    >>> size_text(38440), size_text(3e9)
    ('38.4 kB', '3.0 GB')
    """
    for unit, least in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if nbytes >= least:
            return f"{nbytes / least:.1f} {unit}"
    return f"{nbytes:.0f} B"
