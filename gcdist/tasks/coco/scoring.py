"""Held-out loss, and average precision by COCO's protocol."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gcdist.tasks.coco.dataset import CocoImages, Sample
from gcdist.tasks.coco.index import Index
from gcdist.tasks.coco.labels import Labels


class HeldOut:
    """``evaluate(model)``: ``test_loss``, and ``test_ap`` and ``test_ap50`` if ``precision``.

    The loss is the mean over batches of ``batch`` whole images in order, without augmentation and dropout. The model is
    in training mode, but uses the running statistics of BatchNorm and does not change them.
    """

    def __init__(self, images: CocoImages, batch: int, precision: bool = True) -> None:
        self.images = images
        self.batch = batch
        self.precision = precision

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """The metrics by name; the model's modes and statistics stay as they are."""
        total, seen = 0.0, 0
        rows: list[int] = []
        found: list[dict[str, Tensor]] = []
        device = next(model.parameters()).device
        for numbers, batch in self._batches():
            images = [image.to(device) for image, _ in batch]
            targets = [{name: value.to(device) for name, value in target.items()} for _, target in batch]
            with torch.no_grad():
                with loss_mode(model):
                    total += float(sum(model(images, targets).values())) * len(images)
                if self.precision:
                    model.eval()
                    found += model(images)
            seen += len(images)
            rows += numbers
        if not seen:
            raise ValueError(f"none of the {len(self.images)} held-out images could be read")
        metrics = {"test_loss": total / seen}
        if self.precision:
            metrics |= average_precision(
                self.images.index, rows, to_pixels(found, self.images, rows), self.images.labels
            )
        return metrics

    def found(self, model: nn.Module) -> tuple[list[int], list[dict[str, Tensor]]]:
        """Indices of the readable images, and the model's detections in each, in the image's pixels."""
        rows: list[int] = []
        found: list[dict[str, Tensor]] = []
        device = next(model.parameters()).device
        was_training = model.training
        model.eval()
        with torch.no_grad():
            for numbers, batch in self._batches():
                found += model([image.to(device) for image, _ in batch])
                rows += numbers
        model.train(was_training)
        return rows, to_pixels(found, self.images, rows)

    def _batches(self) -> Iterator[tuple[list[int], list[Sample]]]:
        """Numbers in the index and samples, without skipped images."""
        for first in range(0, len(self.images), self.batch):
            numbers = range(first, min(first + self.batch, len(self.images)))
            read = [(int(self.images.rows[i]), self.images[i]) for i in numbers]
            good = [(row, sample) for row, sample in read if sample is not None]
            if good:
                yield [row for row, _ in good], [sample for _, sample in good]


@contextmanager
def loss_mode(model: nn.Module) -> Iterator[None]:
    """Training mode for a detector's losses; normalisation and dropout stay in evaluation mode. Modes are restored."""
    modes = [(module, module.training) for module in model.modules()]
    model.train()
    for module, _ in modes:
        if isinstance(module, (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd)):
            module.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def to_pixels(
    found: Sequence[Mapping[str, Tensor]], images: CocoImages, rows: Sequence[int]
) -> list[dict[str, Tensor]]:
    """Detections on the square inputs as detections on the images themselves."""
    answer = []
    for row, detections in zip(rows, found, strict=True):
        width, height = images.index.size_I2[row].tolist()
        scale = torch.tensor([width, height, width, height], dtype=torch.float64) / images.size
        boxes = detections["boxes"].cpu().double() * scale
        answer.append({**{name: value.cpu() for name, value in detections.items()}, "boxes": boxes})
    return answer


