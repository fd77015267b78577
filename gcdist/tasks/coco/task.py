"""The task: a detector, COCO's images, the sum of its losses."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from gcdist.tasks.coco.dataset import Broken, CocoImages, collate
from gcdist.tasks.coco.decode import Exif
from gcdist.tasks.coco.detector import CompactDetector
from gcdist.tasks.coco.index import open_index
from gcdist.tasks.coco.labels import Labels
from gcdist.tasks.coco.scoring import HeldOut
from gcdist.tasks.coco.vision import detector
from gcdist.tasks.task import Task

NEEDED = {"pycocotools": "pycocotools", "PIL": "pillow", "faster_coco_eval": "faster-coco-eval"}
COMPACT_SIZE, TORCHVISION_SIZE = 160, 320
HELD_OUT_BATCH = 8
log = logging.getLogger("gcdist.coco")


def build(
    batch_size: int = 4,
    root: str = "",
    model: str = "compact",
    size: int = 0,
    train: str = "train2017",
    val: str = "val2017",
    images: int = 0,
    augment: bool = True,
    broken: Broken = "refuse",
    eval_images: int = 500,
    eval_ap: bool = True,
    cache: str = "",
    seed: int = 0,
    exif: Exif = "turn",
) -> Task:
    """Object detection on a folder in COCO's layout: ``train2017/``, ``val2017/``, ``annotations/instances_*.json``.

    Args:
        batch_size: images of one partition in one step.
        root: the folder. ``~`` and ``$NAME`` are expanded, so that each host can have its own; a relative one starts in the
            working directory.
        model: ``"compact"``, 103,950 parameters in plain torch, or one of torchvision's detectors by its name, as
            ``"ssdlite320_mobilenet_v3_large"``.
        size: side of the square input in pixels; 0: 160 for the compact one, 320 for torchvision's.
        train: split that is trained on.
        val: split that `evaluate` uses.
        images: number of images to train on, from the first; 0: all.
        augment: crop, mirror and change colours.
        broken: ``"refuse"``, ``"skip"`` or ``"later"``: `CocoImages`.
        eval_images: number of images to evaluate on, from the first; 0: all.
        eval_ap: average precision too, not only the loss.
        cache: folder of the indices of the annotations; ``""``: ``$GCDIST_CACHE``, or ``gcdist`` in the user's cache folder.
        seed: of the model's initial values. The global generators keep their state.
        exif: ``"turn"`` images as they are shown, or ``"ignore"`` their orientation, for boxes of the stored pixels.

    Raises:
        ValueError: an option out of range, a missing package, folder or file, annotations that are not in COCO's
            format, or have no target.
    """
    _check_packages()
    if not root:
        raise ValueError(
            'coco: root: missing; the folder with train2017, val2017 and annotations (root = "/data/coco")'
        )
    for name, value in (("size", size), ("images", images), ("eval_images", eval_images)):
        if value < 0:
            raise ValueError(f"coco: {name} must be 0 or more, found {value}")
    for key, word, allowed in (("broken", broken, get_args(Broken)), ("exif", exif, get_args(Exif))):
        if word not in allowed:
            raise ValueError(f"coco: {key} must be one of {', '.join(allowed)}, found {word!r}")
    compact = model == "compact"
    side = size or (COMPACT_SIZE if compact else TORCHVISION_SIZE)
    if side < 32:
        raise ValueError(f"coco: size must be 32 or more, found {size}")
    splits = Splits(root, cache)
    dataset = splits.images(train, side, augment=augment, broken=broken, most=images, exif=exif)
    held_out = splits.images(val, side, broken=broken, most=eval_images, exif=exif)
    classes = splits.labels.classes
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = CompactDetector(classes) if compact else detector(model, classes)
    if model.startswith("ssdlite") and batch_size < 2:
        raise ValueError(
            f"coco: {model} needs a batch_size of 2 or more (BatchNorm on a map of 1x1), found {batch_size}"
        )
    return detection_task(net, dataset, held_out, batch_size, eval_ap)


def detection_task(
    model: nn.Module, dataset: CocoImages, held_out: CocoImages, batch_size: int = 4, eval_ap: bool = True
) -> Task:
    """The task of any detector: ``model(images, targets)`` gives a dict of losses in training mode, ``model(images)`` a list
    of dicts of boxes, labels and scores in eval mode, as torchvision's do.

    Raises:
        ValueError: the images have no target to learn.
    """
    why = dataset.why_no_target()
    if why:
        raise ValueError(f"coco: no target in the {len(dataset)} images of {dataset.folder}: {why}")
    if eval_ap and (why := held_out.why_no_target()):
        log.warning(
            "nothing to find in the %d images of %s (%s): test_ap is always 0", len(held_out), held_out.folder, why
        )
    evaluate = HeldOut(held_out, HELD_OUT_BATCH, eval_ap)
    return Task(model, dataset, losses_of, batch_size, collate_fn=collate, evaluate=evaluate)


def losses_of(model: nn.Module, batch: Any) -> Mapping[str, Tensor]:
    """The detector's own losses, which gcdist sums."""
    images, targets = batch
    losses: Mapping[str, Tensor] = model(images, targets)
    return losses


class Splits:
    """The splits of one folder in COCO's layout, with one set of labels; ``cache`` as in `build`.

    ValueError: a ``~`` without a home folder.
    """

    def __init__(self, root: str | Path, cache: str | Path = "") -> None:
        self.root = _expanded("root", root)
        self.cache = _expanded("cache", cache) if cache else default_cache()
        self.labels = Labels()

    def images(
        self,
        split: str,
        size: int,
        *,
        augment: bool = False,
        broken: Broken = "refuse",
        most: int = 0,
        exif: Exif = "turn",
    ) -> CocoImages:
        """The images of ``split`` with ``annotations/instances_SPLIT.json``; ValueError."""
        if not self.root.is_dir():
            raise ValueError(f"coco: root: no folder {self.root}")
        index = open_index(self.root / "annotations" / f"instances_{split}.json", self.cache)
        return CocoImages(
            index,
            self.root / split,
            size,
            augment=augment,
            broken=broken,
            most=most,
            labels=self.labels,
            exif=exif,
        )


def default_cache() -> Path:
    """``$GCDIST_CACHE``, or ``gcdist`` in the user's cache folder."""
    for name, inner in (("GCDIST_CACHE", ""), ("XDG_CACHE_HOME", "gcdist")):
        if found := os.environ.get(name):
            return _expanded(f"${name}", found) / inner
    return _expanded("cache", "~/.cache/gcdist", "name a folder: option 'cache' or $GCDIST_CACHE")


def _expanded(what: str, path: str | Path, advice: str = "write it without ~") -> Path:
    """The absolute path with ``~`` and ``$NAME`` replaced; ValueError if this user has no home folder."""
    try:
        return Path(os.path.expandvars(path)).expanduser().absolute()
    except RuntimeError:
        raise ValueError(
            f"coco: {what}: {path} cannot be used: this user has no home folder (HOME is not set); {advice}"
        ) from None


def _check_packages() -> None:
    missing = [package for module, package in NEEDED.items() if find_spec(module) is None]
    if missing:
        raise ValueError(f"coco: {', '.join(missing)} missing: pip install 'gcdist[coco]'")
