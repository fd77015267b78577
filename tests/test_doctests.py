"""Every example in a docstring gives what it says."""

from __future__ import annotations

import doctest
import importlib
from importlib.util import find_spec
from pathlib import Path

import pytest

spec = find_spec("gcdist")
assert spec is not None
assert spec.origin is not None
PACKAGE = Path(spec.origin).parent
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__main__.py" and ">>> " in path.read_text())


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_examples(path: Path) -> None:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    name = ".".join(["gcdist", *(part for part in parts if part != "__init__")])
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted
    assert not result.failed
