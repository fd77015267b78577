"""What a user reads about a mistake in the settings: one line each, with the key, what was found, what is allowed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from gcdist.names import nearest

T = TypeVar("T")
MOST_SHOWN = 200  # characters of a value in a line


class ConfigError(ValueError):
    """The user's settings are wrong; the text has one line for each mistake."""


def checked(section: str, build: Callable[[], T]) -> T:
    """Build a part; its ValueError becomes a ConfigError that names the section."""
    try:
        return build()
    except ConfigError:
        raise
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{section}: {error}") from None


def suggest(name: str, names: Iterable[str]) -> str:
    """The end of a message about an unknown ``name``: the nearest of ``names``, if any, and all of them.

    >>> suggest("ogsc", ["osgc", "sync"])
    'did you mean "osgc"? allowed: osgc, sync'
    """
    known = list(names)
    near = nearest(name, known)
    return (f'did you mean "{near}"? ' if near else "") + f"allowed: {', '.join(known)}"


def shown(value: Any) -> str:
    """A value as the user may have written it; of a long one its beginning.

    >>> shown("x" * 300)
    '"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx... (302 characters)'
    """
    text = json.dumps(value, default=str)
    return text if len(text) <= MOST_SHOWN else f"{text[:39]}... ({len(text)} characters)"


def explain(error: ValidationError, model: type[BaseModel]) -> ConfigError:
    """The ConfigError that tells a user of ``model`` what pydantic found."""
    return ConfigError("\n".join(line for item in error.errors() for line in _lines(item, model)))


def _section(model: type[BaseModel], path: tuple[int | str, ...]) -> type[BaseModel] | None:
    """The section at ``path`` (one of an array of tables: its number follows its key); None if that is a value."""
    at: Any = model
    for part in path:
        if isinstance(part, int):
            at = next(iter(get_args(at)), None)
        elif isinstance(at, type) and issubclass(at, BaseModel) and part in at.model_fields:
            at = at.model_fields[part].annotation
        else:
            return None
    return at if isinstance(at, type) and issubclass(at, BaseModel) else None


def _lines(item: ErrorDetails, model: type[BaseModel]) -> Iterable[str]:
    where, kind, message = item["loc"], item["type"], item["msg"]
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in where).removeprefix(".")
    if kind == "extra_forbidden":
        section = _section(model, where[:-1])
        assert section is not None
        yield f"{key}: unknown key; {suggest(str(where[-1]), section.model_fields)}"
    elif kind == "value_error" and _section(model, where) is not None:
        # a section's own check: each of its lines begins with the key
        prefix = f"{key}." if key else ""
        yield from (prefix + line for line in message.removeprefix("Value error, ").splitlines())
    else:
        should = message.removeprefix("Value error, ").replace("Input should be", "should be")
        if kind in ("model_type", "dict_type", "model_attributes_type"):
            should = "should be a table of keys"
        yield f"{key}: found {shown(item['input'])}; {should}"
