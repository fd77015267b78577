"""Settings from and to TOML, changes from the command line, and the fingerprint that both ends compare."""

from __future__ import annotations

import hashlib
import json
import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import tomli_w

from gcdist.config.errors import ConfigError, shown
from gcdist.config.settings import Config

# relative ones are taken from the folder of the config file
PATHS = (("inject", "file"), *(("cluster", key) for key in ("secret_file", "certificate", "key", "authority")))
OPTION_PATHS = {"coco": ("root", "cache")}  # of the embedded tasks; ~ and $NAME stay as they are


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Read a TOML file, apply ``--set`` overrides, check everything; ConfigError with clear lines.

    A relative ``inject.file``, file of ``cluster`` or of ``task.name``, or folder of the task ``coco``, is taken from the
    folder of the config file.
    """
    path = Path(path)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))  # with or without a byte order mark
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: cannot be read: it is a folder; should be a file of settings (TOML)") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: cannot be read: it is not UTF-8 text; save it as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    except ValueError as error:  # a NUL in the path
        raise ConfigError(f"{shown(str(path))}: cannot be read: {error}") from None
    values = with_overrides(values, overrides)
    for section, key in PATHS:
        table = values.get(section)
        if isinstance(table, dict) and isinstance(table.get(key), str):
            table[key] = str(path.parent.resolve() / table[key])
    if isinstance(task := values.get("task"), dict):
        values["task"] = _placed_task(task, path.parent.resolve())
    try:
        return Config(**values)
    except ConfigError as error:
        raise ConfigError("\n".join(f"{path}: {line}" for line in str(error).splitlines())) from None


def _placed_task(task: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """The section ``task`` with absolute paths; what is no path, or of a wrong type, stays."""
    name, options = task.get("name"), task.get("options")
    placed = dict(task)
    if isinstance(name, str) and name.rpartition(":")[0].endswith(".py") and "\0" not in name:
        file, _, function = name.rpartition(":")
        placed["name"] = f"{(base / file).resolve()}:{function}"
    if isinstance(name, str) and isinstance(options, Mapping):
        placed["options"] = dict(options)
        for key in OPTION_PATHS.get(name, ()):
            value = options.get(key)
            if isinstance(value, str) and value and value[0] not in "~$":
                placed["options"][key] = os.path.normpath(base / value)
    return placed


def absolute(config: Config) -> Config:
    """The same settings, to be read back in any folder: relative paths are taken from the working directory."""
    values = config._given()
    values["out"] = config.out.absolute()
    for section, key in PATHS:
        found = getattr(values[section], key)
        if found is not None:
            values[section] = values[section].model_copy(update={key: found.absolute()})
    values["task"] = _placed_task(config.task.model_dump(), Path.cwd())
    return Config(**values)


def with_overrides(values: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """A copy of nested ``values`` with each ``key.path=value`` set; a value is TOML, else taken as text.

    >>> with_overrides({"steps": 5}, ["straggler.deadline=0.5", "task.name=digits"])
    {'steps': 5, 'straggler': {'deadline': 0.5}, 'task': {'name': 'digits'}}
    """
    result = {key: dict(value) if isinstance(value, Mapping) else value for key, value in values.items()}
    for override in overrides:
        key, equals, text = override.partition("=")
        path = key.strip().split(".")
        if not equals or not all(path):
            raise ConfigError(f"--set {override}: should be KEY=VALUE, as in straggler.deadline=0.5")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        table = result
        for part in path[:-1]:
            inner = table.get(part, {})
            if not isinstance(inner, Mapping):
                raise ConfigError(f"--set {override}: {part} is not a table")
            table[part] = dict(inner)
            table = table[part]
        table[path[-1]] = value
    return result


def dump_config(config: Config) -> str:
    """The settings as TOML that `load_config` reads back to an equal Config.

    Keys without a value (None) are left out, as TOML has no null.
    """
    values = config.model_dump(mode="json")
    if config.epochs is not None:
        del values["steps"]
    return tomli_w.dumps(_without_none(values))


def shared_settings(config: Config) -> str:
    """The settings that both ends of a link must share, one ``key=value`` a line, sorted: equal texts fit together.

    They are seed, task, partitions and sampling, code, quantizer, injected delays and faults; of a trace only the file's
    name, as folders differ; of other paths of the task likewise.
    """
    shared = config.model_dump(mode="json", include={"seed", "task", "data", "code", "quantizer", "inject", "faults"})
    for key in ("prefetch", "holds", "compare"):  # of each worker
        del shared["data"][key]
    if config.inject.file is not None:
        shared["inject"]["file"] = config.inject.file.name
    task = shared["task"]
    task["name"] = task["name"].rpartition("/")[2]
    for key in OPTION_PATHS.get(config.task.name, ()):
        if isinstance(task["options"].get(key), str):
            task["options"][key] = Path(task["options"][key]).name
    return "\n".join(sorted(_flat("", shared)))


def setting_lines(config: Config) -> dict[str, str]:
    """All settings: value as JSON by dotted key.

    >>> setting_lines(Config(steps=7))["steps"]
    '7'
    """
    values = config.model_dump(mode="json")
    return dict(line.split("=", 1) for line in _flat("", values))


def _flat(key: str, value: Any) -> Iterator[str]:
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _flat(f"{key}.{name}" if key else str(name), inner)
    else:
        text = json.dumps(value, sort_keys=True)
        if len(text) > 200:  # a list for many workers: its hash tells them apart as well, and Hello stays small
            text = f"{text[:40]}... (sha256 {hashlib.sha256(text.encode()).hexdigest()[:16]})"
        yield f"{key}={text}"


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_without_none(inner) for inner in value]
    return value
