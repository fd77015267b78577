"""The layout of a model's flat vector and buffers: sizes and checks of messages follow from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gcdist.types import F64, Layout


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """Of one model, from one plan to the next: a new object whenever the vector has grown.

    ``trained`` are the numbers, in the order of ``named_parameters``, of the parameters in the vector; None: those of the
    start. ``float_sizes`` are the values of each float buffer, ``kinds`` (dtype, values) of each integer or bool one, wide
    dtypes first, so that each begins at a multiple of its own size. B buffers: the float ones, then the others.
    """

    layout: Layout
    trained: tuple[int, ...] | None = None
    parameters: int = 0  # in the vector
    float_sizes: tuple[int, ...] = ()
    kinds: tuple[tuple[np.dtype[Any], int], ...] = ()

    @property
    def floats(self) -> int:
        """Values of the float buffers."""
        return sum(self.float_sizes)

    @property
    def int_nbytes(self) -> int:
        """Bytes of the integer and bool buffers, each in its own dtype."""
        return sum(dtype.itemsize * count for dtype, count in self.kinds)

    @property
    def buffers(self) -> int:
        """B."""
        return len(self.float_sizes) + len(self.kinds)

    def update_sizes(self, shares_B: F64) -> tuple[int, int]:
        """Values of the float buffers, and bytes of the others, that have a share."""
        floats = len(self.float_sizes)
        some = (shares_B > 0).tolist()
        return (
            sum(size for size, has in zip(self.float_sizes, some[:floats], strict=True) if has),
            sum(dtype.itemsize * count for (dtype, count), has in zip(self.kinds, some[floats:], strict=True) if has),
        )
