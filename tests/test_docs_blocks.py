"""Every command and code block of the tutorial and the guides does what its page says, or says why it is not run."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

TREE = Path(__file__).parents[1]
DOCS = TREE / "docs"
PAGES = [
    "tutorial",
    "two-machines",
    "settings-that-matter",
    "node-local-data",
    "spot-machines",
    "partitions-and-batch",
    "slow-worker",
    "training",
    "from-ddp",
    "coco",
    "report",
    "doctor",
    "faults",
    "init",
]
pytestmark = pytest.mark.skipif(not DOCS.exists(), reason="the docs are not beside the tests")


def tools() -> ModuleType:
    """``docs_blocks.py`` beside this file; tests are no package."""
    spec = importlib.util.spec_from_file_location("docs_blocks", Path(__file__).with_name("docs_blocks.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", PAGES)
def test_every_block_is_marked(name: str) -> None:
    page = DOCS / f"{name}.md"
    found = tools().blocks(page)
    assert found
    for block in found:
        assert block.mark, f"{page.name}, line {block.line}: the block has no mark; see tests/docs_blocks.py"
        named = re.findall(r"(?:tests|examples)/[\w./]+", block.mark)
        assert [path for path in named if not (TREE / path).exists()] == [], f"{page.name}, line {block.line}"
    assert tools().indented(page) == [], f"{page.name}: fence these blocks, so that they can be marked"


SLOW = {"spot-machines"}  # kills and restarts of processes, which other tests see too


@pytest.mark.timeout(900)  # several starts of processes, on a busy machine
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in PAGES]
)
def test_the_blocks_do_what_the_page_says(name: str, tmp_path: Path) -> None:
    tools().run_page(DOCS / f"{name}.md", tmp_path)


def test_a_block_that_fails_or_prints_something_else_is_found_out(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- run -->\n```bash\nfalse\n```\n")
    with pytest.raises(AssertionError, match="ended with 1"):
        tools().run_page(page, tmp_path)
    page.write_text("<!-- run -->\n```bash\necho 3 workers\n```\n<!-- prints -->\n```text\n4 masters\n```\n")
    with pytest.raises(AssertionError, match="4 masters"):
        tools().run_page(page, tmp_path)
    page.write_text("```bash\necho 3 workers\n```\n")
    with pytest.raises(AssertionError, match="no mark"):
        tools().run_page(page, tmp_path)
    page.write_text("<!-- run with 3=4 -->\n```bash\necho 3 workers\n```\n<!-- prints -->\n```text\n7 work...\n```\n")
    assert tools().run_page(page, tmp_path) == 1
