"""COCO's annotations, read once: an index of flat arrays in a file that all workers of a host map into memory.

The annotations of COCO's training split are 448 MB of JSON, which take half a minute and gigabytes to parse. The first
process that needs them does so, under a lock; the others wait for its index and map it. An index can be deleted at any time,
and one that is damaged is built again. It is a safetensors file: numbers only, never pickled.
"""

from __future__ import annotations

import fcntl
import json
import logging
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from gcdist.types import F64, I64, U8

FORMAT = 1  # of the file
SAMPLE = 1 << 20  # bytes at each end of the annotations that tell files of equal size and time apart
LABEL_MOST = 10_000
log = logging.getLogger("gcdist.coco")


class AnnotationError(ValueError):
    """The annotations cannot be used; one line says why."""


@dataclass(frozen=True, slots=True, eq=False)
class Index:
    """Images (I) in the order of the file, and their annotations (B), image by image.

    ``box_B4`` is COCO's own (x, y, w, h) in pixels, unclipped. The arrays are mapped from a file: not to be written to.
    """

    image_id_I: I64
    size_I2: I64  # width, height
    name_at_J: I64  # (I+1,) where each file name begins in ``names``
    names: U8  # UTF-8
    first_J: I64  # (I+1,) where each image's annotations begin
    annotation_id_B: I64
    label_B: I64
    box_B4: F64
    area_B: F64
    crowd_B: U8  # 1: a region with many objects
    category_id_C: I64
    category_at_D: I64  # (C+1,) where each name begins in ``category_names``
    category_names: U8

    def __len__(self) -> int:
        return len(self.image_id_I)

    def name(self, i: int) -> str:
        """File name of image number ``i``."""
        return self.names[self.name_at_J[i] : self.name_at_J[i + 1]].tobytes().decode()

    def of(self, i: int) -> slice:
        """The annotations of image number ``i``."""
        return slice(int(self.first_J[i]), int(self.first_J[i + 1]))

    @property
    def classes(self) -> int:
        """One more than the highest category id: what a detector calls ``num_classes``; 91 for COCO."""
        return int(self.category_id_C.max()) + 1

    def categories(self) -> dict[int, str]:
        """Names by category id."""
        names = (self.category_names[a:b].tobytes().decode() for a, b in pairwise(self.category_at_D.tolist()))
        return dict(zip(self.category_id_C.tolist(), names, strict=True))


ARRAYS: tuple[str, ...] = Index.__slots__


def open_index(annotations: Path, cache: Path) -> Index:
    """The index of an annotations file, from ``cache`` or built into it.

    The file's name has a digest of the annotations' size, time of change, first and last megabyte: another file has another
    index, and moving the data set keeps it.

    Raises:
        AnnotationError: no such file, not COCO's format, or the cache folder cannot be written.
    """
    try:
        key = _key(annotations)
    except OSError as error:
        raise AnnotationError(f"{annotations}: cannot be read: {error.strerror}") from None
    file = cache / f"{annotations.stem}-{key}.safetensors"
    found = _read(file, key)
    if found is not None:
        return found
    try:
        cache.mkdir(parents=True, exist_ok=True)
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
            f"the cache folder {cache} cannot be used ({error}); name another: option 'cache'"
        ) from None
    return found


def parse(annotations: Path) -> dict[str, NDArray[Any]]:
    """The arrays of an `Index` from a file in COCO's format; annotations that cannot be used are counted in the log.

    Raises:
        AnnotationError: not COCO's format; the line says what is wrong first.
    """
    from pycocotools.coco import COCO

    with redirect_stdout(StringIO()):  # it prints how long it takes
        try:
            coco = COCO(str(annotations))
        except (ValueError, AssertionError, KeyError, TypeError, AttributeError, RecursionError) as error:
            what = f"misses {error}" if isinstance(error, KeyError) else f"is no JSON object ({error})"
            raise AnnotationError(f"{annotations}: {what}; should be COCO's instances format") from None
    try:
        return _arrays(coco)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        what = f"an entry misses {error}" if isinstance(error, KeyError) else str(error)
        raise AnnotationError(f"{annotations}: {what}; should be COCO's instances format") from None


