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
LARGEST = types.Tuple((types.int64, types.float64))  # type: ignore[no-untyped-call]
# What an encoding returns: first bad coordinate or -1, |x|^2, |Q(x)-x|^2.
ENCODED = types.Tuple((types.int64, types.float64, types.float64))  # type: ignore[no-untyped-call]


@cache
def cache_folder() -> str:
    """Folder of the compiled kernels: per user (``NUMBA_CACHE_DIR`` or the XDG cache), one per version of the sources."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:12]
    root = environ.get("NUMBA_CACHE_DIR") or environ.get("XDG_CACHE_HOME") or str(Path("~/.cache").expanduser())
    return str(Path(root) / "gcdist" / f"kernels-{digest}")


def kernel(*signature: object) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Compile for ``signature`` (result, arguments...) at the first call, and keep the machine code on disk.

    If the cache folder cannot be written, the kernel is compiled again in every process and the log says so once: slower to
    start, never an error.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @cache
        def compiled() -> Callable[P, T]:
            result, *arguments = signature
            typed = cast(Any, result)(*arguments)
            config: Any = numba.config
            before = config.CACHE_DIR
            try:
                config.CACHE_DIR = cache_folder()
                return cast(Callable[P, T], numba.njit(typed, cache=True, **_OPTIONS)(function))
            except (OSError, RuntimeError) as error:
                _tell_once(str(error))
                return cast(Callable[P, T], numba.njit(typed, **_OPTIONS)(function))
            finally:
                config.CACHE_DIR = before

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            return compiled()(*args, **kwargs)

        return call

    return decorate


@cache
def _tell_once(reason: str) -> None:
    logging.getLogger("gcdist").warning("kernels are compiled anew in this process: no cache in %s", reason)


def inlined(function: Callable[P, T]) -> Callable[P, T]:
    """Mark a function that kernels call; it is compiled into each of them."""
    return cast(Callable[P, T], numba.njit(**_OPTIONS, forceinline=True)(function))
