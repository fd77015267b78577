"""Annotations in COCO's format, checked value by value, as flat arrays.

Exporters differ: ids begin at 0 or are floats, boxes are texts, ``iscrowd`` is "0". A value with one possible meaning
is read (the float 3.0 is 3). An annotation with any other value is left out and counted. An image or a category with
such a value is refused, because all its annotations would be lost.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gcdist.types import I64, U8

CATEGORIES_MOST = 9999
ID_MOST = 1 << 53  # a float64 holds every whole number up to here
REASONS = {  # why an annotation is left out: ends of "3 annotations ..."
    "image": "with an image that is not listed",
    "category": "with a category that is not listed",
    "id": "whose image_id or category_id is not a whole number",
    "box": "without a box of four numbers",
    "crowd": "whose iscrowd is not 0 or 1",
}
Row = list[float]


class AnnotationError(ValueError):
    """The annotations cannot be used; one line says why."""


def parse(annotations: Path) -> dict[str, NDArray[Any]]:
    """The arrays of an `Index` from a file in COCO's format, with or without a byte order mark.

    Raises:
        AnnotationError: not COCO's format; the line names the first error.
        OSError: the file cannot be read.
    """
    try:
        content = json.loads(annotations.read_bytes())
    except (ValueError, RecursionError) as error:
        raise AnnotationError(f"{annotations}: is not JSON ({error}); should be COCO's instances format") from None
    try:
        return _arrays(content)
    except ValueError as error:
        raise AnnotationError(f"{annotations}: {error}; should be COCO's instances format") from None


def _arrays(content: Any) -> dict[str, NDArray[Any]]:
    if not isinstance(content, dict):
        raise ValueError(f"is no JSON object, but a {type(content).__name__}")
    images, annotations, categories = (_entries(content, part) for part in ("images", "annotations", "categories"))
    names = _categories(categories)
    if not images:
        raise ValueError("has no images")
    ids = _unique([_whole(_get(image, "id", "an image"), "an image's id") for image in images], "image")
    sizes = [
        [_whole(_get(image, side, f"image {i}"), f"the {side} of image {i}") for side in ("width", "height")]
        for i, image in zip(ids, images, strict=True)
    ]
    bad = next((i for i, size in zip(ids, sizes, strict=True) if min(size) < 1), None)
    if bad is not None:
        raise ValueError(f"image {bad} has no size")
    files = [_file_name(_get(image, "file_name", f"image {i}"), i) for i, image in zip(ids, images, strict=True)]
    left_out: Counter[str] = Counter()
    of_image: dict[int, list[Row]] = {i: [] for i in ids}
    for annotation in annotations:
        why = _add(annotation, of_image, names)
        if why:
            left_out[why] += 1
    table = np.array([row for i in ids for row in of_image[i]], np.float64).reshape(-1, 8)
    file_at, file_names = _texts(files)
    name_at, category_names = _texts(names.values())
    return {
        "image_id_I": np.array(ids, np.int64),
        "size_I2": np.array(sizes, np.int64),
        "name_at_J": file_at,
        "names": file_names,
        "first_J": np.cumsum([0, *(len(of_image[i]) for i in ids)], dtype=np.int64),
        "annotation_id_B": table[:, 0].astype(np.int64),
        "category_B": table[:, 1].astype(np.int64),
        "box_B4": np.ascontiguousarray(table[:, 2:6]),
        "area_B": table[:, 6].copy(),
        "crowd_B": table[:, 7].astype(np.uint8),
        "category_id_C": np.array(list(names), np.int64),
        "category_at_D": name_at,
        "category_names": category_names,
        "left_out_W": np.array([left_out[why] for why in REASONS], np.int64),
    }


def _entries(content: Mapping[str, Any], part: str) -> list[Mapping[str, Any]]:
    found = content.get(part)
    if not isinstance(found, list):
        raise ValueError(f"has no list of {part}")
    bad = next((at for at, entry in enumerate(found) if not isinstance(entry, dict)), None)
    if bad is not None:
        raise ValueError(f"entry {bad} of {part} is no JSON object, found {_shown(found[bad])}")
    return found


def _categories(entries: list[Mapping[str, Any]]) -> dict[int, str]:
    """Names by id, in the order of the file."""
    ids = _unique([_whole(_get(entry, "id", "a category"), "a category's id") for entry in entries], "category")
    if not 1 <= len(ids) <= CATEGORIES_MOST:
        raise ValueError(
            f"has {len(ids)} categories, allowed are 1 to {CATEGORIES_MOST}" if ids else "has no categories"
        )
    return {i: str(entry.get("name", i)) for i, entry in zip(ids, entries, strict=True)}


def _add(annotation: Mapping[str, Any], of_image: Mapping[int, list[Row]], names: Mapping[int, str]) -> str:
    """Add (id, category, x, y, w, h, area, crowd) to its image; else the key of `REASONS`."""
    image = _number(_get(annotation, "image_id", "an annotation"))
    category = _number(_get(annotation, "category_id", "an annotation"))
    if image is None or category is None:
        return "id"
    if image not in of_image:
        return "image"
    if category not in names:
        return "category"
    box, area = annotation.get("bbox"), annotation.get("area")
    if not isinstance(box, list) or len(box) != 4 or not all(_is_finite(x) for x in box):
        return "box"
    crowd = annotation.get("iscrowd")
    if crowd is not None and not (isinstance(crowd, (int, float)) and crowd in (0, 1)):  # a text "0" would be true
        return "crowd"
    number = _whole(_get(annotation, "id", "an annotation"), "an annotation's id")
    of_image[image].append(
        [number, category, *box, area if _is_finite(area) else box[2] * box[3], bool(crowd)]  # type: ignore[list-item]
    )
    return ""


def _get(entry: Mapping[str, Any], key: str, whose: str) -> Any:
    if key not in entry:
        raise ValueError(f"{whose} misses {key!r}")
    return entry[key]


def _number(value: Any) -> int | None:
    """A whole number, given as one or as a float; else None."""
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not abs(value) < ID_MOST
        or value != int(value)
    ):
        return None
    return int(value)


def _whole(value: Any, what: str) -> int:
    number = _number(value)
    if number is None:
        raise ValueError(f"{what} should be a whole number, found {_shown(value)}")
    return number


def _unique(ids: list[int], what: str) -> list[int]:
    twice = next((i for i, count in Counter(ids).items() if count > 1), None)
    if twice is not None:
        raise ValueError(f"{what} id {twice} comes {ids.count(twice)} times")
    return ids


def _is_finite(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond every float
        return False


def _file_name(name: Any, image: int) -> str:
    if not isinstance(name, str) or not name:
        raise ValueError(f"the file_name of image {image} should be a text, found {_shown(name)}")
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"file name {name!r} leads out of the folder of images")
    return name


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _texts(texts: Iterable[str]) -> tuple[I64, U8]:
    encoded = [text.encode() for text in texts]
    return np.cumsum([0, *map(len, encoded)], dtype=np.int64), np.frombuffer(b"".join(encoded), np.uint8)
