"""Nested state, as ``state_dict()`` gives it, as JSON and named tensors and back; nothing is ever pickled.

Numbers, text, lists and dictionaries with text keys are JSON as they are. What JSON has no form for is a dictionary of one
key that begins with ``%``: tuples, other dictionaries, tensors and arrays (by their name), numbers that are not finite.
"""

from __future__ import annotations

import io
import math
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

Tensors: TypeAlias = dict[str, Tensor]

_DICTIONARIES = (dict, OrderedDict, defaultdict, Counter)


class StateError(ValueError):
    """State that cannot be kept, or that was not written by `pack`."""


def pack(value: Any, name: str = "state") -> tuple[Any, Tensors]:
    """``value`` as JSON's types and the tensors that it names.

    Tensors and arrays are copied, contiguous and on the CPU. An array or number of numpy's comes back as such, a
    dictionary as a ``dict`` (or a ``Counter``), keys are text or integers.

    Args:
        value: nested dictionaries, lists and tuples of tensors, numpy arrays and numbers, numbers, text, bytes,
            ``io.BytesIO``, booleans, None.
        name: what it is, for errors and for the tensors' names.

    Raises:
        StateError: one line that names the key and the type of what is neither.

    >>> pack({"lr": 0.1, 3: (1, None)})
    ({'%dict': [['lr', 0.1], [3, {'%tuple': [1, None]}]]}, {})
    >>> pack({"ema": object()}, "mine")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    gcdist.run.nested_state.StateError: mine/ema is of type object: it cannot be kept in a checkpoint (tensors, ...)
    """
    tensors: Tensors = {}
    try:
        return _pack(value, name, tensors), tensors
    except RecursionError:
        raise StateError(f"{name} holds itself, or is nested too deeply: it cannot be kept in a checkpoint") from None


def unpack(packed: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The reverse of `pack`.

    Raises:
        StateError: a form that `pack` does not write, or a tensor that is not there.

    >>> unpack(*pack({"lr": 0.1, 3: (1, float("inf"))}))
    {'lr': 0.1, 3: (1, inf)}
    """
    if isinstance(packed, list):
        return [unpack(inner, tensors) for inner in packed]
    if not isinstance(packed, dict):
        return packed
    tag = next(iter(packed), "")
    if not tag.startswith("%"):
        return {key: unpack(inner, tensors) for key, inner in packed.items()}
    held = packed[tag]
    match tag:
        case "%tuple":
            return tuple(unpack(inner, tensors) for inner in held)
        case "%dict":
            return {key: unpack(inner, tensors) for key, inner in held}
        case "%counter":
            return Counter({key: unpack(inner, tensors) for key, inner in held})
        case "%float":
            return float(held)
        case "%bytes" | "%bytearray" | "%BytesIO" if held in tensors:
            raw = tensors[held].numpy().tobytes()
            return raw if tag == "%bytes" else bytearray(raw) if tag == "%bytearray" else io.BytesIO(raw)
        case "%tensor" | "%array" | "%number" if held in tensors:
            tensor = tensors[held]
            return tensor if tag == "%tensor" else tensor.numpy() if tag == "%array" else tensor.numpy()[()]
    raise StateError(f"{tag} {held!r} is not known")


def _pack(value: Any, name: str, tensors: Tensors) -> Any:
    kind = type(value)
    if value is None or kind in (bool, int, str) or (kind is float and math.isfinite(value)):
        return value
    if kind is float:
        return {"%float": str(value)}
    if isinstance(value, Tensor):
        if value.layout != torch.strided or value.is_quantized:
            raise StateError(f"{name} is a tensor of layout {value.layout}: it cannot be kept in a checkpoint")
        return {"%tensor": _add(tensors, name, value.detach().cpu().clone(memory_format=torch.contiguous_format))}
    if kind in (bytes, bytearray, io.BytesIO):
        raw = np.frombuffer(bytes(value.getbuffer() if kind is io.BytesIO else value), np.uint8).copy()
        return {f"%{kind.__name__}": _add(tensors, name, torch.from_numpy(raw))}
    if isinstance(value, (np.ndarray, np.generic)):
        try:
            tensor = torch.from_numpy(np.array(value, order="C"))
        except TypeError:
            raise StateError(f"{name} is an array of {value.dtype}: it cannot be kept in a checkpoint") from None
        return {"%array" if isinstance(value, np.ndarray) else "%number": _add(tensors, name, tensor)}
    if kind is list:
        return [_pack(inner, f"{name}/{i}", tensors) for i, inner in enumerate(value)]
    if kind in (tuple, torch.Size):
        return {"%tuple": [_pack(inner, f"{name}/{i}", tensors) for i, inner in enumerate(value)]}
    if kind in _DICTIONARIES:
        return _dictionary(value, name, tensors)
    raise StateError(
        f"{name} is of type {kind.__name__}: it cannot be kept in a checkpoint (tensors, numpy arrays, numbers, text, "
        "bytes, booleans, None, and lists, tuples and dictionaries of them can)"
    )


def _dictionary(value: dict[Any, Any], name: str, tensors: Tensors) -> Any:
    items = []
    for key, inner in value.items():
        if type(key) not in (str, int):
            raise StateError(f"{name} has the key {key!r} of type {type(key).__name__}: keys must be text or integers")
        items.append([key, _pack(inner, f"{name}/{key}", tensors)])
    if isinstance(value, Counter):
        return {"%counter": items}
    if all(type(key) is str and not key.startswith("%") for key, _ in items):
        return dict(items)
    return {"%dict": items}


def _add(tensors: Tensors, name: str, tensor: Tensor) -> str:
    while name in tensors:  # keys may hold a slash themselves
        name += "~"
    tensors[name] = tensor
    return name
