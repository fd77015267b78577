"""`eden`: each row's own random rotation, the Lloyd-Max codebook of N(0,1), and the scale that undoes its shrinking."""

from __future__ import annotations

import numpy as np
from numba import int64, types

from gcdist.quantize.base import Direct, blocks, check_codes, cut
from gcdist.quantize.codebook import CELLS, cells, centroids, distortion, thresholds
from gcdist.quantize.counter import stream
from gcdist.quantize.floats import add_floats
from gcdist.quantize.grid import measure
from gcdist.quantize.hadamard import SIZE, block_size, chunks, rotate, rotate_woven, widest
from gcdist.quantize.jit import (
    BYTES_IN,
    BYTES_OUT,
    FLOATS_IN,
    FLOATS_OUT,
    SCRATCH,
    SUMS,
    WORDS_IN,
    WORDS_OUT,
    inlined,
    kernel,
)
from gcdist.quantize.lanes import (
    LANES,
    U32,
    exceeds,
    fill,
    fill_words,
    load,
    lookup,
    lookup_words,
    rounded_down,
    signed_max,
    signed_min,
    store,
    total,
)
from gcdist.quantize.packing import BLOCK, get, get_tail, packed_bytes, put, put_tail
from gcdist.quantize.rotated import RotatedDither
from gcdist.types import F32, U8, Key

_TABLE = types.Array(types.float32, 1, "C")
_INDEX = types.Array(types.uint32, 1, "C")


SMALLEST = 256  # below it the rotated coordinates are too few to be normal: a bias of up to 0.4 |x| at 1 bit
_SMALL = RotatedDither()