def _arrays(coco: Any) -> dict[str, NDArray[Any]]:
    for part in ("images", "annotations", "categories"):
        if not isinstance(coco.dataset.get(part), list):
            raise ValueError(f"has no list of {part}")
    images: list[dict[str, Any]] = coco.dataset["images"]
    names = {_whole(c["id"], "a category's id"): str(c.get("name", c["id"])) for c in coco.dataset["categories"]}
    if not images or not names:
        raise ValueError("has no images" if names else "has no categories")
    if not all(1 <= label < LABEL_MOST for label in names):
        raise ValueError(f"category ids should be 1 to {LABEL_MOST - 1}, found {min(names)} to {max(names)}")
    ids = [_whole(image["id"], "an image's id") for image in images]
    twice = [i for i, count in Counter(ids).items() if count > 1]
    if twice:
        raise ValueError(f"image id {twice[0]} comes {ids.count(twice[0])} times")
    sizes = [(_whole(image["width"], "a width"), _whole(image["height"], "a height")) for image in images]
    bad = next((i for i, size in zip(ids, sizes, strict=True) if min(size) < 1), None)
    if bad is not None:
        raise ValueError(f"image {bad} has no size")
    outside = [str(image["file_name"]) for image in images if not _is_inside(str(image["file_name"]))]
    if outside:
        raise ValueError(f"file name {outside[0]!r} leads out of the folder of images")
    unusable: Counter[str] = Counter()
    known, rows, counts = set(ids), [], []
    unusable["with an image that is not listed"] = sum(a["image_id"] not in known for a in coco.dataset["annotations"])
    for i in ids:
        mine = [row for a in coco.imgToAnns.get(i, []) if (row := _row(a, names, unusable)) is not None]
        rows += mine
        counts.append(len(mine))
    for why, count in unusable.items():
        if count:
            log.warning("%d annotations %s are left out", count, why)
    table = np.array(rows, np.float64).reshape(-1, 8)
    file_at, files = _texts(str(image["file_name"]) for image in images)
    name_at, label_names = _texts(names.values())
    return {
        "image_id_I": np.array(ids, np.int64),
        "size_I2": np.array(sizes, np.int64),
        "name_at_J": file_at,
        "names": files,
        "first_J": np.cumsum([0, *counts], dtype=np.int64),
        "annotation_id_B": table[:, 0].astype(np.int64),
        "label_B": table[:, 1].astype(np.int64),
        "box_B4": np.ascontiguousarray(table[:, 2:6]),
        "area_B": table[:, 6].copy(),
        "crowd_B": table[:, 7].astype(np.uint8),
        "category_id_C": np.array(list(names), np.int64),
        "category_at_D": name_at,
        "category_names": label_names,
    }


def _row(annotation: Mapping[str, Any], names: Mapping[int, str], unusable: Counter[str]) -> list[float] | None:
    """(id, label, x, y, w, h, area, crowd); None if it cannot be used."""
    label, box = annotation["category_id"], annotation.get("bbox")
    if label not in names:
        unusable["with a category that is not listed"] += 1
        return None
    if not isinstance(box, list) or len(box) != 4 or not all(_is_number(x) for x in box):
        unusable["without a box of four numbers"] += 1
        return None
    area = annotation.get("area")
    return [
        _whole(annotation["id"], "an annotation's id"),
        label,
        *box,
        area if _is_number(area) else box[2] * box[3],
        bool(annotation.get("iscrowd", 0)),
    ]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_inside(name: str) -> bool:
    return bool(name) and not Path(name).is_absolute() and ".." not in Path(name).parts


def _whole(value: Any, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) >= 1 << 53:
        raise ValueError(f"{what} should be a whole number, found {value!r}")
    return value


def _texts(texts: Any) -> tuple[I64, U8]:
    encoded = [text.encode() for text in texts]
    return np.cumsum([0, *map(len, encoded)], dtype=np.int64), np.frombuffer(b"".join(encoded), np.uint8)


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
    """The file appears whole or not at all; what a killed writer left is overwritten."""
    half = file.with_suffix(".part")
    try:
        save_file(arrays, half, metadata={"about": json.dumps({"key": key, "digest": _digest(arrays)})})
        os.replace(half, file)
    except BaseException:
        half.unlink(missing_ok=True)
        raise


def _read(file: Path, key: str) -> Index | None:
    """None: there is none, or it is damaged."""
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
    """One process of this host at a time; the lock ends with its process, however that ends."""
    with file.open("ab") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
