"""Compiles the kernels before the first round, once per machine: the first process compiles, the others read its cache."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import numpy as np

from gcdist.model.draws import draw
from gcdist.model.seed_words import seed_words
from gcdist.quantize import warm_segments
from gcdist.quantize.floats import add_scaled
from gcdist.quantize.grid import measure
from gcdist.quantize.jit import cache_folder
from gcdist.types import Quantizer


@contextmanager
def _first_alone(name: str) -> Iterator[None]:
    """Hold the cache folder's lock until somebody has compiled what ``name`` stands for; from then on nobody waits.

    Without a lock (a read-only home) go on.
    """
    folder = cache_folder()
    done = Path(folder, f"{name}-segments-numba-{version('numba')}.done") if folder else None
    try:
        lock = None if done is None or done.exists() else done.with_name("lock").open("w")
    except OSError:
        lock = None
    if lock is None or done is None:
        yield
        return
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
        try:
            done.touch()
        except OSError:
            return  # the next one waits its turn again


def warm_kernels(quantizer: Quantizer) -> None:
    """Make this process ready to draw samples, to add and measure gradients, to encode and to decode."""
    x, one = np.ones(3, np.float32), np.float32(1)
    with _first_alone(quantizer.name):
        draw(seed_words(0, 0, 0, 0, 2), 2, 1)
        add_scaled(x, one, one, True, np.empty_like(x))
        measure(x)
        warm_segments(quantizer)
