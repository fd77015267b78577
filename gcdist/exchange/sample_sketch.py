"""A sketch of a sample: a few numbers that differ for two samples, and agree for one sample read on two machines.

Not a checksum: the same picture, decoded, turned or scaled by two builds of a library, differs in its last bits.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gcdist.protocol.messages import FEW, RANDOM, ValueSketch

MOST_VALUES = 8  # of a sample: an image, a label, boxes, ...
BLOCKS = POINTS = 4


def sketch(sample: Any) -> tuple[ValueSketch, ...]:
    """The first ``MOST_VALUES`` values of a sample, in dicts, lists and tuples, each as its kind, shape and some numbers.

    >>> sketch({"x": np.arange(3.0), "y": 7, "name": None})
    (ValueSketch(kind='float (3,)', numbers=(0.0, 1.0, 2.0)), ValueSketch(kind='int ()', numbers=(7.0,)), \
ValueSketch(kind='NoneType', numbers=()))
    """
    found: list[ValueSketch] = []
    _walk(sample, found)
    return tuple(found)


def common(first: tuple[ValueSketch, ...], again: tuple[ValueSketch, ...]) -> tuple[ValueSketch, ...]:
    """The values in which two readings of one sample agree; the others are `RANDOM`: the data set draws them."""
    if len(first) != len(again):
        return (ValueSketch(RANDOM, ()),)
    return tuple(a if a == b else ValueSketch(RANDOM, ()) for a, b in zip(first, again, strict=True))


def _walk(value: Any, found: list[ValueSketch]) -> None:
    if len(found) >= MOST_VALUES:
        return
    if isinstance(value, Mapping):
        for inner in value.values():
            _walk(inner, found)
    elif isinstance(value, (list, tuple)) and not _numbers(value):
        for inner in value:
            _walk(inner, found)
    else:
        found.append(_value(value))


def _numbers(value: Any) -> bool:
    return bool(value) and all(isinstance(each, (int, float)) for each in value)


def _value(value: Any) -> ValueSketch:
    if isinstance(value, (str, bytes)):
        raw = value if isinstance(value, bytes) else value.rsplit("/", 1)[-1].encode()  # folders differ between hosts
        return ValueSketch(f"text {hashlib.sha256(raw).hexdigest()[:12]}", ())
    array = _array(value)
    if array is None:
        return ValueSketch(type(value).__name__, ())
    kind = {"b": "bool", "i": "int", "u": "int", "f": "float"}[array.dtype.kind]
    kind = f"{kind} {array.shape}"
    if array.size <= FEW:
        return ValueSketch(kind, tuple(_short(each) for each in _finite(array).tolist()))
    if array.dtype.kind in "iu" and array.dtype.itemsize > 1:  # numbers of words, not of a picture: exact everywhere
        raw = np.ascontiguousarray(array.reshape(-1), np.int64).tobytes()
        return ValueSketch(f"{kind} {hashlib.sha256(raw).hexdigest()[:12]}", ())
    flat = _finite(array)
    means = [float(block.mean()) for block in np.array_split(flat, BLOCKS)]
    points = flat[[(2 * i + 1) * flat.size // (2 * POINTS) for i in range(POINTS)]].tolist()
    size = math.sqrt(float(np.square(flat).mean()))
    return ValueSketch(kind, tuple(_short(each) for each in (size, *means, *points)))


def _array(value: Any) -> NDArray[Any] | None:
    """Tensors, arrays, numbers and pictures as an array; None: it is none of these."""
    try:
        if isinstance(value, Tensor):
            dense = (
                value.detach().cpu().to_dense() if value.layout.__repr__() != "torch.strided" else value.detach().cpu()
            )
            array = (dense.float() if dense.is_floating_point() else dense).numpy()
        elif isinstance(value, (np.ndarray, np.generic, int, float)) or hasattr(value, "__array_interface__"):
            array = np.asarray(value)
        else:
            return None
    except (TypeError, ValueError, RuntimeError):
        return None
    return array if array.dtype.kind in "biuf" else None


def _finite(array: NDArray[Any]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = np.nan_to_num(array.reshape(-1).astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    return found


def _short(value: float) -> float:
    return value if value.is_integer() and abs(value) < 2**53 else float(f"{value:.4g}")
