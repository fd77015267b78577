from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gcdist.tasks import load_task

SOURCE = """
from dataclasses import dataclass
from gcdist.tasks import Task, digits

@dataclass
class Settings:
    seed: int = 0

def build(batch_size, seed, model="mlp"):
    return digits.build(batch_size, model=model, seed=Settings(seed).seed)

def anything(**options):
    return digits.build(options["batch_size"])

def forgets(batch_size):
    digits.build(batch_size)

def fixed():
    return digits.build()

number = 3
"""


@pytest.fixture
def base(tmp_path: Path) -> Iterator[Path]:
    path, modules = list(sys.path), set(sys.modules)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "mine.py").write_text(SOURCE)
    (tmp_path / "my_package_of_tasks.py").write_text(SOURCE)
    (tmp_path / "broken.py").write_text("import not_installed_anywhere\n")
    (tmp_path / "wrong.py").write_text("def build(:\n")
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.startswith(("gcdist_task_", "my_package_of_tasks")):
            del sys.modules[name]


def test_embedded(base: Path) -> None:
    assert load_task("digits", {"model": "mlp"}, 8, base).batch_size == 8


@pytest.mark.parametrize("where", ["sub/mine.py", "my_package_of_tasks"])
def test_of_the_user(base: Path, where: str) -> None:
    assert load_task(f"{where}:build", {"seed": 1}, 4, base).batch_size == 4
    assert load_task(f"{where}:anything", {"whatever": 1}, 5, base).batch_size == 5


def test_absolute_path(base: Path) -> None:
    assert load_task(f"{base / 'sub' / 'mine.py'}:build", {"seed": 1}, 4, Path("elsewhere")).batch_size == 4


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "digit",
            {},
            r"'digit' is unknown \(did you mean 'digits'\?\); allowed: digits, coco, least-squares, logistic, quadratic, ",
        ),
        ("sub/mine.py", {}, "is unknown"),
        (":build", {}, "is unknown"),
        ("a b:build", {}, "is unknown"),
        (
            "digits",
            {"modle": "mlp"},
            r"no option 'modle' \(did you mean 'model'\?\); allowed: model, label_sorted, train",
        ),
        ("digits", {"label_sorted": "0.5"}, r"option label_sorted: found '0\.5'; should be a number"),
        ("digits", {"model": 3}, "option model: found 3; should be a text"),
        ("coco", {"augment": "false"}, "option augment: found 'false'; should be true or false"),
        ("coco", {"size": 64.0}, r"option size: found 64\.0; should be a whole number"),
        ("coco", {"images": True}, "option images: found True; should be a whole number"),
        ("digits", {"batch_size": 3}, "batch_size is a setting of its own"),
        ("sub/none.py:build", {}, "no file .*none.py"),
        ("sub/mine.py:biuld", {}, r"has no function 'biuld' \(did you mean 'build'\?\)"),
        ("sub/mine.py:number", {}, "must be a function, found int"),
        ("sub/mine.py:build", {}, "needs the option 'seed'"),
        ("sub/mine.py:forgets", {}, "must give back a gcdist.Task, found NoneType"),
        ("sub/mine.py:fixed", {}, "must take batch_size"),
        ("broken.py:build", {}, "cannot import .*broken.py: No module named 'not_installed_anywhere'"),
        ("wrong.py:build", {}, "cannot import .*wrong.py"),
        ("nowhere.at_all:build", {}, "cannot import nowhere.at_all: No module named 'nowhere'"),
    ],
)
def test_refuses(base: Path, name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        load_task(name, options, 4, base)
    assert "\n" not in str(caught.value)
    assert name.partition(":")[0].split("/")[-1] in str(caught.value)
