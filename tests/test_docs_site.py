"""The docs site: every page is in its navigation, every setting and every public name in its reference.

``make docs`` builds it strictly; these tests need no Sphinx.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

import gcdist
from gcdist.cli import COMMANDS
from gcdist.config import Config

TREE = Path(__file__).parents[1]
SITE = TREE / "docs" / "site"
pytestmark = pytest.mark.skipif(not SITE.exists(), reason="the docs are not beside the tests")


def part(name: str) -> ModuleType:
    """A module of the site's code, which is no package."""
    spec = importlib.util.spec_from_file_location(f"docs_site_{name}", SITE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_pictures_are_those_of_the_code() -> None:
    for name, draw in part("pictures").PICTURES.items():
        file = TREE / "docs" / "img" / f"{name}.svg"
        assert file.read_text(encoding="utf-8") == draw().svg(), f"{name}.svg: run python docs/site/pictures.py"


def test_every_page_is_in_the_navigation() -> None:
    trees = part("navigation").toctrees((TREE / "docs" / "README.md").read_text(encoding="utf-8"))
    listed = set(re.findall(r"^.+ <(.+)>$", trees, re.MULTILINE))
    pages = [path.relative_to(TREE / "docs").with_suffix("") for path in (TREE / "docs").rglob("*.md")]
    assert [str(page) for page in pages if str(page) not in {*listed, "README"}] == []
    assert [page for page in listed if not (TREE / "docs" / f"{page}.md").exists()] == []


def test_every_setting_has_its_unit_its_range_and_its_meaning() -> None:
    reference = part("reference")
    said = reference.comments()
    names = set()
    for section, key, field in reference.settings():
        name = f"{section}.{key}" if section else key
        names.add(name)
        if reference.numeric(field):
            assert reference.unit_of(section, key, field), f"{name}: no unit; give it one in docs/site/reference.py"
        if name != "faults":
            assert reference.range_of(section, key, field), name
        assert name in said, f"{name}: not in examples/reference.toml"
    assert set(reference.UNITS) <= names
    assert {name for name in Config.model_fields if f"{name}." not in " ".join(names)} <= names


def test_what_is_allowed_stands_in_the_table() -> None:
    tables = part("reference").settings_tables()
    assert '| `deadline` | `"auto"` | seconds | seconds above 0, "auto" or "wait" |' in tables
    assert "| `prior_p` | `0.1` | probability | a number above 0 below 1 |" in tables
    assert '| `"auto"` |  | ' in tables


def test_every_command_is_in_the_reference() -> None:
    text = part("reference").commands_text()
    assert [name for name in COMMANDS if f"\n## gcdist {name}" not in text] == []
    assert "Usage: gcdist train" in text


def test_every_public_name_is_in_the_reference() -> None:
    page = (TREE / "docs" / "reference" / "python.md").read_text(encoding="utf-8")
    assert [name for name in gcdist.__all__ if f":: gcdist.{name}\n" not in page] == []
