"""Tasks by name, as a config gives them."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from gcdist.names import nearest
from gcdist.tasks import coco, convex, digits
from gcdist.tasks.task import Task

TASKS: dict[str, Callable[..., Task]] = {
    "digits": digits.build,
    "coco": coco.build,
    "least-squares": convex.least_squares,
    "logistic": convex.logistic,
    "quadratic": convex.quadratic,
}
KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
SCRIPT = "script:"  # prefix of the name of a script's own task in its run's config.toml
FORMS = "'package.module:function' or 'path/to/file.py:function'"


class TaskError(ValueError):
    """The settings name no task; the text is one line."""


def load_task(name: str, options: Mapping[str, Any], batch_size: int, base: Path) -> Task:
    """The task called ``name``: ``function(batch_size=batch_size, **options)``.

    Args:
        name: of an embedded task (``"digits"``, ``"coco"``), ``"package.module:function"`` or
            ``"path/to/file.py:function"``. Modules are also looked for in ``base``; relative paths start there.
        options: keyword arguments of the function.
        batch_size: samples of one partition in one step.
        base: folder of the config.

    Raises:
        TaskError: no such task, file, module or function, wrong options, or a result that is no Task: one line. Errors
            of the user's function itself pass through.

    >>> load_task("digits", {"model": "mlp"}, 16, Path()).batch_size
    16
    """
    if name.startswith(SCRIPT):
        where = name.removeprefix(SCRIPT)
        raise TaskError(
            f"task {name!r}: it was built by a script: run {where} (gcdist.simulate there has a virtual clock)"
        )
    build = TASKS[name] if name in TASKS else _function(name, base)
    if "batch_size" in options:
        raise TaskError(f"task {name!r}: batch_size is a setting of its own, not an option of the task")
    arguments = {"batch_size": batch_size, **options}
    _check_options(name, build, arguments)
    if name in TASKS:
        _check_types(name, build, arguments)
        try:
            return _named(build(**arguments), name)
        except ValueError as error:
            raise TaskError(str(error)) from None
    task = build(**arguments)
    if not isinstance(task, Task):
        raise TaskError(f"task {name!r} must give back a gcdist.Task, found {type(task).__name__}")
    return _named(task, name)


def _named(task: Task, name: str) -> Task:
    object.__setattr__(task, "origin", name)
    return task


def _function(name: str, base: Path) -> Callable[..., Any]:
    where, _, function = name.rpartition(":")
    is_module = all(part.isidentifier() for part in where.split("."))
    if not function.isidentifier() or not (is_module or where.endswith(".py")):
        raise TaskError(f"task {name!r} is unknown{_suggest(name, TASKS)}; allowed: {', '.join(TASKS)}, {FORMS}")
    module = _from_file(name, (base / where).resolve()) if where.endswith(".py") else _from_module(name, where, base)
    found = getattr(module, function, None)
    if found is None:
        public = [key for key, value in vars(module).items() if inspect.isfunction(value) and not key.startswith("_")]
        raise TaskError(f"task {name!r}: {where} has no function {function!r}{_suggest(function, public)}")
    if not callable(found):
        raise TaskError(f"task {name!r}: {function!r} of {where} must be a function, found {type(found).__name__}")
    call: Callable[..., Any] = found
    return call


def _from_file(name: str, path: Path) -> ModuleType:
    if not path.is_file():
        raise TaskError(f"task {name!r}: no file {path}")
    # one module name per path, so that two files called task.py can live in one process
    alias = f"gcdist_task_{path.stem}_{abs(hash(path)):x}"
    if alias in sys.modules:
        return sys.modules[alias]
    spec = importlib.util.spec_from_file_location(alias, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[alias] = module  # dataclasses and pickle look their module up here
    _on_path(path.parent)
    try:
        spec.loader.exec_module(module)
    except (ImportError, SyntaxError) as error:
        del sys.modules[alias]
        raise TaskError(f"task {name!r}: cannot import {path}: {error}") from error
    except BaseException:
        del sys.modules[alias]
        raise
    return module


def _from_module(name: str, where: str, base: Path) -> ModuleType:
    _on_path(base.resolve())
    try:
        return importlib.import_module(where)
    except (ImportError, SyntaxError) as error:
        raise TaskError(f"task {name!r}: cannot import {where}: {error}") from error


def _on_path(folder: Path) -> None:
    """Add the folder to the import path, as Python does for a script's folder."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _check_options(name: str, build: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    parameters = inspect.signature(build).parameters.values()
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    known = [p.name for p in named]
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        for key in arguments:
            if key not in known:
                if key == "batch_size":
                    raise TaskError(f"task {name!r}: its function must take batch_size, found {known}")
                allowed = ", ".join(k for k in known if k != "batch_size") or "none"
                raise TaskError(f"task {name!r} has no option {key!r}{_suggest(key, known)}; allowed: {allowed}")
    missing = [p.name for p in named if p.default is p.empty and p.name not in arguments]
    if missing:
        raise TaskError(f"task {name!r} needs the option {', '.join(map(repr, missing))}")


def _check_types(name: str, build: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """Options must have the types of their defaults, because the text "false" would count as true and fail late."""
    for key, value in arguments.items():
        kind = type(inspect.signature(build).parameters[key].default)
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise TaskError(f"task {name!r}: option {key}: found {value!r}; should be {KINDS[kind]}")


def _suggest(word: str, known: Iterable[str]) -> str:
    near = nearest(word, known)
    return f" (did you mean {near!r}?)" if near else ""
