"""Gradient codes and data allocation: pure mathematics on numpy and scipy."""
