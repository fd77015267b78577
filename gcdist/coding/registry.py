"""Codes by name."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable

from gcdist.coding.osgc import Osgc
from gcdist.coding.uncoded import IgnoreRescaled, Memory, Sync
from gcdist.types import GradientCode

_CODES: dict[str, Callable[..., GradientCode]] = {
    "sync": Sync,
    "ignore-rescaled": IgnoreRescaled,
    "memory": Memory,
    "osgc": Osgc,
}


def code_names() -> tuple[str, ...]:
    """All names that `get_code` takes."""
    return tuple(_CODES)


def unknown(what: str, name: str, allowed: Iterable[str]) -> ValueError:
    """One line that names what was found, the nearest allowed name, and all allowed names."""
    allowed = tuple(allowed)
    near = difflib.get_close_matches(name, allowed, n=1)
    hint = f" did you mean {near[0]!r}?" if near else ""
    return ValueError(f"{what} {name!r} is not known:{hint} allowed are {', '.join(allowed)}")


def get_code(name: str, **options: object) -> GradientCode:
    """The code of that name; options are the fields of its class. ValueError names what is allowed.

    >>> get_code("osgc", allocation="chain").unbiased
    True
    """
    if name not in _CODES:
        raise unknown("code", name, _CODES)
    takes = inspect.signature(_CODES[name]).parameters
    for option in options:
        if option not in takes:
            raise unknown(f"option of code {name}:", option, takes or ("none",))
    return _CODES[name](**options)
