"""Quantizers by name."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gcdist.names import nearest
from gcdist.quantize.base import Base
from gcdist.quantize.bucket import Bucket
from gcdist.quantize.dither import Dither
from gcdist.quantize.eden import Eden
from gcdist.quantize.floats import Bfloat16, Float32
from gcdist.quantize.qsgd import Qsgd
from gcdist.quantize.rotated import Rotated, RotatedDither
from gcdist.types import F32, F64, U8, Key, Quantizer

WIDEST_BITS = 32  # packed bits a coordinate
_CLASSES: dict[str, Callable[..., Quantizer]] = {
    kind.name: kind for kind in (Float32, Bfloat16, Dither, Bucket, Qsgd, Rotated, RotatedDither, Eden)
}


def quantizer_names() -> tuple[str, ...]:
    """All names that `get_quantizer` takes."""
    return tuple(_CLASSES)


def get_quantizer(name: str, **options: object) -> Quantizer:
    """The quantizer called ``name``; ValueError for an unknown name or option.

    >>> get_quantizer("bukcet")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ValueError: unknown quantizer 'bukcet'; did you mean 'bucket'? Known: float32, ...
    """
    if name not in _CLASSES:
        near = nearest(name, _CLASSES)
        hint = f"; did you mean {near!r}?" if near else "."
        raise ValueError(f"unknown quantizer {name!r}{hint} Known: {', '.join(_CLASSES)}")
    try:
        return _CLASSES[name](**options)
    except TypeError as error:
        raise ValueError(f"quantizer {name!r} does not take the options {sorted(options)}") from error


def register_quantizer(name: str, build: Callable[..., Quantizer]) -> None:
    """Add a quantizer of one's own, in every process of the run; its options are the parameters of ``build``.

    Raises:
        ValueError: the name is taken by another quantizer.
    """
    if _CLASSES.setdefault(name, build) is not build:
        raise ValueError(f"quantizer {name!r} is there already: choose another name")


def bits_allowed(quantizer: Quantizer) -> tuple[int, ...]:
    """The packed bits a coordinate that ``quantizer`` takes.

    >>> bits_allowed(get_quantizer("float32"))
    (32,)
    """
    return quantizer.bits_allowed if isinstance(quantizer, Base) else tuple(range(1, 9))


def noise_table(quantizer: Quantizer, d: int, bits_max: int = WIDEST_BITS) -> F64:
    """The planner's law: expected omega by packed bits, (bits_max+1,); inf at 0 and at bits that are not taken.

    >>> noise_table(get_quantizer("bucket"), 10**6, 4).round(3).tolist()
    [inf, 9.675, 1.274, 0.152, 0.03]
    """
    table = np.full(bits_max + 1, np.inf)
    for bits in bits_allowed(quantizer):
        if bits <= bits_max:
            table[bits] = quantizer.noise(bits, d)
    return table


def decode(quantizer: Quantizer, payload: U8, d: int, bits: int, key: Key, out: F32) -> None:
    """Write Q(x) into ``out`` (d,) float32, the same bits at both ends and on every machine; `check` the payload before.

    These are the bits that ``quantizer.accumulator(d, key)`` adds to zeros with weight 1.
    """
    if isinstance(quantizer, Base):
        quantizer.decode(payload, d, bits, key, out)
        return
    out[:] = 0
    sums = quantizer.accumulator(d, key)
    sums.add(payload, bits, key.row, 1.0)
    sums.finish(out)


def warm(quantizer: Quantizer) -> None:
    """Compile or load the quantizer's kernels now (before a clock runs), for all bits at once."""
    for bits in bits_allowed(quantizer)[:1]:
        x, out = np.ones(513, np.float32), np.empty(quantizer.nbytes(513, bits), np.uint8)
        key = Key(0, 0, 0, 0)
        quantizer.encode(x, bits, key, out)
        quantizer.check(out, 513, bits)
        decode(quantizer, out, 513, bits, key, x)
        sums = quantizer.accumulator(513, key)
        sums.add(out, bits, 0, 1.0)
        sums.finish(x)
