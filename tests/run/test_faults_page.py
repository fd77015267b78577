"""docs/faults.md and docs/security.md name tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = {"faults": 20, "security": 6}  # and so many tests at least


@pytest.mark.skipif(not (ROOT / "docs").exists(), reason="the docs are not beside the tests")
@pytest.mark.parametrize("page", PAGES)
def test_the_promises_name_tests_that_exist(page: str) -> None:
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", text)
    assert len(named) > PAGES[page]
    files = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")}
    assert [f"{file}::{test}" for file, test in named if f"def {test}(" not in files.get(file, "")] == []
