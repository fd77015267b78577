"""The result of a user's loss function: the loss to train on, and metrics to report."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gcdist.types import METRICS_MOST, check_metric_name


class BatchLoss(NamedTuple):
    """``loss``: 0-dim, floating point; None: the batch has nothing to train on. ``metrics``: numbers by name."""

    loss: Tensor | None
    metrics: dict[str, float]


def read_loss(value: Any) -> BatchLoss:
    """Separate the loss from the metrics.

    - A tensor with one number: the loss. None: there is nothing to train on.
    - A dict with the key "loss": its value is the loss, everything else is a metric.
    - Any other dict: the sum of its tensors that have a gradient; the rest is reported. If none has one: the sum of all.
    - A pair ``(loss, {"accuracy": ...})``: the loss as above, and more to report.

    Raises:
        ValueError: any other result, named in the text; or a dict with ambiguous parts.
    """
    if isinstance(value, Tensor):
        return BatchLoss(_check("loss_fn", value), {})
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], Mapping):
        loss, metrics = read_loss(value[0])
        return BatchLoss(loss, _metrics({**metrics, **value[1]}))
    if value is None:
        return BatchLoss(None, {})
    if isinstance(value, Mapping):
        if not value:
            raise ValueError("loss_fn gave an empty dict")
        return _named(value) if "loss" in value else _summed(value)
    return BatchLoss(_check("loss_fn", value), {})


def wants_step(loss_fn: Callable[..., Any]) -> bool:
    """Whether it has a parameter named ``step``, besides its first two, without a value bound to it."""
    given = loss_fn.keywords if isinstance(loss_fn, functools.partial) else {}
    try:
        parameters = list(inspect.signature(loss_fn).parameters.values())
    except (TypeError, ValueError):  # a callable whose parameters Python does not know
        return False
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    places = [
        i for i, p in enumerate(parameters) if p.name == "step" and p.kind in kinds and (i > 1 or p.kind is kinds[1])
    ]
    return bool(places) and "step" not in given


def _named(value: Mapping[str, Any]) -> BatchLoss:
    loss = value["loss"]
    others = {name: part for name, part in value.items() if name != "loss"}
    for name, part in others.items():
        if isinstance(part, Tensor) and part.requires_grad:
            raise ValueError(
                f"loss_fn gave a dict with 'loss' and with {name!r}, which has a gradient too: return their sum to train on "
                f"both, or (loss, {{{name!r}: {name}.detach()}}) to report it"
            )
    return BatchLoss(None if loss is None else _check("loss_fn's 'loss'", loss), _metrics(others))


def _summed(value: Mapping[str, Any]) -> BatchLoss:
    tensors = {name: part for name, part in value.items() if isinstance(part, Tensor)}
    trained = {name: part for name, part in tensors.items() if part.requires_grad} or tensors
    if not trained:
        trained = dict(value)  # to be refused by name
    terms = [_check(f"loss_fn's {name!r}", part).reshape(()) for name, part in trained.items()]
    return BatchLoss(
        torch.stack(terms).sum(), _metrics({name: part for name, part in value.items() if name not in trained})
    )


def _metrics(found: Mapping[str, Any]) -> dict[str, float]:
    """Numbers by name; NaN means no value for this batch and is left out."""
    if len(found) > METRICS_MOST:
        raise ValueError(f"loss_fn gave {len(found)} metrics; at most {METRICS_MOST} are reported")
    metrics = {}
    for name, value in found.items():
        check_metric_name(name)
        try:
            number = float(value.detach()) if isinstance(value, Tensor) else float(value)
        except (TypeError, ValueError, RuntimeError):
            shape = f" of shape {tuple(value.shape)}" if isinstance(value, Tensor) else ""
            raise ValueError(f"loss_fn's metric {name!r} must be one number, found {_kind(value)}{shape}") from None
        if not math.isnan(number):
            metrics[name] = number
    return metrics


def _check(what: str, value: object) -> Tensor:
    if not isinstance(value, Tensor):
        raise ValueError(f"{what} must be a 0-dim tensor or a dict of them, found {_kind(value)}")
    if value.numel() != 1 or not value.is_floating_point():
        raise ValueError(f"{what} must be one floating-point number, found {value.dtype} of shape {tuple(value.shape)}")
    return value


def _kind(value: object) -> str:
    return type(value).__name__
