"""What the documents show is there: files, settings, names of the API."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import gcdist

TREE = Path(__file__).parents[1]
PAGES = [TREE / "README.md", TREE / "CONTRIBUTING.md", *sorted((TREE / "docs").glob("*.md"))]


def blocks(language: str) -> list[str]:
    found = re.findall(rf"```{language}\n(.*?)```", (TREE / "README.md").read_text(), re.DOTALL)
    assert found
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


@pytest.mark.parametrize("text", blocks("toml"))
def test_the_settings_are_valid(text: str, tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_text(text)
    assert gcdist.load_config(path).steps == 200


@pytest.mark.parametrize("text", blocks("python"))
def test_the_names_exist(text: str) -> None:
    used = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Attribute)]
    names = {node.attr for node in used if isinstance(node.value, ast.Name) and node.value.id == "gcdist"}
    assert names == {"Task", "connect", "Config"}
    assert names <= set(gcdist.__all__)
