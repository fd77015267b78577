"""docs/mathematics.md and docs/journey.md name what exists, and what cites a section of the mathematics is named in it."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest

from gcdist.config import StragglerConfig

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "mathematics.md"
JOURNEY = ROOT / "docs" / "journey.md"
ROOMS = "reference|coding|exchange|planning|straggler|quantize|protocol|master|worker|model|doctor"
NAME = re.compile(rf"`((?:{ROOMS})\.[A-Za-z_.]+)(?:\([^`]*)?`")
CITED = re.compile(r"\bmath(?:ematics)?(?:\.md)?[ ,]+sections?\s+(\d+)(?:\s*(?:,|and)\s*(\d+))?")
SHARED = ("gcdist.types", "gcdist.config.")  # cite sections that others compute
pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="the docs are not beside the tests")


def found(dotted: str) -> Any:
    """What ``gcdist.<dotted>`` names, or None."""
    words = f"{'tests' if dotted.startswith('reference.') else 'gcdist'}.{dotted}".split(".")
    for cut in range(len(words), 0, -1):
        try:
            thing = importlib.import_module(".".join(words[:cut]))
        except ModuleNotFoundError:
            continue
        for name in words[cut:]:
            if not hasattr(thing, name):
                return None
            thing = getattr(thing, name)
        return thing
    return None


def home(dotted: str) -> str:
    """The module that defines what ``gcdist.<dotted>`` names; empty: a setting."""
    thing = found(dotted)
    return str(getattr(thing, "__module__", None) or getattr(thing, "__name__", ""))


def sections() -> dict[int, str]:
    parts = re.finditer(r"^## (\d+)\. [^\n]*\n(.*?)(?=^## |\Z)", PAGE.read_text(encoding="utf-8"), re.S | re.M)
    return {int(part[1]): part[2] for part in parts}


def test_functions_exist() -> None:
    names = NAME.findall(PAGE.read_text(encoding="utf-8"))
    assert len(names) > 60
    settings = {f"straggler.{name}" for name in StragglerConfig.model_fields}
    assert [name for name in names if name not in settings and found(name) is None] == []


def test_tests_exist() -> None:
    text = PAGE.read_text(encoding="utf-8")
    source = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    names = set(re.findall(r"test_[a-z0-9_]+(?=`)", text))
    assert len(names) > 30
    assert [name for name in names if f"def {name}(" not in source] == []
    for file in set(re.findall(r"`([a-z]+/test_[a-z_]+\.py)", text)):
        assert (ROOT / "tests" / file).exists(), file


def test_sections_that_the_code_cites_exist_and_name_it() -> None:
    homes = {number: {home(name) for name in NAME.findall(text)} for number, text in sections().items()}
    wrong = []
    for path in sorted((ROOT / "gcdist").rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        cited = {int(number) for pair in CITED.findall(path.read_text(encoding="utf-8")) for number in pair if number}
        for number in sorted(cited):
            if number not in homes:
                wrong.append(f"{module} cites section {number}, which docs/mathematics.md does not have")
            elif not module.startswith(SHARED) and not any(
                h == module or h.startswith(f"{module}.") for h in homes[number]
            ):
                wrong.append(f"{module} cites section {number}, which names nothing of it")
    assert wrong == []


def test_sections_that_tests_and_benchmarks_cite_exist() -> None:
    known = set(sections())
    for folder in ("tests", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            cited = {int(n) for pair in CITED.findall(path.read_text(encoding="utf-8")) for n in pair if n}
            assert cited <= known, f"{path.relative_to(ROOT)} cites sections {sorted(cited - known)}"


def test_the_journey_leads_from_file_to_file() -> None:
    stations = re.findall(r"`((?:\w+/)+\w+\.py)(?:: ([\w.]+))?`", JOURNEY.read_text(encoding="utf-8"))
    assert len(stations) > 30
    for file, name in stations:
        if file.startswith("examples/"):
            assert (ROOT / file).exists()
            continue
        assert (ROOT / "gcdist" / file).exists(), file
        dotted = file.removesuffix(".py").replace("/", ".")
        assert found(f"{dotted}.{name}" if name else dotted) is not None, f"{file}: {name}"