def average_precision(
    index: Index, rows: Sequence[int], found: Sequence[Mapping[str, Tensor]], labels: Labels | None = None
) -> dict[str, float]:
    """``test_ap`` (mean over IoU 0.50 to 0.95) and ``test_ap50`` over all categories that these images have.

    Args:
        index: the annotations.
        rows: numbers of the images in it.
        found: for each of them ``boxes`` (n, 4), x0, y0, x1, y1 in the image's pixels, ``labels`` (n,), ``scores`` (n,).
        labels: the meaning of ``labels``; None: those of this index alone.

    COCO's protocol (pycocotools' COCOeval), computed by faster-coco-eval. 0 if these images have no objects. Both count
    a match with the annotation of id 0 as a miss, so they get other numbers than the file's: images in the order of
    their ids, which decides between equal scores, and categories and annotations from 1 on.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    meaning = labels_of(index) if labels is None else labels
    image_of = {i: at for at, i in enumerate(sorted(int(index.image_id_I[row]) for row in rows), 1)}
    category_of = {i: at for at, i in enumerate(sorted(index.category_id_C.tolist()), 1)}
    answers = [
        {**answer, "image_id": image_of[answer["image_id"]], "category_id": category_of[answer["category_id"]]}
        for answer in detections(index, rows, found, meaning)
        if answer["category_id"] in category_of  # others are of another split alone: no truth to compare with
    ]
    if not answers:
        return {"test_ap": 0.0, "test_ap50": 0.0}
    truth = ground_truth(index, rows)
    for image in truth["images"]:
        image["id"] = image_of[image["id"]]
    for category in truth["categories"]:
        category["id"] = category_of[category["id"]]
    for number, annotation in enumerate(truth["annotations"], 1):
        annotation["id"] = number
        annotation["image_id"] = image_of[annotation["image_id"]]
        annotation["category_id"] = category_of[annotation["category_id"]]
    known = COCO(truth)
    scorer = COCOeval_faster(known, known.loadRes(answers), "bbox")
    scorer.evaluate()
    scorer.accumulate()
    scorer.summarize()
    return {"test_ap": max(0.0, float(scorer.stats[0])), "test_ap50": max(0.0, float(scorer.stats[1]))}


def labels_of(index: Index) -> Labels:
    """The labels of one file alone."""
    labels = Labels()
    labels.add(index.categories(), "annotations")
    return labels


def detections(
    index: Index, rows: Sequence[int], found: Sequence[Mapping[str, Tensor]], labels: Labels
) -> list[dict[str, Any]]:
    """Detections in COCO's results format, by the file's own ids of images and categories; best first in each image.

    A label without a category, like COCO's 12, is no detection.
    """
    return [
        {"image_id": int(index.image_id_I[row]), "category_id": labels.category(label), "bbox": box, "score": score}
        for row, each in zip(rows, found, strict=True)
        for box, label, score in _best(each)
        if labels.has(label)
    ]


def ground_truth(index: Index, rows: Sequence[int]) -> dict[str, Any]:
    """The annotations of these images in COCO's format, with the file's own ids."""
    images, annotations = [], []
    for row in rows:
        i, (width, height) = int(index.image_id_I[row]), index.size_I2[row].tolist()
        images.append({"id": i, "width": width, "height": height, "file_name": index.name(row)})
        at = index.of(row)
        annotations += [
            {
                "id": int(index.annotation_id_B[b]),
                "image_id": i,
                "category_id": int(index.category_B[b]),
                "bbox": index.box_B4[b].tolist(),
                "area": float(index.area_B[b]),
                "iscrowd": int(index.crowd_B[b]),
            }
            for b in range(at.start, at.stop)
        ]
    categories = [{"id": i, "name": name} for i, name in index.categories().items()]
    return {"info": {}, "images": images, "annotations": annotations, "categories": categories}


def _best(found: Mapping[str, Tensor]) -> Iterator[tuple[list[float], int, float]]:
    """(x, y, w, h), label and score of an image's detections, best first; COCO's protocol takes 100 of each category."""
    order = found["scores"].argsort(descending=True, stable=True)
    boxes = found["boxes"][order].double()
    corner = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)
    return zip(corner.tolist(), found["labels"][order].tolist(), found["scores"][order].tolist(), strict=True)
