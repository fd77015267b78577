"""A copy of a model, also of one that keeps computed tensors as attributes."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn


def copied(model: nn.Module) -> nn.Module:
    """A deep copy that shares nothing with the model.

    Weights that hooks compute before each forward pass (``torch.nn.utils.weight_norm``, ``spectral_norm``, ``prune``) are
    plain attributes with a graph, which python's deepcopy refuses: the copy has their values until its first forward pass.

    Raises:
        ValueError: something in it cannot be copied; the line names the innermost module.
    """
    memo: dict[int, Any] = {}
    for module in model.modules():
        for tensor in _computed(module.__dict__):
            memo[id(tensor)] = tensor.detach().clone()
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:
        what = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ValueError(
            f"gcdist.simulate computes with a copy of the model, and {_where(model)} cannot be copied ({what}); real "
            "processes need none"
        ) from None


def _computed(attributes: dict[str, Any]) -> Iterator[Tensor]:
    """Tensors with a graph among a module's own attributes, and in lists, tuples and dicts of them."""
    for name, value in attributes.items():
        if name in ("_parameters", "_buffers", "_modules"):
            continue
        held = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else (value,)
        for each in held:
            if isinstance(each, Tensor) and each.grad_fn is not None:
                yield each


def _where(model: nn.Module) -> str:
    """The innermost module that cannot be copied."""
    found = type(model).__name__
    for name, module in model.named_modules():
        try:
            copy.deepcopy(module)
        except Exception:
            found = f"{name} ({type(module).__name__})" if name else found
    return found
