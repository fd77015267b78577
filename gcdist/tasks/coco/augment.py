"""Augmentation: a random crop of an image, mirrored or not, in changed colours. A view is first drawn, then applied."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gcdist.types import F64, Mask

LEAST_SCALE, MOST_ASPECT, COLOUR = 0.4, 1.33, 0.3
CLOSEST = MOST_ASPECT**0.5 / LEAST_SCALE  # the largest magnification of a view
LEAST_SIDE = 1.0  # pixels of the model's input: smaller boxes are no targets
GREY = (0.299, 0.587, 0.114)


@dataclass(frozen=True, slots=True)
class View:
    """A part of an image in its own pixels, x0, y0, x1, y1, and its changes; factors of 1 change nothing."""

    x0: float
    y0: float
    x1: float
    y1: float
    mirrored: bool = False
    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0


def whole(width: int, height: int) -> View:
    """The image as it is."""
    return View(0.0, 0.0, float(width), float(height))


def draw(rng: np.random.Generator, width: int, height: int) -> View:
    """A view at random: sides of 0.4 to 1 of the image's at a changed aspect, half of them mirrored, colours within 30%."""
    scale = rng.uniform(LEAST_SCALE, 1.0)
    stretch = MOST_ASPECT ** rng.uniform(-0.5, 0.5)
    wide, high = width * min(1.0, scale * stretch), height * min(1.0, scale / stretch)
    x0, y0 = rng.uniform(0, width - wide), rng.uniform(0, height - high)
    mirrored = bool(rng.random() < 0.5)
    colours = rng.uniform(1 - COLOUR, 1 + COLOUR, 3).tolist()
    return View(x0, y0, x0 + wide, y0 + high, mirrored, *colours)


def boxes_in(view: View, box_B4: F64, size: int) -> tuple[F64, Mask]:
    """Boxes (x, y, w, h) of the image as (x0, y0, x1, y1) in pixels of the model's square input, and targets as a mask.

    A target is at least a pixel wide and high after clipping and has its centre in the view.
    """
    scale = np.array([size / (view.x1 - view.x0), size / (view.y1 - view.y0)])
    low = (box_B4[:, :2] - [view.x0, view.y0]) * scale
    high = (box_B4[:, :2] + box_B4[:, 2:] - [view.x0, view.y0]) * scale
    low_clipped, high_clipped = low.clip(0, size), high.clip(0, size)
    centre = (low + high) / 2
    kept = ((high_clipped - low_clipped) >= LEAST_SIDE).all(1) & (centre >= 0).all(1) & (centre <= size).all(1)
    if view.mirrored:
        low_clipped[:, 0], high_clipped[:, 0] = size - high_clipped[:, 0], size - low_clipped[:, 0]
    return np.concatenate([low_clipped, high_clipped], 1), kept


def recoloured(image: Tensor, view: View) -> Tensor:
    """Saturation, contrast, brightness of an image (3, H, W) in 0..1; mirrored for a mirrored view."""
    if view.mirrored:
        image = image.flip(2)
    if view.saturation != 1:
        grey = (image * torch.tensor(GREY)[:, None, None]).sum(0, keepdim=True)
        image = grey + view.saturation * (image - grey)
    if view.contrast != 1:
        mean = image.mean()
        image = mean + view.contrast * (image - mean)
    if view.brightness != 1:
        image = image * view.brightness
    return image.clamp(0, 1)
