"""A row that was made together with those of other workers: what the simulator hands to a `RowMaker`."""

from __future__ import annotations

from typing import NamedTuple

from gcdist.model.buffer_updates import BufferUpdate
from gcdist.model.vector_format import Shape
from gcdist.types import F64, U8, Mask


class ReadyRow(NamedTuple):
    """What a `RowMaker` would have made of a plain row: no shift, no memory, no metrics."""

    payload: U8
    shape: Shape  # of the vector
    parts_P4: F64  # as in `Sidecar`
    energy: float
    error: float
    parts_energy: float
    sum_energy: float
    compute_seconds: float
    buffers: BufferUpdate
    used: Mask
