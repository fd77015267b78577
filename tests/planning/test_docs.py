"""docs/mathematics.md names functions and tests that exist."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from gcdist.config import StragglerConfig

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "mathematics.md"
pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="the docs are not beside the tests")


def resolves(dotted: str) -> bool:
    words = f"gcdist.{dotted}".split(".")
    for cut in range(len(words), 0, -1):
        try:
            found = importlib.import_module(".".join(words[:cut]))
        except ModuleNotFoundError:
            continue
        for name in words[cut:]:
            if not hasattr(found, name):
                return False
            found = getattr(found, name)
        return True
    return False


def test_functions_exist() -> None:
    names = re.findall(
        r"`((?:coding|exchange|planning|straggler)\.[A-Za-z_.]+)(?:\([^`]*)?`", PAGE.read_text(encoding="utf-8")
    )
    assert len(names) > 30
    settings = {f"straggler.{name}" for name in StragglerConfig.model_fields}
    assert [name for name in names if name not in settings and not resolves(name)] == []


def test_tests_exist() -> None:
    text = PAGE.read_text(encoding="utf-8")
    source = "\n".join(
        path.read_text(encoding="utf-8")
        for room in ("coding", "planning", "straggler", "exchange")
        for path in (ROOT / "tests" / room).glob("*.py")
    )
    names = set(re.findall(r"test_[a-z0-9_]+(?=`)", text))
    assert len(names) > 30
    assert [name for name in names if f"def {name}(" not in source] == []
    for file in set(re.findall(r"`((?:coding|planning|straggler|exchange)/test_[a-z_]+\.py)", text)):
        assert (ROOT / "tests" / file).exists(), file
