"""What a folder's Python files seem to hold, read and never run: models, data sets, the trainers that they use."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

FILES_MOST = 200  # of one folder that are read
BYTES_MOST = 1 << 20  # of one file; a larger one was hardly written by hand
Kind = Literal["model", "data set"]
# last part of a base class -> what it makes the class
BASES: dict[str, Kind] = {
    "Module": "model",
    "LightningModule": "model",
    "PreTrainedModel": "model",
    "Dataset": "data set",
    "VisionDataset": "data set",
    "ImageFolder": "data set",
}
TRAINERS = ("transformers", "lightning", "pytorch_lightning", "accelerate")


@dataclass(frozen=True, slots=True)
class OwnClass:
    """A class of the user's. ``needs``: arguments of its ``__init__`` that have no default."""

    kind: Kind
    name: str
    file: str
    line: int
    needs: tuple[str, ...]

    @property
    def call(self) -> str:
        """As it would be used."""
        return f"{self.name}({', '.join(self.needs)})"


@dataclass(frozen=True, slots=True)
class OwnCode:
    """What was found, in the order of the files' names. ``distributed``: files that use DistributedDataParallel."""

    classes: tuple[OwnClass, ...]
    trainers: tuple[str, ...]
    distributed: tuple[str, ...]

    def of(self, kind: Kind) -> OwnClass | None:
        """The last one of the first file that has this kind: the parts of a model stand above it."""
        found = [each for each in self.classes if each.kind == kind]
        return next((each for each in reversed(found) if each.file == found[0].file), None)


def own_code(folder: Path) -> OwnCode:
    """Read the Python files of ``folder`` itself; those that cannot be read or parsed say nothing."""
    classes: list[OwnClass] = []
    trainers: set[str] = set()
    distributed: list[str] = []
    for path in sorted(folder.glob("*.py"))[:FILES_MOST]:
        try:
            if path.stat().st_size > BYTES_MOST:
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the user's text, such as an invalid escape
                tree = ast.parse(path.read_bytes())
        except (OSError, SyntaxError, ValueError):
            continue
        classes += _classes(tree, path.name)
        names = set(_imported(tree))
        trainers |= names & set(TRAINERS)
        if "DistributedDataParallel" in names:
            distributed.append(path.name)
    return OwnCode(tuple(classes), tuple(sorted(trainers)), tuple(distributed))


def _classes(tree: ast.Module, file: str) -> Iterator[OwnClass]:
    known = dict(BASES)  # a class may inherit from one that stands above it
    for node in tree.body:
        if not isinstance(node, ast.ClassDef):
            continue
        kinds = [known[name] for name in map(_last_name, node.bases) if name in known]
        if kinds:
            known[node.name] = kinds[0]
            yield OwnClass(kinds[0], node.name, file, node.lineno, _needs(node))


def _last_name(base: ast.expr) -> str:
    while isinstance(base, ast.Subscript):
        base = base.value
    return base.attr if isinstance(base, ast.Attribute) else base.id if isinstance(base, ast.Name) else ""


def _needs(node: ast.ClassDef) -> tuple[str, ...]:
    for each in node.body:
        if isinstance(each, ast.FunctionDef) and each.name == "__init__":
            given = [*each.args.posonlyargs, *each.args.args]
            plain = given[1 : len(given) - len(each.args.defaults)]
            words = [a for a, value in zip(each.args.kwonlyargs, each.args.kw_defaults, strict=True) if value is None]
            return (*(a.arg for a in plain), *(f"{a.arg}={a.arg}" for a in words))
    return ()


def _imported(tree: ast.Module) -> Iterator[str]:
    """First parts of imported modules, and names that are imported from them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").split(".")[0]
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Attribute):
            yield node.attr  # nn.parallel.DistributedDataParallel
