"""Everything random of partition j at step t is seeded by (seed, t, j): where and when it is computed does not matter."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.random import mtrand

from gcdist.model.seed_words import U64, seed_words

SAMPLING, DATA, COMPUTE, COMPARE = range(4)  # what the randomness of (seed, step, partition) is for


def sequence(seed: int, purpose: int, step: int, j: int) -> np.random.SeedSequence:
    """The source of everything random that partition ``j`` does for one purpose in ``step``."""
    return np.random.SeedSequence((seed, purpose, step, j))


def seed_generators(seed: int, purpose: int, step: int, j: int) -> None:
    """Seed python's, numpy's and torch's global generators."""
    words = seed_words(seed, purpose, step, j, 3).tolist()
    random.seed(words[0])
    np.random.seed(words[1] >> 32)  # noqa: NPY002 (it is the user's code that draws from the global generator)
    torch.default_generator.manual_seed(words[2])  # torch.manual_seed takes 0.1 ms to look for other devices


class Drawer:
    """One numpy generator that begins anew for each (seed, purpose, step, j): four times faster than to make one.

    Its numbers are those of ``np.random.Generator(np.random.Philox(sequence(...)))``.
    """

    def __init__(self) -> None:
        self._philox = np.random.Philox(0)
        self._generator = np.random.Generator(self._philox)
        self._nothing: U64 = np.zeros(4, np.uint64)

    def begin(self, seed: int, purpose: int, step: int, j: int) -> np.random.Generator:
        """The generator, at its beginning; valid until the next call."""
        self._philox.state = {
            "bit_generator": "Philox",
            "state": {"counter": self._nothing, "key": seed_words(seed, purpose, step, j, 2)},
            "buffer": self._nothing,
            "buffer_pos": 4,  # at its end
            "has_uint32": 0,
            "uinteger": 0,
        }
        return self._generator


_numpy_generator = np.random.MT19937(0)
_kept = False  # somebody gives the generators back already


def generators_are_kept() -> bool:
    """Whether this runs inside `generators_kept`."""
    return _kept


@contextmanager
def generators_kept() -> Iterator[None]:
    """Give python's, numpy's and torch's global generators back as they were.

    Inside another `generators_kept` it does nothing: 30 microseconds that a worker saves in each partition.
    """
    global _kept
    if _kept:
        yield
        return
    _kept = True
    python, numpy, pytorch = random.getstate(), mtrand.get_bit_generator(), torch.get_rng_state()
    mtrand.set_bit_generator(_numpy_generator)  # to put another one in its place is 20 times faster than to copy it
    try:
        yield
    finally:
        _kept = False
        random.setstate(python)
        mtrand.set_bit_generator(numpy)
        torch.set_rng_state(pytorch)
