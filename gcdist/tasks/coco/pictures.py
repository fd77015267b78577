"""Images with drawn boxes: a detector's and the true ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from gcdist.tasks.coco.augment import whole
from gcdist.tasks.coco.dataset import BrokenImageError, CocoImages
from gcdist.tasks.coco.decode import rgb
from gcdist.tasks.coco.scoring import to_pixels

if TYPE_CHECKING:
    from PIL.Image import Image

COLOURS = ("#e6194b", "#3cb44b", "#ffe119", "#4363d8", "#f58231", "#911eb4", "#46f0f0", "#f032e6", "#bcf60c", "#fabebe")
TRUTH = "#ffffff"  # of the true boxes: thin and white


def draw_boxes(
    image: Image, found: Mapping[str, Tensor], truth: Sequence[Sequence[float]], names: Mapping[int, str]
) -> Image:
    """A copy of an RGB ``image`` with boxes: found ones in colours with name and score, true ones thin and white.

    Args:
        found: ``boxes`` (n, 4), x0, y0, x1, y1 in pixels, ``labels`` (n,), ``scores`` (n,).
        truth: boxes (x0, y0, x1, y1).
        names: by label.
    """
    from PIL import ImageDraw

    picture = image.copy()
    pen = ImageDraw.Draw(picture)
    for x0, y0, x1, y1 in truth:
        pen.rectangle((x0, y0, max(x0, x1), max(y0, y1)), outline=TRUTH, width=1)
    each = zip(found["boxes"].tolist(), found["labels"].tolist(), found["scores"].tolist(), strict=True)
    for (x0, y0, x1, y1), label, score in sorted(each, key=lambda one: one[2]):
        colour = COLOURS[label % len(COLOURS)]
        pen.rectangle((x0, y0, max(x0, x1), max(y0, y1)), outline=colour, width=3)
        text = f"{names.get(label, label)} {score:.2f}"
        at = (x0 + 3, max(0.0, y0 - 12))
        pen.rectangle(pen.textbbox(at, text), fill=colour)
        pen.text(at, text, fill="black")
    return picture


def save_pictures(model: nn.Module, images: CocoImages, folder: Path, count: int, least: float = 0.3) -> list[Path]:
    """Write the first ``count`` images as PNG files with the model's detections of scores from ``least`` on.

    Returns:
        The files, named as the images are. Images that cannot be read are left out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names, written = images.labels.names(), []
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    for row in images.rows[:count].tolist():
        view = whole(*images.index.size_I2[row].tolist())
        try:
            pixels, picture = images.pixels(row, view), rgb(images.image(row))
        except BrokenImageError:
            continue
        with torch.no_grad():
            (found,) = to_pixels(model([pixels.to(device)]), images, [row])
        good = found["scores"] >= least
        at = images.index.of(row)
        box_B4 = images.index.box_B4[at]
        corners = torch.from_numpy(box_B4.copy())
        corners[:, 2:] += corners[:, :2]
        path = folder / f"{Path(images.index.name(row)).stem}.png"
        shown = {name: value[good] for name, value in found.items() if name in ("boxes", "labels", "scores")}
        draw_boxes(picture, shown, corners.tolist(), names).save(path)
        written.append(path)
    model.train(was_training)
    return written
