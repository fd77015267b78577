"""Small data sets in COCO's layout for tests, and the real one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

REAL = Path(__file__).parents[3] / "shared" / "data" / "coco-small"  # 158 images, beside the checkout
needs_images = pytest.mark.skipif(not REAL.is_dir(), reason="the images are not beside the checkout")


def annotation(number: Any, image: Any, box: Any, label: int = 1, **more: Any) -> dict[str, Any]:
    """One object; ``box`` is x, y, w, h."""
    return {"id": number, "image_id": image, "category_id": label, "bbox": box, "area": 9.0, "iscrowd": 0, **more}


def write_image(path: Path, width: int = 40, height: int = 30, mode: str = "RGB") -> None:
    rng = np.random.default_rng(width)
    pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).convert(mode).save(path)


def write_split(
    root: Path,
    images: list[dict[str, Any]],
    annotations: list[dict[str, Any]],
    split: str = "train2017",
    categories: list[dict[str, Any]] | None = None,
) -> Path:
    """The annotations' file; images are written by the caller."""
    path = root / "annotations" / f"instances_{split}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    (root / split).mkdir(exist_ok=True)
    listed = categories or [{"id": 1, "name": "person"}, {"id": 90, "name": "toothbrush"}]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": listed}))
    return path


def image_entry(number: Any, width: Any = 40, height: Any = 30, name: str | None = None) -> dict[str, Any]:
    return {"id": number, "width": width, "height": height, "file_name": name or f"{number:012d}.png"}


def small(root: Path, images: int = 4, split: str = "train2017") -> Path:
    """``images`` of 40x30 pixels with one object each."""
    entries = [image_entry(i) for i in range(1, images + 1)]
    path = write_split(root, entries, [annotation(i, i, [5, 5, 20, 15], 90) for i in range(1, images + 1)], split)
    for entry in entries:
        write_image(root / split / entry["file_name"])
    return path
