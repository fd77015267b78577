"""`eden` is asymptotically unbiased: its bias is measured here, by vector and bits."""

from __future__ import annotations

import numpy as np
import pytest

from gcdist.quantize import decode, get_quantizer
from gcdist.quantize.codebook import cells, centroids, distortion, thresholds
from gcdist.quantize.eden import SMALLEST
from gcdist.types import F32, F64, Key

D = 1024


def vector(kind: str) -> F32:
    x = np.zeros(D)
    if kind == "one_hot":
        x[3] = 1
    elif kind == "two_hot":
        x[3], x[700] = 1, 1
    elif kind == "ten_hot":
        x[::103] = np.arange(10) + 1
    elif kind == "constant":
        x[:] = 1
    else:
        x = np.random.default_rng(2).standard_normal(D)
    return x.astype(np.float32)


def mean(x: F32, bits: int, steps: range) -> F64:
    quantizer = get_quantizer("eden")
    payload, value, total = np.empty(quantizer.nbytes(D, bits), np.uint8), np.empty_like(x), np.zeros(D)
    for step in steps:
        key = Key(8, step, 0, 0)
        quantizer.encode(x, bits, key, payload)
        decode(quantizer, payload, D, bits, key, value)
        total += value
    return total / len(steps)


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("kind", ["one_hot", "two_hot", "ten_hot", "constant", "normal"])
def test_bias_is_small(kind: str, bits: int) -> None:
    """|bias| along x at most 0.02 |x|, and its square in all directions, from two independent halves, at most 0.02^2.

    With R = 2 x 2000 draws of noise w the standard errors are at most sqrt(w/R) = 0.012 along x (0.0004 if spread over all
    1024 directions) and about w/(sqrt(D) R/2) = 1e-5 for the square.
    """
    x = vector(kind)
    energy = float(np.dot(x.astype(np.float64), x))
    first, second = mean(x, bits, range(2000)), mean(x, bits, range(2000, 4000))
    along = float(np.dot((first + second) / 2 - x, x)) / energy
    square = float(np.dot(first - x, second - x)) / energy
    assert abs(along) <= 0.02
    assert square <= 0.02**2


@pytest.mark.parametrize("d", [SMALLEST, 300, 500, 511, 767])
def test_bias_is_small_where_blocks_overlap(d: int) -> None:
    """1 bit, energy that rises along the vector: scales of uneven parts had a bias of 0.3 |x| at d = 500, 0.4 at 127.

    The square in all directions from two halves of 2,000 draws of noise 0.571 has the standard error
    0.571/(sqrt(d) 2000) < 2e-5.
    """
    quantizer, x = get_quantizer("eden"), np.arange(1, d + 1, dtype=np.float32)
    payload, value, total = np.empty(quantizer.nbytes(d, 1), np.uint8), np.empty_like(x), np.zeros((2, d))
    for step in range(4000):
        key = Key(8, step, 0, 0)
        quantizer.encode(x, 1, key, payload)
        decode(quantizer, payload, d, 1, key, value)
        total[step % 2] += value
    first, second = total / 2000 - x
    assert float(np.dot(first, second)) / float(np.dot(x.astype(np.float64), x)) <= 0.02**2


@pytest.mark.parametrize("bits", [1, 4])
@pytest.mark.parametrize("d", [1, 2, 8, 31, 127, SMALLEST - 1])
def test_small_vectors_are_those_of_rotated_dither(d: int, bits: int) -> None:
    """Too few coordinates for a bias that vanishes: the unbiased quantizer of the same length takes their place."""
    eden, dither, x = get_quantizer("eden"), get_quantizer("rotated-dither"), np.arange(d, dtype=np.float32)
    assert eden.nbytes(d, bits) == dither.nbytes(d, bits)
    assert eden.noise(bits, d) == dither.noise(bits, d)
    assert eden.bound(bits, d) == dither.bound(bits, d)
    mine, theirs = (np.empty(dither.nbytes(d, bits), np.uint8) for _ in range(2))
    key, value, wanted = Key(1, 2, 3, 0), np.empty_like(x), np.empty_like(x)
    assert eden.encode(x, bits, key, mine) == dither.encode(x, bits, key, theirs)
    eden.check(mine, d, bits)
    decode(eden, mine, d, bits, key, value)
    decode(dither, theirs, d, bits, key, wanted)
    assert mine.tobytes() == theirs.tobytes()
    assert value.tobytes() == wanted.tobytes()


@pytest.mark.parametrize("bits", range(1, 9))
def test_codebook_is_lloyd_max(bits: int) -> None:
    """Each centroid is the mean of its cell, by quadrature; each lookup cell holds at most one threshold."""
    level, edge = centroids(bits).astype(np.float64), np.append(-np.inf, thresholds(bits).astype(np.float64))
    y = np.linspace(-9, 9, 2_000_001)
    weight = np.exp(-y * y / 2)
    code = np.searchsorted(edge[1:], y)
    means = np.bincount(code, weight * y) / np.bincount(code, weight)
    np.testing.assert_allclose(level, means, atol=2e-5)
    assert float(np.sum(weight * (y - level[code]) ** 2) / np.sum(weight)) == pytest.approx(distortion(bits), rel=1e-3)
    assert np.diff(cells(bits).astype(int)).max() <= 1
