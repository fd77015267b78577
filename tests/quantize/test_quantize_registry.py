"""Names, options and the planner's table."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import numpy as np
import pytest

import gcdist.quantize
from gcdist.quantize import get_quantizer, noise_table, quantizer_names, warm


@pytest.mark.parametrize("name", quantizer_names())
def test_names_and_tables(name: str) -> None:
    quantizer = get_quantizer(name)
    warm(quantizer)
    assert quantizer.name == name
    table = noise_table(quantizer, 10_000, 32)
    assert table.shape == (33,)
    assert table[0] == np.inf
    finite = table[np.isfinite(table)]
    assert finite.size
    assert np.all(np.diff(finite) < 0)


def test_unknown_names_and_options_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown quantizer 'buckets'; did you mean 'bucket'"):
        get_quantizer("buckets")
    with pytest.raises(ValueError, match="quantizer 'bucket' does not take"):
        get_quantizer("bucket", size=3)


@pytest.mark.parametrize("module", [m.name for m in pkgutil.iter_modules(gcdist.quantize.__path__)])
def test_doctests(module: str) -> None:
    result = doctest.testmod(importlib.import_module(f"gcdist.quantize.{module}"))
    assert result.failed == 0
