"""The bits a coordinate: few on slow links, and on fast links enough that rounding does not matter."""

from __future__ import annotations

import numpy as np

from gcdist.planning.objective import Prospect
from gcdist.types import F64

WIDTHS = (2, 3, 4, 5, 6, 8)  # bits that are compared; with 8 rounding is next to nothing: not to quantize
DOWN = 0.5  # share of a link's time that fewer bits up can save at most: the way down has about as many bytes
_KEEP = 1.03  # the present bits stay while their cost is within this factor of the best


def choose_bits(now: Prospect, bits: int, omega_B: F64, link_seconds: float, most: int, noise_most: float) -> int:
    """The bits with the least cost, at loads and a deadline that are chosen already.

    The time of a link is not known by bits: more of them are taken to lengthen all of it, fewer to shorten half of it. So a
    change is made where it pays whatever the rest of that time is.

    Args:
        now: what is expected with the present bits.
        bits: these.
        omega_B: quantization noise by bits, (33,); inf where there are none.
        link_seconds: of a round's way down, of encoding and of the message's way up at the present bits, the longest.
        most: bits of a worker.
        noise_most: rounding may add so much over the signal.
    """
    if not np.isfinite(omega_B[bits]) or omega_B[bits] <= 0:
        return bits
    costs = {}
    for width in {bits, *(w for w in WIDTHS if w <= most)}:
        if not np.isfinite(omega_B[width]):
            continue
        rounding = now.rounding * float(omega_B[width] / omega_B[bits])
        share = width / bits - 1
        seconds = now.seconds + link_seconds * (share if share > 0 else DOWN * share)
        if width == bits or rounding - now.rounding <= noise_most - max(0.0, now.noise):
            costs[width] = Prospect(seconds, now.stragglers, rounding).cost
    best = min(costs, key=lambda width: (costs[width], width))
    return bits if costs[bits] <= _KEEP * costs[best] else best
