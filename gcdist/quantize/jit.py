"""Compiled kernels: one decorator for entry points (lazy, cached on disk, without the GIL), one for what they inline.

No kernel uses fast-math where it could change a byte, and numba contracts nothing by itself: a product is rounded, then
added, so that both ends of a link and every machine compute the same bits (math section 6).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from functools import cache, wraps
from os import environ
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, ParamSpec, TypeVar, cast

import numba
from numba import types

# Without numba's runtime there is no reference counting in inner loops, and no allocation: callers pass scratch arrays.
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "_nrt": False}

P = ParamSpec("P")
T = TypeVar("T")

# Payload slices begin anywhere in a message and may be views of immutable bytes.
BYTES_IN = types.Array(types.uint8, 1, "C", readonly=True, aligned=False)
BYTES_OUT = types.Array(types.uint8, 1, "C", aligned=False)
WORDS_IN = types.Array(types.uint32, 1, "C", readonly=True, aligned=False)
WORDS_OUT = types.Array(types.uint32, 1, "C", aligned=False)
HALVES_IN = types.Array(types.uint16, 1, "C", readonly=True, aligned=False)
HALVES_OUT = types.Array(types.uint16, 1, "C", aligned=False)
FLOATS_IN = types.Array(types.float32, 1, "C", readonly=True, aligned=False)
FLOATS_OUT = types.Array(types.float32, 1, "C", aligned=False)
SCRATCH = types.Array(types.float32, 1, "C")
SUMS = types.UniTuple(types.float64, 2)  # type: ignore[no-untyped-call]
# Result of an encoding: first bad coordinate or -1, |x|^2, |Q(x)-x|^2.
ENCODED = types.Tuple((types.int64, types.float64, types.float64))  # type: ignore[no-untyped-call]


@cache
def cache_folder() -> str | None:
    """Folder of the compiled kernels, one per state of the sources; None if it cannot be written (the log says so).

    It is per user: in ``NUMBA_CACHE_DIR`` if that is set, else in the XDG cache (``~/.cache``). Without it nothing
    fails, but every process compiles what it uses.
    """
    sources = sorted(Path(__file__).parent.glob("*.py"))
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:12]
    root = environ.get("NUMBA_CACHE_DIR") or environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        folder = Path(root).expanduser() / "gcdist" / f"kernels-{digest}"  # RuntimeError: this user has no home folder
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except (OSError, RuntimeError) as error:
        logging.getLogger("gcdist").warning("kernels are compiled anew in this process: no cache (%s)", error)
        return None
    return str(folder)


def kernel(*signature: object) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Compile for ``signature`` (result, arguments...) at the first call, and keep the machine code in `cache_folder`."""

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @cache
        def compiled() -> Callable[P, T]:
            result, *arguments = signature
            typed, config = cast(Any, result)(*arguments), cast(Any, numba.config)
            folder, before = cache_folder(), config.CACHE_DIR
            if folder is not None:
                try:
                    config.CACHE_DIR = folder
                    return cast(Callable[P, T], numba.njit(typed, cache=True, **_OPTIONS)(function))
                except OSError as error:  # a full disk
                    logging.getLogger("gcdist").warning("kernel %s is not kept: %s", function.__name__, error)
                finally:
                    config.CACHE_DIR = before
            return cast(Callable[P, T], numba.njit(typed, **_OPTIONS)(function))

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            return compiled()(*args, **kwargs)

        return call

    return decorate


def inlined(function: Callable[P, T]) -> Callable[P, T]:
    """Mark a function that kernels call; it is compiled into each of them."""
    return cast(Callable[P, T], numba.njit(**_OPTIONS, forceinline=True)(function))
