"""The commented reference names every key with its default; the demo's settings are valid."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from pydantic import BaseModel

from gcdist.config import Config, floor_warnings, load_config

EXAMPLES = Path(__file__).parents[2] / "examples"


def keys(model: type[BaseModel], path: tuple[str, ...] = ()) -> dict[tuple[str, ...], bool]:
    """All key paths; True: without a value by default."""
    found: dict[tuple[str, ...], bool] = {}
    for key, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found |= keys(field.annotation, (*path, key))
        else:
            found[(*path, key)] = not field.is_required() and field.get_default(call_default_factory=True) is None
    return found


def test_the_reference_is_the_defaults() -> None:
    assert load_config(EXAMPLES / "reference.toml") == Config()


def test_the_reference_names_every_key() -> None:
    text = (EXAMPLES / "reference.toml").read_text()
    values = tomllib.loads(text)
    commented: set[tuple[str, ...]] = set()
    section: tuple[str, ...] = ()
    for line in text.splitlines():
        if match := re.match(r"\[([\w.]+)\]", line):
            section = tuple(match[1].split("."))
        elif match := re.match(r"# (\w+) = ", line):
            commented.add((*section, match[1]))
    for path, empty in keys(Config).items():
        if empty:
            assert path in commented, f"{path} is not named"
            continue
        table = values
        for part in path[:-1]:
            table = table[part]
        assert path[-1] in table, f"{path} is not named"
    assert commented == {path for path, empty in keys(Config).items() if empty}


def test_the_values_of_commented_keys_are_allowed(tmp_path: Path) -> None:
    text = re.sub(r"^# (\w+ = )", r"\1", (EXAMPLES / "reference.toml").read_text(), flags=re.MULTILINE)
    text = text.replace('transport = "gloo"', 'transport = "tls"')  # the other one has no certificates
    path = tmp_path / "all.toml"
    path.write_text(re.sub(r"^(file|steps) = .*$", "", text, flags=re.MULTILINE))  # epochs stand in place of steps
    assert load_config(path).cluster.threads == 1


def test_the_demo_is_valid() -> None:
    config = load_config(EXAMPLES / "digits.toml").resolved(8)
    assert floor_warnings(config, 8, 2) == []


@pytest.mark.parametrize(("workers", "cores", "lines"), [(8, 2, 1), (3, 8, 0)])
def test_floors_that_cannot_be_kept_are_told(workers: int, cores: int, lines: int) -> None:
    config = Config(inject={"model": "shifted-exponential", "shift": 0.05, "mean": 1.0})
    found = floor_warnings(config, workers, cores)
    assert len(found) == lines
    assert all(
        line.startswith("inject.shift: the least floor is 0.05 s, with 9 processes on 2 cores") for line in found
    )
    assert floor_warnings(Config(), workers, cores) == []
