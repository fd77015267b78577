"""COCO's annotations, read once: an index of flat arrays in a file that all workers of a host map into memory.

The annotations of COCO's training split are 448 MB of JSON, which take half a minute and gigabytes to parse. The first
process that needs them parses them under a lock; the others wait for its index and map it. An index can be deleted at
any time; a damaged one is built again. It is a safetensors file: numbers only, never pickled.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from gcdist.tasks.coco.parse import REASONS, AnnotationError, parse
from gcdist.types import F64, I64, U8
from gcdist.whole_file import replacing

FORMAT = 2  # of the file
SAMPLE = 1 << 20  # bytes at each end of the annotations: their digest tells files of equal size and time apart
log = logging.getLogger("gcdist.coco")


@dataclass(frozen=True, slots=True, eq=False)
class Index:
    """Images (I) in the order of the file, and their annotations (B), image by image.

    ``box_B4`` is COCO's own (x, y, w, h) in pixels, unclipped. The arrays are mapped from a file and must not be
    written.
    """

    image_id_I: I64
    size_I2: I64  # width, height
    name_at_J: I64  # (I+1,) where each file name begins in ``names``
    names: U8  # UTF-8
    first_J: I64  # (I+1,) where each image's annotations begin
    annotation_id_B: I64
    category_B: I64  # the file's category ids
    box_B4: F64
    area_B: F64
    crowd_B: U8  # 1: a region with many objects
    category_id_C: I64
    category_at_D: I64  # (C+1,) where each name begins in ``category_names``
    category_names: U8
    left_out_W: I64  # annotations that cannot be used, for each reason of `REASONS`

    def __len__(self) -> int:
        return len(self.image_id_I)

    def name(self, i: int) -> str:
        """File name of image number ``i``."""
        return self.names[self.name_at_J[i] : self.name_at_J[i + 1]].tobytes().decode()

    def of(self, i: int) -> slice:
        """The annotations of image number ``i``."""
        return slice(int(self.first_J[i]), int(self.first_J[i + 1]))

    def categories(self) -> dict[int, str]:
        """Names by the file's category id."""
        names = (self.category_names[a:b].tobytes().decode() for a, b in pairwise(self.category_at_D.tolist()))
        return dict(zip(self.category_id_C.tolist(), names, strict=True))

    def left_out(self) -> list[str]:
        """A text for each reason to leave out annotations."""
        return [
            f"{count} annotations {reason}"
            for count, reason in zip(self.left_out_W.tolist(), REASONS.values(), strict=True)
            if count
        ]


ARRAYS: tuple[str, ...] = Index.__slots__


def open_index(annotations: Path, cache: Path) -> Index:
    """The index of an annotations file, from ``cache`` or built into it; the log counts left-out annotations each time.

    The file's name has a digest of the annotations' size, time of change, first and last megabyte: another file has
    another index, and a moved data set keeps its index.

    Raises:
        AnnotationError: no such file, not COCO's format, or the cache folder cannot be written.
    """
    try:
        key = _key(annotations)
    except OSError as error:
        raise AnnotationError(f"{annotations}: cannot be read: {error.strerror}") from None
    file = cache / f"{annotations.stem}-{key}.safetensors"
    found = _read(file, key) or _built(annotations, file, key)
    for text in found.left_out():
        log.warning("%s: %s are left out", annotations, text)
    return found


def _built(annotations: Path, file: Path, key: str) -> Index:
    """The index, built now by this process or by another one."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with _locked(file.with_suffix(".lock")):
            found = _read(file, key)  # by another process, while this one waited
            if found is None:
                if file.exists():
                    log.warning("%s is damaged: it is built again", file)
                arrays = parse(annotations)
                _write(file, key, arrays)
                found = _read(file, key) or Index(**arrays)  # somebody may delete it at any moment
    except OSError as error:
        raise AnnotationError(
            f"the cache folder {file.parent} cannot be used ({error}); name another: option 'cache'"
        ) from None
    return found


# --- the file ---


def _key(annotations: Path) -> str:
    with annotations.open("rb") as file:
        about = os.fstat(file.fileno())
        digest = xxhash.xxh3_128(f"{FORMAT} {about.st_size} {about.st_mtime_ns}".encode())
        digest.update(file.read(SAMPLE))
        file.seek(max(0, about.st_size - SAMPLE))
        digest.update(file.read(SAMPLE))
    return digest.hexdigest()


def _digest(arrays: Mapping[str, NDArray[Any]]) -> str:
    digest = xxhash.xxh3_128()
    for name in ARRAYS:
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape} ".encode())
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return digest.hexdigest()


def _write(file: Path, key: str, arrays: dict[str, NDArray[Any]]) -> None:
    """The file appears whole or not at all; the rest of a killed writer is overwritten."""
    with replacing(file) as half:
        save_file(arrays, half, metadata={"about": json.dumps({"key": key, "digest": _digest(arrays)})})


def _read(file: Path, key: str) -> Index | None:
    """The index in the file; None if the file is missing or damaged."""
    try:
        with safe_open(file, framework="pt") as opened:  # torch's tensors are mapped, numpy's would be copies
            about = json.loads((opened.metadata() or {})["about"])
            arrays = {name: opened.get_tensor(name).numpy() for name in ARRAYS}
    except (OSError, SafetensorError, KeyError, ValueError, TypeError):
        return None
    if about != {"key": key, "digest": _digest(arrays)}:
        return None
    for array in arrays.values():
        array.flags.writeable = False
    return Index(**arrays)


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """One process of this host at a time; the lock ends with its process in every case."""
    with file.open("ab") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
