"""Codes by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from gcdist.coding.auto import Auto
from gcdist.coding.cyclic import Cyclic
from gcdist.coding.graphs import Adjacency, Expander
from gcdist.coding.groups import ErasureHead, FractionalRepetition
from gcdist.coding.joint import Joint, SelfNormalisedJoint
from gcdist.coding.osgc import Osgc
from gcdist.coding.partial_memory import PartialMemory
from gcdist.coding.shifted import Shifted
from gcdist.coding.stochastic import Bernoulli, Stochastic
from gcdist.coding.uncoded import Ignore, IgnoreRescaled, Memory, Sync
from gcdist.names import unknown
from gcdist.types import GradientCode

_CODES: dict[str, Callable[..., GradientCode]] = {
    "auto": Auto,
    "sync": Sync,
    "ignore": Ignore,
    "ignore-rescaled": IgnoreRescaled,
    "memory": Memory,
    "frc": FractionalRepetition,
    "cyclic": Cyclic,
    "bgc": Bernoulli,
    "sgc": Stochastic,
    "erasurehead": ErasureHead,
    "expander": Expander,
    "adjacency": Adjacency,
    "osgc": Osgc,
    "joint": Joint,
    "self-normalised": SelfNormalisedJoint,
    "shifted": Shifted,
    "partial-memory": PartialMemory,
}


def code_names() -> tuple[str, ...]:
    """All names that `get_code` takes."""
    return tuple(_CODES)


def get_code(name: str, **options: object) -> GradientCode:
    """The code of that name; options are the fields of its class. ValueError names what is allowed.

    >>> get_code("osgc", allocation="chain").unbiased
    True
    """
    takes = code_options(name)
    for option in options:
        if option not in takes:
            raise unknown(f"option of code {name}:", option, takes or ("none",))
    return _CODES[name](**options)


def code_options(name: str) -> tuple[str, ...]:
    """The options that the code of that name takes; ValueError names what is allowed."""
    if name not in _CODES:
        raise unknown("code", name, _CODES)
    return tuple(inspect.signature(_CODES[name]).parameters)


def register_code(name: str, build: Callable[..., GradientCode]) -> None:
    """Add a code of one's own, in every process of the run; its options are the parameters of ``build``.

    Raises:
        ValueError: the name is taken by another code.
    """
    if _CODES.setdefault(name, build) is not build:
        raise ValueError(f"code {name!r} is there already: choose another name")
