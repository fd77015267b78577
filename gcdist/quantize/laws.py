"""Noise laws on dense data: quadratures over N(0,1) coordinates for the quantizers that scale a block to its extremes.

All are ``E|Q(x)-x|^2 / E|x|^2`` for blocks of n independent normal coordinates. The distribution of a block's scale is
exact; the coordinates other than the extreme one are taken as independent normals within the range of the grid.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from math import sqrt

import numpy as np
from scipy.special import ndtr

from gcdist.quantize.packing import BLOCK
from gcdist.types import F64


def blockwise(law: Callable[[int, int], float], bits: int, d: int, size: int = BLOCK) -> float:
    """The law of a vector of ``d`` coordinates cut into blocks of ``size``, the last one shorter."""
    full, rest = divmod(d, size)
    total = full * size * law(bits, size) if full else 0.0
    return (total + (rest * law(bits, rest) if rest else 0.0)) / max(d, 1)


@cache
def grid_noise(bits: int, n: int) -> float:
    """Law of `grid`: stochastic rounding with scale ``s = max(big/(L+1), small/L)`` of the block's two extremes.

    ``P(s <= t) = 2 (Phi((L+1)t) - Phi(-Lt))^n - (2 Phi(Lt) - 1)^n``; x at fraction f of a step has noise ``s^2 f (1-f)``.
    With 1 bit the levels are the extremes themselves: ``s^2 - x^2``.
    """
    short = max(1, 2 ** (bits - 1) - 1)
    edge = np.linspace(0, 9.0 / short, 1201)
    inner = (2 * ndtr(short * edge) - 1) ** n
    cdf = inner if bits == 1 else 2 * (ndtr((short + 1) * edge) - ndtr(-short * edge)) ** n - inner
    weight, scale = np.diff(cdf), (edge[1:] + edge[:-1]) / 2
    kept = weight > 1e-9
    weight, scale = weight[kept] / weight[kept].sum(), scale[kept]
    top = short if bits == 1 else short + 1
    return float((n - 1) / n * np.dot(weight, [_rounding(s, -short * s, top * s, bits) for s in scale]))


@cache
def dither_noise(bits: int, n: int) -> float:
    """Law of `dither`: ``E s^2/12`` with ``s = 2 max|x| / (2^b - 1)`` and ``P(max|x| <= t) = (2 Phi(t) - 1)^n``."""
    edge = np.linspace(0, 9.0, 4001)
    square = float(np.sum((1 - (2 * ndtr(edge) - 1) ** n) * 2 * edge) * (edge[1] - edge[0]))
    return square / (3 * ((1 << bits) - 1) ** 2)


@cache
def qsgd_noise(levels: int, d: int) -> float:
    """Law of `qsgd`: stochastic rounding of N(0,1) coordinates with scale ``sqrt(d)/levels``."""
    return _rounding(sqrt(max(d, 1)) / levels, -9.0, 9.0, 2)


def _rounding(scale: float, low: float, high: float, bits: int) -> float:
    """``E`` of the rounding noise of a normal coordinate within [low, high]."""
    x = np.linspace(low, high, 4097)
    density = np.exp(-x * x / 2)
    if bits == 1:
        noise: F64 = scale * scale - x * x
    else:
        part = x / scale - np.floor(x / scale)
        noise = scale * scale * part * (1 - part)
    return float(np.sum(noise * density) / np.sum(density))
