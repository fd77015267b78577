"""Checkpoints as folders: written whole or not at all, read without pickle, the newest good one found again.

``step-00000120`` (the number of the next step to run) holds ``model.safetensors``, which is the model's plain
``state_dict``, ``state.safetensors`` and ``state.json`` with everything else (`nested`). A folder counts only under such a
name: it is written under a hidden one, flushed to disk and then renamed, so that a kill at any moment leaves the last one
as it was. ``state.json`` holds the other files' checksums.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load, save_file

from gcdist.run.nested_state import StateError, Tensors, pack, unpack
from gcdist.transport import digest
from gcdist.types import U8

FORMAT = 1
MODEL, TENSORS, STATE = "model.safetensors", "state.safetensors", "state.json"

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
    """Write a checkpoint into ``folder``, then remove what is not wanted any more.

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
        OSError: the disk does not take it; what was there is untouched.
    """
    packed, tensors = pack(state)
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(f"{_HIDDEN}*"):  # of a writer that was killed
        shutil.rmtree(left)
    same = [number for at, number, _ in _standing(folder) if at == step]
    name = f"step-{step:08d}" + (f"-{max(same) + 1}" if same else "")
    half = folder / f"{_HIDDEN}{name}"
    half.mkdir()
    save_file(model, half / MODEL)
    save_file(tensors, half / TENSORS)
    about = {"format": FORMAT, "gcdist": version("gcdist"), "step": step}
    sums = {each: _sum(np.memmap(half / each, np.uint8, "r")) for each in (MODEL, TENSORS)}
    text = json.dumps({**about, "files": sums, "state": packed}, allow_nan=False)
    (half / STATE).write_text(text + "\n", encoding="utf-8")
    for path in (half / MODEL, half / TENSORS, half / STATE, half):
        _flush(path)
    os.rename(half, folder / name)
    _flush(folder)
    _prune(folder, folder / name, keep)
    return folder / name


def newest_checkpoint(folder: Path, say: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint of ``folder`` that can be read; each damaged one before it is one line for ``say``."""
    for _, _, path in sorted(_standing(folder), reverse=True):
        try:
            return read_checkpoint(path)
        except DamagedError as error:
            say(f"{error}; the one before it is tried")
    return None


def read_checkpoint(path: Path) -> Checkpoint:
    """Read one checkpoint.

    Raises:
        DamagedError: it is not whole, or of a format that this version does not know.
    """
    try:
        told = json.loads((path / STATE).read_text(encoding="utf-8"))
        if told["format"] != FORMAT:
            raise DamagedError(f"checkpoint {path} has format {told['format']}; this version reads {FORMAT}")
        tensors = []
        for name in (MODEL, TENSORS):
            raw = (path / name).read_bytes()
            if _sum(np.frombuffer(raw, np.uint8)) != told["files"][name]:
                raise DamagedError(f"checkpoint {path} is damaged: {name} is not as it was written")
            tensors.append(load(raw))
        return Checkpoint(path, int(told["step"]), tensors[0], unpack(told["state"], tensors[1]))
    except DamagedError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError, StateError) as error:
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DamagedError(f"checkpoint {path} is damaged: {line}") from None


def _standing(folder: Path) -> Iterator[tuple[int, int, Path]]:
    """(step, number, path) of the checkpoints under their final names."""
    for path in folder.glob("step-*"):
        match = _NAME.fullmatch(path.name)
        if match is not None and path.is_dir():
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


def _sum(raw: U8) -> str:
    return f"{digest(raw):016x}"


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
