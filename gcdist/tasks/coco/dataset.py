"""COCO's images and boxes as a map-style data set of square inputs."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from gcdist.tasks.coco.augment import CLOSEST, LEAST_SIDE, View, boxes_in, draw, recoloured, whole
from gcdist.tasks.coco.decode import Exif, PixelsError, open_image
from gcdist.tasks.coco.index import Index
from gcdist.tasks.coco.labels import Labels
from gcdist.types import I64

if TYPE_CHECKING:
    from PIL.Image import Image

Broken: TypeAlias = Literal["refuse", "skip", "later"]
Target: TypeAlias = dict[str, Tensor]
Sample: TypeAlias = tuple[Tensor, Target]
NAMED = 5  # missing files named in an error line; it counts the others
log = logging.getLogger("gcdist.coco")


class BrokenImageError(ValueError):
    """An image cannot be read, or differs from its annotations; the text names the file."""


class CocoImages(Dataset["Sample | None"]):
    """``dataset[i]``: an image (3, S, S) float32 in 0..1, and its target.

    A target has ``boxes`` (n, 4) float32, (x0, y0, x1, y1) in pixels of the input, ``labels`` (n,) int64, from 1 to
    ``classes - 1`` (see `Labels`), and ``image_id``. Crowd regions and boxes under a pixel are no targets; an image may
    have no target.

    The augmentation is seeded by one number of torch's global generator, which gcdist seeds by (seed, step, partition).

    Args:
        index: the annotations.
        folder: of the images.
        size: S, pixels.
        augment: crop, mirror and change colours; False: the whole image, as it is.
        broken: the treatment of missing files and of files that cannot be decoded. "refuse": an error. "skip": missing
            ones are left out, and ``dataset[i]`` is None for a broken one (`collate` drops it). "later": files are looked
            up only when they are read, for data that stays on its node.
        most: number of images, from the first; 0: all.
        labels: of the categories, shared with another split; None: of this one alone.
        exif: "turn" images as they are shown, or "ignore" their orientation: `open_image`.

    Raises:
        ValueError: no folder, no images, or missing ones; categories with another meaning in the other split.
    """

    def __init__(
        self,
        index: Index,
        folder: Path,
        size: int,
        *,
        augment: bool = False,
        broken: Broken = "refuse",
        most: int = 0,
        labels: Labels | None = None,
        exif: Exif = "turn",
    ) -> None:
        self.index = index
        self.folder = folder
        self.size = size
        self.augment = augment
        self.broken = broken
        self.exif: Exif = exif
        self.labels = Labels() if labels is None else labels
        self.labels.add(index.categories(), folder)
        self.skipped: set[int] = set()  # images that could not be decoded
        if broken != "later" and not folder.is_dir():
            raise ValueError(f"{folder}: no such folder of images")
        rows = np.arange(len(index))[: most or None]
        if broken != "later":
            rows = _present(index, folder, rows, broken)
        if not len(rows):
            raise ValueError(f"{folder}: none of the {len(index)} images of the annotations is there")
        self.rows: I64 = rows  # numbers in the index

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def classes(self) -> int:
        """One more than the highest label, a detector's ``num_classes``; 91 for COCO."""
        return self.labels.classes

    def why_no_target(self) -> str:
        """Empty if a box of these images can be a target; else the reasons why none can, for a line to the user."""
        index = self.index
        of_B = np.repeat(np.arange(len(index)), np.diff(index.first_J))
        at_B = np.isin(of_B, self.rows)
        image_B2 = index.size_I2[of_B[at_B]]
        low_B2 = index.box_B4[at_B, :2]
        high_B2 = low_B2 + index.box_B4[at_B, 2:]
        centre_B2 = (low_B2 + high_B2) / 2
        pixels_B2 = (high_B2.clip(0, image_B2) - low_B2.clip(0, image_B2)) * self.size / image_B2
        seen_B = ((centre_B2 >= 0) & (centre_B2 <= image_B2)).all(1)
        seen_B &= (pixels_B2 * (CLOSEST if self.augment else 1) >= LEAST_SIDE).all(1)
        crowd_B = index.crowd_B[at_B] == 1
        if (~crowd_B & seen_B).any():
            return ""
        found = [f"{crowd_B.sum()} annotations are crowds"] if crowd_B.any() else []
        if not crowd_B.all():
            found.append(
                f"{(~crowd_B).sum()} boxes are under a pixel of {self.size}x{self.size}, or outside of their image"
            )
        return (
            "; ".join([*found, *(f"{text} were left out" for text in index.left_out())]) or "they have no annotations"
        )

    def __getitem__(self, i: int) -> Sample | None:
        row = int(self.rows[i])
        drawn = int(torch.randint(1 << 62, ())) if self.augment else 0
        width, height = self.index.size_I2[row].tolist()
        view = draw(np.random.default_rng(drawn), width, height) if self.augment else whole(width, height)
        try:
            image = self.pixels(row, view)
        except BrokenImageError as error:
            if self.broken != "skip":
                raise
            if row not in self.skipped:
                self.skipped.add(row)
                log.warning("%s; it is skipped (%d so far)", error, len(self.skipped))
            return None
        return recoloured(image, view), self.target(row, view)

    def target(self, row: int, view: View) -> Target:
        """The target for a view of image number ``row`` of the index."""
        at = self.index.of(row)
        boxes, kept = boxes_in(view, self.index.box_B4[at], self.size)
        kept &= self.index.crowd_B[at] == 0
        return {
            "boxes": torch.from_numpy(boxes[kept].astype(np.float32)),
            "labels": torch.from_numpy(self.labels.of(self.index.category_B[at][kept])),
            "image_id": torch.tensor(int(self.index.image_id_I[row])),
        }

    def pixels(self, row: int, view: View) -> Tensor:
        """The view's part of an image, resized to (3, S, S) float32 in 0..1; grey and palette images become RGB.

        Raises:
            BrokenImageError: it cannot be decoded, has another size than the annotations say, or values without a rule.
        """
        from PIL.Image import Resampling

        width, height = self.index.size_I2[row].tolist()
        share = min((view.x1 - view.x0) / width, (view.y1 - view.y0) / height)
        image = self.image(row, wanted=int(np.ceil(self.size / share)))
        across, down = image.size[0] / width, image.size[1] / height
        box = (view.x0 * across, view.y0 * down, view.x1 * across, view.y1 * down)
        small = image.resize((self.size, self.size), Resampling.BILINEAR, box, reducing_gap=2.0)
        raw = torch.from_numpy(np.array(small))
        if raw.dim() == 2:
            raw = raw[:, :, None].expand(-1, -1, 3)
        return raw.permute(2, 0, 1).to(torch.float32, memory_format=torch.contiguous_format) / 255

    def image(self, row: int, wanted: int = 0) -> Image:
        """Image number ``row`` of the index, upright, RGB or float grey: `open_image`, which has ``wanted``.

        Raises:
            BrokenImageError: as `pixels`.
        """
        path = self.folder / self.index.name(row)
        width, height = self.index.size_I2[row].tolist()
        try:
            return open_image(path, (width, height), self.exif, wanted)
        except PixelsError as error:
            raise BrokenImageError(f"{path}: {error}") from None
        except Exception as error:  # Pillow raises many kinds
            raise BrokenImageError(f"{path}: cannot be read: {error}") from None


