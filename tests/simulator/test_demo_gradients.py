"""Noise of every quantizer on gradients of the demo's own model: never above its proven bound."""

from __future__ import annotations

import numpy as np
import pytest

from gcdist.model.gradients import PartitionGradients
from gcdist.model.state import ModelState
from gcdist.quantize import bits_allowed, get_quantizer, quantizer_names
from gcdist.tasks import digits
from gcdist.types import F32, Key


@pytest.fixture(scope="module")
def gradients() -> list[F32]:
    """Of three steps of training: partitions of partly sorted digits, (d,) each."""
    task = digits.build(model="cnn")
    state = ModelState(task.model, own=True)
    computed = PartitionGradients(task, state, 16, seed=0)
    taken = []
    for step in range(21):
        total = np.zeros(state.layout.d, np.float32)
        for j in range(16):
            gradient = computed.compute(step, j).gradient
            total += gradient
            if step % 10 == 0 and j in (0, 9):
                taken.append(gradient.copy())
        raw = state.snapshot()
        raw[: 4 * state.layout.d].view(np.float32)[:] -= np.float32(0.1) * total
        state.load(raw)
    return taken


@pytest.mark.parametrize("name", quantizer_names())
def test_noise_stays_below_the_bound(gradients: list[F32], name: str) -> None:
    quantizer = get_quantizer(name)
    for bits in bits_allowed(quantizer):
        out = np.zeros(quantizer.nbytes(len(gradients[0]), bits), np.uint8)
        for i, gradient in enumerate(gradients):
            # the bound is on the mean: 8 draws of 21,994 coordinates are within a few percent of it
            done = [quantizer.encode(gradient, bits, Key(5, draw, i, 0), out) for draw in range(8)]
            noise = np.mean([encoded.error / encoded.energy for encoded in done])
            assert noise <= 1.05 * quantizer.bound(bits, len(gradient)), (bits, i)
