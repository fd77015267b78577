"""What the flat vector and the buffers of a model look like: all that sizes and checks messages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gcdist.types import U8, Layout


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """Of one model, from one plan to the next: a new object whenever the vector has grown.

    ``trained`` are the numbers, in the order of ``named_parameters``, of the parameters in the vector; None: those of the
    start. ``kinds`` are the integer and bool buffers as (dtype, values), wide dtypes first, so that each begins at a
    multiple of its own size.
    """

    layout: Layout
    trained: tuple[int, ...] | None = None
    parameters: int = 0  # in the vector
    floats: int = 0  # values of the float buffers
    kinds: tuple[tuple[np.dtype[Any], int], ...] = ()

    @property
    def int_nbytes(self) -> int:
        """Bytes of the integer and bool buffers, each in its own dtype."""
        return sum(dtype.itemsize * count for dtype, count in self.kinds)

    def keep_largest(self, ints: U8, others: U8) -> None:
        """``ints = max(ints, others)``, value by value; both (int_nbytes,)."""
        at = 0
        for dtype, count in self.kinds:
            where = slice(at, at + dtype.itemsize * count)
            mine = ints[where].view(dtype)
            np.maximum(mine, others[where].view(dtype), out=mine)
            at = where.stop