def collate(samples: list[Sample | None]) -> tuple[list[Tensor], list[Target]]:
    """Images and targets as two lists; None, a skipped image, is dropped. ValueError if no image remains."""
    good: list[Any] = [sample for sample in samples if sample is not None]
    if not good:
        raise ValueError(f"none of the {len(samples)} images of this batch could be read")
    images, targets = zip(*good, strict=True)
    return list(images), list(targets)


def _present(index: Index, folder: Path, rows: I64, broken: Broken) -> I64:
    """The images with existing files; each folder is listed once."""
    names = [index.name(int(row)) for row in rows]
    there: dict[str, set[str]] = {}
    for name in names:
        inner = os.path.dirname(name)
        if inner not in there:
            path = folder / inner
            there[inner] = set(os.listdir(path)) if path.is_dir() else set()
    found = np.array([os.path.basename(name) in there[os.path.dirname(name)] for name in names], np.bool_)
    if not found.all():
        missing = [name for name, here in zip(names, found, strict=True) if not here]
        text = f"{folder}: {len(missing)} of {len(names)} images are missing: {', '.join(missing[:NAMED])}"
        text += ", ..." if len(missing) > NAMED else ""
        if broken == "refuse":
            raise ValueError(f'{text}; to leave them out: broken = "skip"')
        log.warning("%s; they are left out", text)
    kept: I64 = rows[found]
    return kept
