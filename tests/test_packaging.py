"""What is installed is what stands in the tree, pinned, licensed and complete."""

from __future__ import annotations

import filecmp
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name
from packaging.version import Version

import gcdist

TREE = Path(__file__).parents[1]
PACKAGE = Path(gcdist.__file__).parent
PROJECT = tomllib.loads((TREE / "pyproject.toml").read_text())["project"]
PINS = {
    canonicalize_name(name): Version(version)
    for name, version in re.findall(r"^([\w.-]+)==(\S+)$", (TREE / "constraints.txt").read_text(), re.MULTILINE)
}
INSTALLED = os.environ.get("GCDIST_TEST_INSTALLED") == "1"  # set by make test
needs_make_test = pytest.mark.skipif(not INSTALLED, reason="the environment was not made by make test")


def found(name: str) -> Distribution | None:
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None


def needed() -> dict[NormalizedName, list[Requirement]]:
    """Every package that gcdist[dev] installs here, with what asks for it."""
    asked: dict[NormalizedName, list[Requirement]] = {}
    todo = [Requirement(text) for text in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]]
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        asked.setdefault(name, []).append(requirement)
        installed = found(name)
        if len(asked[name]) > 1 or installed is None:
            continue
        inner = [Requirement(text) for text in installed.requires or []]
        todo += [r for r in inner if r.marker is None or r.marker.evaluate({"extra": ""})]
    return asked


@needs_make_test
def test_the_tests_import_the_installed_wheel() -> None:
    assert PACKAGE != TREE / "gcdist"
    assert PACKAGE.is_relative_to(sys.prefix)
    # none but the interpreter's own folders: a source tree on the path would answer in a child process
    assert not [entry for entry in sys.path if (Path(entry) / "gcdist").resolve() == TREE / "gcdist"]


@needs_make_test
def test_the_installed_package_is_the_tree() -> None:
    source = {p.relative_to(TREE / "gcdist") for p in (TREE / "gcdist").rglob("*") if p.is_file()}
    installed = {p.relative_to(PACKAGE) for p in PACKAGE.rglob("*") if p.is_file()}
    clean = [{p for p in paths if "__pycache__" not in p.parts} for paths in (source, installed)]
    assert clean[0] == clean[1]
    assert [p for p in clean[0] if not filecmp.cmp(TREE / "gcdist" / p, PACKAGE / p, shallow=False)] == []


@needs_make_test
def test_every_package_is_installed_at_its_pin() -> None:
    wrong = {}
    for name in needed():
        installed = found(name)
        version = Version(installed.version).public if installed else "nothing"  # public: torch may be 2.x+cpu
        if name not in PINS or version != str(PINS[name]):
            wrong[name] = version
    assert wrong == {}


def test_the_pins_lie_in_the_ranges() -> None:
    extras = PROJECT["optional-dependencies"]
    for text in PROJECT["dependencies"] + extras["dev"] + extras["docs"]:
        requirement = Requirement(text)
        assert str(requirement.specifier).startswith(">="), f"{text}: no lower end"
        assert PINS[canonicalize_name(requirement.name)] in requirement.specifier


def test_constraints_are_exact_and_hold_on_every_platform() -> None:
    lines = [line for line in (TREE / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert len(lines) == len(PINS)
    assert [name for name, version in PINS.items() if version.local] == []  # no +cpu: other platforms have none


def test_the_distribution_carries_data_types_and_licences() -> None:
    for name in ("py.typed", "tasks/data/digits.npz", "tasks/data/README.md"):
        assert (PACKAGE / name).is_file(), f"{name} is not installed"
    about = distribution("gcdist").metadata
    assert about["License-Expression"] == "Apache-2.0"
    assert about["Version"] == PROJECT["version"]
    assert "Apache License" in (TREE / "LICENSE").read_text()


def test_the_command_is_installed() -> None:
    (entry,) = distribution("gcdist").entry_points.select(group="console_scripts")
    assert entry.name == "gcdist"
    assert callable(entry.load())


@pytest.mark.parametrize("version", ["3.10", "3.14"])
def test_make_names_the_pythons_that_it_takes(tmp_path: Path, version: str) -> None:
    make = shutil.which("make")
    if make is None:
        pytest.skip("make is not installed")
    python = tmp_path / "python"
    major, minor = version.split(".")
    script = f"import sys; sys.version_info = ({major}, {minor}, 0); exec(sys.argv.pop())"
    python.write_text(f"#!/bin/sh\nexec '{sys.executable}' -c '{script}' \"$2\"\n")
    python.chmod(0o755)
    venv = tmp_path / "venv"
    run = subprocess.run(
        [make, "-C", str(TREE), f"PYTHON={python}", f"VENV={venv}", f"{venv}/dependencies"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 2
    line, *_ = run.stderr.splitlines()
    assert line.startswith(f"gcdist needs Python 3.11, 3.12 or 3.13; {python} is {version}: give another")
    assert not venv.exists()
