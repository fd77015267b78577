"""A vector in segments: no scale and no rotation crosses from one parameter to the next, and small ones are bfloat16."""

from __future__ import annotations

import numpy as np

from gcdist.quantize.bucket import Bucket
from gcdist.quantize.dither import Dither
from gcdist.quantize.eden import Eden
from gcdist.quantize.grid_segments import GridSegments
from gcdist.quantize.looped_segments import LoopedSegments
from gcdist.quantize.registry import bits_allowed
from gcdist.quantize.rotated import Rotated
from gcdist.quantize.segments_base import Segments
from gcdist.types import Layout, Quantizer


def get_segments(quantizer: Quantizer, layout: Layout) -> Segments:
    """``quantizer`` on the segments of ``layout``.

    `qsgd` has one norm of the whole vector, as in its papers, and `float32` and `bfloat16` have no scales: they are not cut.
    A layout of one segment gives the quantizer's own bytes under ``Key(seed, step, row, 0)``.
    """
    if isinstance(quantizer, (Bucket, Dither, Rotated)):
        return GridSegments(quantizer, layout)
    if isinstance(quantizer, Eden):
        return LoopedSegments(quantizer, layout)
    return LoopedSegments(quantizer, Layout.flat(layout.d))


def warm_segments(quantizer: Quantizer) -> None:
    """Compile or load the kernels that a run of ``quantizer`` uses now (before a clock runs), for all bits at once."""
    segments = get_segments(quantizer, Layout.by_parameter([513, 2]))
    bits = bits_allowed(quantizer)[0]
    x, out = np.ones(515, np.float32), np.empty(segments.nbytes(bits), np.uint8)
    segments.encode(x, bits, 0, 0, 0, out)
    segments.check(out, bits)
    segments.decode(out, bits, 0, 0, 0, x)
    sums = segments.sums(0, 0)
    sums.add(out, bits, 0, 1.0)  # a small payload
    sums.finish(x)
    if isinstance(segments, GridSegments):
        segments.add_to(x, out, bits, 0, 0, 0, 1.0)  # a large one
