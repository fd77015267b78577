"""Partition results by hand."""

from __future__ import annotations

import numpy as np

from gcdist.model.buffer_updates import no_update
from gcdist.model.gradients import PartitionResult
from gcdist.model.vector_format import Shape
from gcdist.protocol.messages import Assignment, Round
from gcdist.types import Layout

D = 4


def result(partition: int, gradient: list[float], samples: int = 2, step: int = 0) -> PartitionResult:
    """A partition of 1/8 of the samples, of a model with two parameters of which the first is used."""
    shape = Shape(Layout.flat(D))
    return PartitionResult(
        step=step,
        partition=partition,
        shape=shape,
        loss=0.5 * partition,
        grads=(np.array(gradient, np.float32), None),
        sizes=(D, 0),
        scale=np.float32(1.0),
        used=np.array([True, False]),
        share=0.125,
        indices=np.arange(samples),
        samples=samples,
        data_seconds=0.25,
        compute_seconds=1.0,
        cpu_seconds=0.75,
        buffers=no_update(shape),
        name_at=str,
        metrics={"acc": 0.5},
    )


def a_round(
    step: int, parts: dict[int, float], bits: int = 32, partial: bool = False, shift: int = 0, cut: float | None = None
) -> Round:
    """Row 0 with these partitions and coefficients."""
    work = Assignment((0,), (tuple(parts.items()),), ((bits,),), partial=partial)
    return Round(step, 0, step, None, (shift,), (0.0,), work, cut)
