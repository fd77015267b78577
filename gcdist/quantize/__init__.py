"""Quantizers: float32 vectors to packed bytes and back, with a known noise law (math section 7)."""

from gcdist.quantize.base import Base
from gcdist.quantize.registry import (
    bits_allowed,
    decode,
    get_quantizer,
    noise_table,
    quantizer_names,
    register_quantizer,
    warm,
)
from gcdist.quantize.segments import get_segments, warm_segments
from gcdist.quantize.segments_base import Segments, Sums

__all__ = [
    "Base",
    "Segments",
    "Sums",
    "bits_allowed",
    "decode",
    "get_quantizer",
    "get_segments",
    "noise_table",
    "quantizer_names",
    "register_quantizer",
    "warm",
    "warm_segments",
]
