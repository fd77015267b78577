"""Checkpoints as folders: written whole or not at all, read without pickle, the newest good one found again.

``step-00000120`` (the number of the next step to run) holds ``model.safetensors``, which is the model's plain
``state_dict``, ``state.safetensors`` and ``state.json`` with everything else (`nested_state`), and ``checksums.json`` with
the sum of each of them. A folder counts only under such a name: it is written under a hidden one, flushed to disk and then
renamed, so that a kill at any moment leaves the last one as it was. No symbolic link is followed.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load, save_file

from gcdist.run.nested_state import Tensors, pack, unpack
from gcdist.transport import digest
from gcdist.types import U8

FORMAT = 2
MODEL, TENSORS, STATE = "model.safetensors", "state.safetensors", "state.json"
SUMS = "checksums.json"

_NAME = re.compile(r"step-(\d{8,})(?:-(\d+))?")
_HIDDEN = ".part-"  # the beginning of the names of what is being written or removed


class DamagedError(ValueError):
    """A checkpoint that cannot be read; the text is one line."""


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """A checkpoint as read. ``step``: the next one to run; ``model``: its ``state_dict``; ``state``: everything else."""

    path: Path
    step: int
    model: Tensors
    state: dict[str, Any]


def write_checkpoint(folder: Path, step: int, model: Tensors, state: dict[str, Any], keep: int) -> Path:
    """Write a checkpoint into ``folder``, then remove older ones beyond ``keep``.

    Another one of the same step is followed, not overwritten: ``step-00000120-2``. Once the new one stands, the newest
    ``keep`` up to it are kept (1 or more). Those of later steps go: they are of a run that was taken up before them.

    Args:
        folder: the run's ``checkpoints``; made if it is not there.
        step: next step to run.
        model: contiguous tensors that share no memory.
        state: nested state.
        keep: checkpoints to keep, the new one included.

    Returns:
        The checkpoint's folder.

    Raises:
        StateError: ``state`` holds what cannot be kept; nothing was written.
        OSError: the disk does not take it, or a link is in the way; what was there is untouched, and nothing half is left.
    """
    packed, tensors = pack(state)
    folder.mkdir(parents=True, exist_ok=True)
    if folder.is_symlink():
        raise OSError(errno.ELOOP, "is a symbolic link; none is followed in a run folder", str(folder))
    for left in folder.glob(f"{_HIDDEN}*"):  # of a writer that was killed
        _remove(left)
    same = [number for at, number, _ in _standing(folder) if at == step]
    name = f"step-{step:08d}" + (f"-{max(same) + 1}" if same else "")
    half = folder / f"{_HIDDEN}{name}"
    try:
        half.mkdir()
        save_file(model, half / MODEL)
        save_file(tensors, half / TENSORS)
        (half / STATE).write_text(json.dumps(packed, allow_nan=False) + "\n", encoding="utf-8")
        sums = {each: _sum(np.memmap(half / each, np.uint8, "r")) for each in (MODEL, TENSORS, STATE)}
        about = {"format": FORMAT, "gcdist": version("gcdist"), "step": step, "files": sums}
        (half / SUMS).write_text(json.dumps({**about, "self": _sum_of(about)}) + "\n", encoding="utf-8")
        for path in (half / MODEL, half / TENSORS, half / STATE, half / SUMS, half):
            _flush(path)
        os.rename(half, folder / name)
    except BaseException as error:
        shutil.rmtree(half, ignore_errors=True)  # the room is needed
        if isinstance(error, SafetensorError):  # its own kind, for what the disk says
            raise OSError(f"{folder / name}: {_line(error)}") from None
        raise
    _flush(folder)
    _prune(folder, folder / name, keep)
    return folder / name


def good_checkpoints(folder: Path, say: Callable[[str], None], before: Path | None = None) -> Iterator[Checkpoint]:
    """The checkpoints of ``folder`` that can be read, newest first; each damaged one on the way is one line for ``say``.

    ``before``: only those that are older than this one.
    """
    order = sorted(_standing(folder), reverse=True)
    at = next((i + 1 for i, (_, _, path) in enumerate(order) if path == before), 0)
    for _, _, path in order[at:]:
        try:
            yield read_checkpoint(path)
        except DamagedError as error:
            say(f"{error}; the one before it is tried")


def newest_checkpoint(folder: Path, say: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint of ``folder`` that can be read; each damaged one before it is one line for ``say``."""
    return next(good_checkpoints(folder, say), None)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read one checkpoint.

    Raises:
        DamagedError: it is not whole, or of a format that this version does not know.
    """
    try:
        if not (path / SUMS).exists() and (path / STATE).exists():
            raise DamagedError(f"checkpoint {path} has format 1, or no {SUMS}; this version reads {FORMAT}")
        about = json.loads(_read(path / SUMS))
        if about["format"] != FORMAT:
            raise DamagedError(f"checkpoint {path} has format {about['format']}; this version reads {FORMAT}")
        if about.pop("self") != _sum_of(about):
            raise DamagedError(f"checkpoint {path} is damaged: {SUMS} is not as it was written")
        raw = {name: _read(path / name) for name in (MODEL, TENSORS, STATE)}
        for name, content in raw.items():
            if _sum(np.frombuffer(content, np.uint8)) != about["files"][name]:
                raise DamagedError(f"checkpoint {path} is damaged: {name} is not as it was written")
        state = unpack(json.loads(raw[STATE]), load(raw[TENSORS]))
        return Checkpoint(path, int(about["step"]), load(raw[MODEL]), state)
    except DamagedError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError, RecursionError) as error:
        raise DamagedError(f"checkpoint {path} is damaged: {_line(error)}") from None


def _read(path: Path) -> bytes:
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "is no plain file", str(path))
        return file.read()


def _line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _standing(folder: Path) -> Iterator[tuple[int, int, Path]]:
    """(step, number, path) of the checkpoints under their final names."""
    for path in folder.glob("step-*"):
        match = _NAME.fullmatch(path.name)
        if match is not None and path.is_dir() and not path.is_symlink():
            yield int(match[1]), int(match[2] or 1), path


def _prune(folder: Path, new: Path, keep: int) -> None:
    order = sorted(_standing(folder))
    at = next(i for i, (_, _, path) in enumerate(order) if path == new)
    step = order[at][0]
    older = [path for s, _, path in order[:at] if s < step]
    unwanted = [path for s, _, path in order if s >= step and path != new]
    for path in unwanted + older[: max(0, len(older) - (keep - 1))]:
        hidden = folder / f"{_HIDDEN}{path.name}"
        os.rename(path, hidden)  # half removed, it must not stand under its name
        shutil.rmtree(hidden)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _sum(raw: U8) -> str:
    return f"{digest(raw):016x}"


def _sum_of(about: dict[str, Any]) -> str:
    """Of the list of checksums itself."""
    return _sum(np.frombuffer(json.dumps(about, sort_keys=True).encode(), np.uint8))


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
