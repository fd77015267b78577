"""Where a worker computes. CUDA was never tried: no machine that this was written on had a GPU."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils import _pytree

from gcdist.model.randomness import sequence

CPU = torch.device("cpu")


def pick_device(wanted: str, environ: Mapping[str, str] = os.environ) -> torch.device:
    """The device for "cpu", "cuda" or "auto" (cuda where there is one).

    Workers on one host share its GPUs in turn: number LOCAL_RANK modulo their count.

    Raises:
        ValueError: "cuda" where there is none.

    >>> pick_device("cpu")
    device(type='cpu')
    """
    if wanted == "cpu":
        return CPU
    if not torch.cuda.is_available():
        if wanted == "auto":
            return CPU
        raise ValueError(f'device: found "{wanted}"; PyTorch finds no CUDA device here: use "auto" or "cpu"')
    return torch.device("cuda", int(environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())


def moved(batch: Any, device: torch.device) -> Any:
    """The batch on ``device``: whatever has ``.to``, in nested dicts, lists, tuples and namedtuples.

    >>> moved({"x": [torch.zeros(2)], "name": "a"}, torch.device("meta"))["x"][0].device
    device(type='meta')
    """
    return _pytree.tree_map(
        lambda value: value.to(device) if hasattr(value, "to") else value, batch, is_leaf=lambda v: hasattr(v, "to")
    )


def seed_device(device: torch.device, seed: int, purpose: int, step: int, j: int) -> None:
    """Seed the device's own generator for (seed, step, j); the CPU's are `randomness.seed_generators`'."""
    if device.type == "cuda":
        word = int(sequence(seed, purpose, step, j).generate_state(4, "uint64")[3])
        torch.cuda.default_generators[device.index or 0].manual_seed(word)


@contextmanager
def device_generator_kept(device: torch.device) -> Iterator[None]:
    """Give the device's generator back as it was."""
    if device.type != "cuda":
        yield
        return
    before = torch.cuda.get_rng_state(device)
    try:
        yield
    finally:
        torch.cuda.set_rng_state(before, device)