class Eden(Direct):
    """Vargaftik et al., *EDEN*, ICML 2022: ``y = R x``, ``q`` the nearest centroids of ``y sqrt(n)/|y|``, value
    ``R^-1 S q`` with ``S = |y|^2/<q, y>`` for every n = 4096 coordinates (one float32 each).

    The least noise of all at equal bits. With a Haar rotation it would be unbiased. R is two rounds of signs and
    Hadamard here (one round is biased by up to 0.9 |x| on 2-sparse vectors at 1 bit), so that it is asymptotically
    unbiased only: ``unbiased`` is False. Each row has its own R: with a shared one, equal vectors would have equal
    codes, and their errors would add coherently. Vectors below `SMALLEST` coordinates use `rotated-dither`, which is
    unbiased and has the same length.

    >>> Eden().nbytes(8192, 1)
    1032
    """

    name = "eden"
    unbiased = False

    def nbytes(self, d: int, bits: int) -> int:
        """``ceil(d bits / 8) + 4 ceil(d / 4096)``."""
        self._allowed(bits)
        return packed_bytes(d, bits) + 4 * blocks(d, SIZE)

    def noise(self, bits: int, d: int) -> float:
        """``D/(1-D)``, D the distortion of the codebook on N(0,1): the error is orthogonal to the scaled code."""
        self._allowed(bits)
        return _SMALL.noise(bits, d) if d < SMALLEST else distortion(bits) / (1 - distortion(bits))

    def bound(self, bits: int, d: int) -> float:
        """None (inf): a rotated vector can miss the codebook, with a probability that falls with d."""
        self._allowed(bits)
        return _SMALL.bound(bits, d) if d < SMALLEST else float(np.inf)

    def _keys(self, key: Key) -> tuple[np.uint64, np.uint64]:
        return stream(key, 2), stream(key, 3)

    def _encode(self, x: F32, bits: int, key: Key, out: U8) -> tuple[int, float, float]:
        if len(x) < SMALLEST:
            return _SMALL._encode(x, bits, key, out)
        scale_S, words, tail = cut(out, len(x), bits, blocks(len(x), SIZE))
        tables = thresholds(bits), cells(bits), centroids(bits)
        n, energy, error = block_size(len(x)), 0.0, 0.0
        cuts = chunks(len(x), n)
        buffer, scratch = np.empty(widest(cuts) + BLOCK, np.float32), np.empty(8 * LANES, np.float32)
        (first, second), lanes, spare = self._keys(key), np.empty(LANES, np.float32), np.empty(2 * n, np.float32)
        for lo, hi in cuts:
            bad, _, _ = measure(x[lo:hi])
            if bad >= 0:
                return lo + bad, 0.0, 0.0
            y = buffer[: blocks(hi - lo) * BLOCK]
            y[: hi - lo], y[hi - lo :] = x[lo:hi], 0
            rotate(y[: hi - lo], n, first, lo // n, False, lanes)
            rotate_woven(y[: hi - lo], n, second, lo // n, False, lanes, spare)
            scales, codes = scale_S[lo // SIZE :], words[lo // BLOCK * LANES * bits :]
            a, b = encode_codebook(y, hi - lo, bits, *tables, scales, codes, tail, scratch)
            energy, error = energy + a, error + b
        return -1, energy, error

    def _check(self, payload: U8, d: int, bits: int) -> None:
        if d < SMALLEST:
            _SMALL._check(payload, d, bits)
        else:
            check_codes(payload, d, bits, blocks(d, SIZE), 8.0, signed=False)

    def add_to(self, out: F32, payload: U8, bits: int, key: Key, weight: float) -> None:
        """See `Direct.add_to`; rotates every message back."""
        if len(out) < SMALLEST:
            sums = _SMALL.accumulator(len(out), key)
            sums.add(payload, bits, key.row, weight)
            sums.finish(out)
            return
        scale_S, words, tail = cut(payload, len(out), bits, blocks(len(out), SIZE))
        n = block_size(len(out))
        cuts = chunks(len(out), n)
        buffer, scratch = np.empty(widest(cuts) + BLOCK, np.float32), np.empty(8 * LANES, np.float32)
        (first, second), lanes, spare = self._keys(key), np.empty(LANES, np.float32), np.empty(2 * n, np.float32)
        for lo, hi in cuts:
            y = buffer[: blocks(hi - lo) * BLOCK]
            scales, codes = scale_S[lo // SIZE :], words[lo // BLOCK * LANES * bits :]
            decode_codebook(scales, codes, tail, bits, centroids(bits), hi - lo, y, scratch)
            rotate_woven(y[: hi - lo], n, second, lo // n, True, lanes, spare)
            rotate(y[: hi - lo], n, first, lo // n, True, lanes)
            add_floats(y[: hi - lo], np.float32(weight), out[lo:hi])


@inlined
def square_sum(y: F32, start: int, stop: int) -> float:
    """Sum of squares in float64; both ends are multiples of 512."""
    found = 0.0
    for at in range(start, stop, BLOCK):
        part, top = fill(np.float32(0)), np.float32(0)
        for i in range(at, at + BLOCK, LANES):
            part = part + load(y, i) * load(y, i)
        top = total(part)
        if 1e-20 < top < 1e30:
            found += np.float64(top)
        else:  # float32 squares would leave its range
            for i in range(at, at + BLOCK):
                found += np.float64(y[i]) * np.float64(y[i])
    return found


@kernel(
    SUMS,
    SCRATCH,
    int64,
    int64,
    _TABLE,
    _INDEX,
    _TABLE,
    FLOATS_OUT,
    WORDS_OUT,
    BYTES_OUT,
    SCRATCH,
)
def encode_codebook(
    y: F32,
    d: int,
    bits: int,
    threshold: F32,
    cell: U32,
    centroid: F32,
    scale_S: F32,
    words: U32,
    tail: U8,
    scratch: F32,
) -> tuple[float, float]:
    """Pack the nearest centroids of the rotated ``y`` (d, zeros up to a multiple of 512); ``|x|^2`` and ``|Q(x)-x|^2``."""
    energy, error = 0.0, 0.0
    packed = scratch.view(np.uint32)
    full = d // BLOCK * BLOCK
    lowest, highest = fill_words(np.uint32(0)), fill_words(np.uint32(CELLS - 1))
    per_unit, middle = fill(np.float32(64)), fill(np.float32(CELLS // 2))
    for start in range(0, d, SIZE):
        stop = min(start + SIZE, len(y))
        group = square_sum(y, start, stop)
        size = min(start + SIZE, d) - start
        unit = np.sqrt(group / size)
        down = np.float32(2.0**64) if unit < 2.0**-100 else np.float32(1)
        lift, inverse = fill(down), fill(np.float32(1 / (unit * down)) if unit > 0 else np.float32(0))
        dot, norm = 0.0, 0.0
        for at in range(start, stop, BLOCK):
            a, b = fill(np.float32(0)), fill(np.float32(0))
            for m in range(BLOCK // LANES):
                v = load(y, at + m * LANES) * lift * inverse
                guess = lookup_words(cell, signed_min(signed_max(rounded_down(v * per_unit + middle), lowest), highest))
                code = guess + exceeds(v, lookup(threshold, guess))
                q = lookup(centroid, code)
                a, b = a + q * v, b + q * q
                if at < full:
                    put(words, at * bits // 32, m, bits, code)
                else:
                    put(packed, 0, m, bits, code)
            dot += np.float64(total(a))
            norm += np.float64(total(b))
        if stop > d:  # zeros of the padding have an innermost code
            extra = np.float64(centroid[1 << (bits - 1)])
            norm -= np.float64(stop - d) * extra * extra
            put_tail(packed, bits, d - full, tail)
        # <q, v> > 0 unless y = 0: a code has the sign of its coordinate
        scale_S[start // SIZE] = np.float32(unit * size / dot) if dot > 0 else np.float32(0)
        energy += group
        if dot > 0:
            error += group * max(norm * size / (dot * dot) - 1, 0.0)
    return energy, error


@kernel(types.void, FLOATS_IN, WORDS_IN, BYTES_IN, int64, _TABLE, int64, SCRATCH, SCRATCH)
def decode_codebook(scale_S: F32, words: U32, tail: U8, bits: int, centroid: F32, d: int, y: F32, scratch: F32) -> None:
    """Write ``S q`` to ``y`` (d, rounded up to a multiple of 512)."""
    packed = scratch.view(np.uint32)
    full = d // BLOCK * BLOCK
    for at in range(0, full, BLOCK):
        scale = fill(scale_S[at // SIZE])
        for m in range(BLOCK // LANES):
            store(y, at + m * LANES, scale * lookup(centroid, get(words, at * bits // 32, m, bits)))
    if d > full:
        get_tail(tail, bits, d - full, packed)
        scale = fill(scale_S[full // SIZE])
        for m in range(BLOCK // LANES):
            store(y, full + m * LANES, scale * lookup(centroid, get(packed, 0, m, bits)))
