"""Quantizers: float32 vectors to packed bytes and back, with a known noise law (math section 7)."""

from gcdist.quantize.base import Base
from gcdist.quantize.registry import bits_allowed, decode, get_quantizer, noise_table, quantizer_names, warm

__all__ = ["Base", "bits_allowed", "decode", "get_quantizer", "noise_table", "quantizer_names", "warm"]
