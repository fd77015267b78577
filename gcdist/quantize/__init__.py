"""Quantizers: vectors to packed bytes and back, with known noise laws."""
