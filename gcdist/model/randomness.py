"""Everything random of partition j at step t is seeded by (seed, t, j): where and when it is computed does not matter."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.random import mtrand

SAMPLING, DATA, COMPUTE, COMPARE = range(4)  # what the randomness of (seed, step, partition) is for


def sequence(seed: int, purpose: int, step: int, j: int) -> np.random.SeedSequence:
    """The source of everything random that partition ``j`` does for one purpose in ``step``."""
    return np.random.SeedSequence((seed, purpose, step, j))


def seed_generators(seed: int, purpose: int, step: int, j: int) -> None:
    """Seed python's, numpy's and torch's global generators."""
    words = sequence(seed, purpose, step, j).generate_state(3, np.uint64).tolist()
    random.seed(words[0])
    np.random.seed(words[1] >> 32)  # noqa: NPY002 (it is the user's code that draws from the global generator)
    torch.default_generator.manual_seed(words[2])  # torch.manual_seed takes 0.1 ms to look for other devices


_numpy_generator = np.random.MT19937(0)


@contextmanager
def generators_kept() -> Iterator[None]:
    """Give python's, numpy's and torch's global generators back as they were."""
    python, numpy, pytorch = random.getstate(), mtrand.get_bit_generator(), torch.get_rng_state()
    mtrand.set_bit_generator(_numpy_generator)  # to put another one in its place is 20 times faster than to copy it
    try:
        yield
    finally:
        random.setstate(python)
        mtrand.set_bit_generator(numpy)
        torch.set_rng_state(pytorch)
