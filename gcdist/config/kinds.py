"""Kinds of values that more than one type allows: seconds of each worker, a deadline, chances, bits."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator

from gcdist.config.section import MOST_SECONDS


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _per_worker(value: Any) -> Any:
    items = value if isinstance(value, (list, tuple)) else [value]
    if not items or not all(_number(x) and x >= 0 for x in items):
        raise ValueError("should be a number of at least 0, or a list of them, one for each worker")
    if max(items) > MOST_SECONDS:
        raise ValueError(f"should be at most {MOST_SECONDS:g}")
    return tuple(float(x) for x in items) if isinstance(value, (list, tuple)) else float(value)


def _deadline(value: Any) -> Any:
    if value in ("auto", "wait"):
        return value
    if not _number(value) or value <= 0:
        raise ValueError('should be seconds above 0, "auto" or "wait"')
    return float(value)


def _p(value: Any) -> Any:
    if value in ("measured", "model"):
        return value
    if not isinstance(value, (list, tuple)) or not value or not all(_number(x) and 0 <= x <= 1 for x in value):
        raise ValueError('should be "measured", "model" or a list of numbers from 0 to 1, one for each worker')
    return tuple(float(x) for x in value)


PerWorker: TypeAlias = Annotated[float | tuple[float, ...], BeforeValidator(_per_worker)]


def _bits_most(value: Any) -> Any:
    items = value if isinstance(value, (list, tuple)) else [value]
    if value is not None and not all(type(x) is int and 0 <= x <= 8 for x in items):
        raise ValueError("should be a whole number from 0 to 8, or a list of them, one for each worker")
    return tuple(value) if isinstance(value, (list, tuple)) else value


BitsMost: TypeAlias = Annotated[int | tuple[int, ...] | None, BeforeValidator(_bits_most)]
Deadline: TypeAlias = Annotated[float | Literal["auto", "wait"], BeforeValidator(_deadline)]
Misses: TypeAlias = Annotated[Literal["measured", "model"] | tuple[float, ...], BeforeValidator(_p)]
