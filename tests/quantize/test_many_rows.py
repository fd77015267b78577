"""Many rows in one call have the bits of one after another."""

from __future__ import annotations

import numpy as np
import pytest

from gcdist.quantize import get_quantizer, get_segments
from gcdist.quantize.floats import add_scaled
from gcdist.quantize.grid_segments import TOGETHER, GridSums
from gcdist.quantize.many_rows import sum_rows
from gcdist.types import Layout

LAYOUTS = {
    "one parameter": Layout.flat(1100),
    "short": Layout.flat(100),
    "small ones too": Layout.by_parameter([513, 2, 700]),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("name", "bits"), [("bucket", 4), ("bucket", 1), ("dither", 3), ("rotated", 4), ("eden", 2), ("float32", 32)]
)
def test_payloads(name: str, bits: int, layout: str) -> None:
    segments = get_segments(get_quantizer(name), LAYOUTS[layout])
    x_RD = np.random.default_rng(1).standard_normal((5, LAYOUTS[layout].d)).astype(np.float32)
    x_RD[3] = 0.0
    at_M, row_M = np.array([4, 3, 0]), np.array([9, 2, 5])
    out_MB, done_M3 = segments.encode_many(x_RD, at_M, bits, 3, 17, row_M)
    for m, (at, row) in enumerate(zip(at_M.tolist(), row_M.tolist(), strict=True)):
        out = np.empty(segments.nbytes(bits), np.uint8)
        done = segments.encode(x_RD[at], bits, 3, 17, row, out)
        assert np.array_equal(out, out_MB[m])
        assert done_M3[m].tolist() == [-1.0, done.energy, done.error]


@pytest.mark.parametrize("name", ["bucket", "rotated"])
def test_a_number_that_is_not_finite(name: str) -> None:
    segments = get_segments(get_quantizer(name), Layout.flat(600))
    x_RD = np.ones((2, 600), np.float32)
    x_RD[1, 555] = np.inf
    _, done_M3 = segments.encode_many(x_RD, np.array([0, 1]), 4, 0, 0, np.array([0, 1]))
    assert done_M3[:, 0].tolist() == [-1.0, 555.0]


def test_sums() -> None:
    draw = np.random.default_rng(2)
    grad_PD = draw.standard_normal((4, 530)).astype(np.float32)
    at_T, first_R = np.array([2, 0, 2, 3]), np.array([0, 3, 4])
    scale_T, factor_T = draw.random(4).astype(np.float32), draw.random(4).astype(np.float32)
    sum_RD, energy_T = np.empty((2, 530), np.float32), np.empty(4)
    sum_rows(grad_PD, at_T, scale_T, factor_T, first_R, sum_RD, energy_T)
    for r in range(2):
        out = np.empty(530, np.float32)
        for t in range(first_R[r], first_R[r + 1]):
            energy = add_scaled(grad_PD[at_T[t]], scale_T[t], factor_T[t], t == first_R[r], out)
            assert energy == energy_T[t]
        assert np.array_equal(out, sum_RD[r])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["bucket", "dither", "rotated"])
def test_a_sum_of_small_payloads(name: str, layout: str) -> None:
    segments = get_segments(get_quantizer(name), LAYOUTS[layout])
    d, draw = LAYOUTS[layout].d, np.random.default_rng(4)
    sums, alone = segments.sums(3, 17), segments.sums(3, 17)
    assert isinstance(alone, GridSums)
    for row in range(TOGETHER + 9):
        bits, weight = [2, 4, 8][row % 3], float(draw.random())
        out = np.empty(segments.nbytes(bits), np.uint8)
        segments.encode(draw.standard_normal(d).astype(np.float32), bits, 3, 17, row, out)
        sums.add(out, bits, row, weight)
        alone.segments.add_to(alone.sum_D, out, bits, 3, 17, row, weight)
    assert np.array_equal(sums.result(0.5), alone.result(0.5))
