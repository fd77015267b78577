"""Imports run one way only: the arrows of the architecture, checked on the source."""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path

import pytest

# room -> rooms of gcdist that it may import (itself and BELOW always)
BASE = {"coding", "quantize", "straggler"}
ENDS = BASE | {"config", "planning", "protocol", "transport", "tasks", "observe", "model"}
ALLOWED: dict[str, set[str]] = {
    "types": set(),
    "memory": set(),
    "hashing": set(),
    "names": set(),
    "records": set(),
    "whole_file": set(),
    "last_words": set(),
    "coding": set(),
    "quantize": set(),
    "straggler": set(),
    "protocol": set(),
    "transport": set(),
    "planning": BASE,
    "tasks": BASE,
    "observe": BASE,
    "config": set(),
    "launcher": set(),
    "doctor": BASE | {"config", "planning", "transport"},
    "model": {"tasks", "quantize"},
    "exchange": ENDS - {"planning"},
    "master": ENDS | {"exchange"},
    "worker": (ENDS - {"planning"}) | {"exchange"},
    "simulator": ENDS | {"exchange", "master", "worker"},
    "run": ENDS | {"exchange", "master", "simulator"},
}
# may import everything below
ABOVE = {"api", "cli", "commands", "__init__", "__main__", "bench", "report", "integrations"}
BELOW = {"types", "memory", "hashing", "names", "records", "whole_file", "last_words"}  # what every room may import
PURE = {"types", "coding", "quantize", "straggler", "planning", "protocol"}
CLOCKS = {"time", "datetime", "sched", "asyncio", "socket", "threading"}


def package() -> Path:
    spec = find_spec("gcdist")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def modules() -> list[Path]:
    return sorted(package().rglob("*.py"))


def room_of(path: Path) -> str:
    parts = path.relative_to(package()).with_suffix("").parts
    return parts[0]


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module or "")
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(package())))
def test_imports_run_one_way(path: Path) -> None:
    room = room_of(path)
    if room in ABOVE:
        return
    assert room in ALLOWED, f"{path} stands in no known room"
    for name in imported(path):
        parts = name.split(".")
        if parts[0] == "gcdist" and len(parts) > 1 and parts[1] != "__init__":
            assert parts[1] in ALLOWED[room] | {room, *BELOW}, f"{path} imports {name}"


@pytest.mark.parametrize("path", [p for p in modules() if room_of(p) in PURE], ids=lambda p: p.stem)
def test_pure_rooms_have_no_clock_and_no_torch(path: Path) -> None:
    roots = {name.split(".")[0] for name in imported(path)}
    assert not roots & CLOCKS, f"{path} imports {roots & CLOCKS}"
    assert "torch" not in roots, f"{path} imports torch"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(package())))
def test_nothing_is_unpickled(path: Path) -> None:
    """Bytes of a peer or of a file never become objects by themselves."""
    roots = {name.split(".")[0] for name in imported(path)}
    assert not roots & {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            told = ast.unparse(node.func)
            assert told != "torch.load", path
            assert not told.endswith("_object_list"), f"{path}: {told}"
            pickles = [word.value for word in node.keywords if word.arg == "allow_pickle"]
            assert all(isinstance(each, ast.Constant) and each.value is False for each in pickles), f"{path}: {told}"


def module_arrows(path: Path, files: dict[str, Path]) -> set[str]:
    """The modules that a file imports; ``from room import module`` is the module's arrow, not the room's."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            whole = {alias.name for alias in node.names if f"{node.module}.{alias.name}" not in files}
            found |= {f"{node.module}.{alias.name}" for alias in node.names if alias.name not in whole}
            found |= {str(node.module)} if whole else set()
    return found & set(files)


def test_no_module_imports_itself_through_others() -> None:
    """No circle, counting the imports for types alone too."""
    files = {
        ".".join(p.relative_to(package().parent).with_suffix("").parts).removesuffix(".__init__"): p for p in modules()
    }
    arrows = {name: module_arrows(path, files) - {name} for name, path in files.items()}
    arrows["gcdist"] = set()  # the lazy front door names everything
    over: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, f"a circle: {' -> '.join((*way[way.index(name) :], name))}"
        if name not in over:
            for other in sorted(arrows[name]):
                visit(other, (*way, name))
            over.add(name)

    for name in sorted(files):
        visit(name, ())
