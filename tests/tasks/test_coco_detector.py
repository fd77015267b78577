from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from gcdist.tasks.coco.boxes import giou, nms, nms_by_label
from gcdist.tasks.coco.detector import LARGEST, RADIUS, STRIDES, CompactDetector, centres, matched
from gcdist.tasks.coco.vision import detector

torch.set_num_threads(1)  # tests share two cores
SSDLITE = "ssdlite320_mobilenet_v3_large"


def random_boxes(count: int, seed: int, size: float = 100.0) -> Tensor:
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, size, (count, 2))
    return torch.tensor(np.concatenate([low, low + rng.uniform(1, size / 2, (count, 2))], 1), dtype=torch.float32)


def iou(a: list[float], b: list[float]) -> float:
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    inner = max(0.0, wide) * max(0.0, high)
    return inner / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inner)


def slow_nms(boxes: list[list[float]], scores: list[float], threshold: float) -> list[int]:
    kept: list[int] = []
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        if all(iou(boxes[i], boxes[j]) <= threshold for j in kept):
            kept.append(i)
    return kept


@pytest.mark.parametrize("count", [0, 1, 2, 60])
def test_nms_is_its_definition(count: int) -> None:
    for seed in range(5):
        boxes, scores = random_boxes(count, seed), torch.tensor(np.random.default_rng(seed).random(count))
        for threshold in (0.0, 0.3, 0.7, 1.0):
            assert nms(boxes, scores, threshold).tolist() == slow_nms(boxes.tolist(), scores.tolist(), threshold)


def test_nms_by_label_is_nms_within_each() -> None:
    boxes, scores = random_boxes(50, 1), torch.tensor(np.random.default_rng(1).random(50))
    labels = torch.tensor(np.random.default_rng(2).integers(1, 4, 50))
    kept = set()
    for label in (1, 2, 3):
        at = torch.nonzero(labels == label).flatten()
        kept |= set(at[nms(boxes[at], scores[at], 0.4)].tolist())
    found = nms_by_label(boxes, scores, labels, 0.4)
    assert set(found.tolist()) == kept
    assert scores[found].tolist() == sorted(scores[found].tolist(), reverse=True)
    none = torch.zeros(0)
    assert nms_by_label(none.reshape(0, 4), none, none, 0.4).shape == (0,)


def test_giou_of_equal_and_of_far_boxes() -> None:
    boxes = random_boxes(20, 3)
    torch.testing.assert_close(giou(boxes, boxes), torch.ones(20))
    far = giou(torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([[99.0, 99, 100, 100]]))
    assert -1 < far < -0.99


def test_every_box_has_a_cell_of_the_grid_of_its_size() -> None:
    grids = [centres(stride, 160 // stride, 160 // stride, torch.device("cpu")) for stride in STRIDES]
    cells, centre = [len(grid) for grid in grids], torch.cat(grids)
    level = torch.repeat_interleave(torch.arange(3), torch.tensor(cells))
    for seed in range(20):
        box = random_boxes(1, seed, 80) if seed else torch.tensor([[33.1, 20.2, 34.0, 20.9]])  # under a pixel
        cell, which = matched(centre, cells, box)
        assert len(cell) >= 1
        assert which.tolist() == [0] * len(cell)
        longer = float((box[0, 2:] - box[0, :2]).max())
        wanted = next(i for i, most in enumerate(LARGEST) if longer < most)
        assert level[cell].tolist() == [wanted] * len(cell)
        away = (centre[cell] - (box[0, :2] + box[0, 2:]) / 2).abs().amax(1)
        assert (away < RADIUS * STRIDES[wanted]).all()


def test_a_cell_stands_for_the_smallest_box_that_wants_it() -> None:
    grids = [centres(stride, 40 // stride, 40 // stride, torch.device("cpu")) for stride in STRIDES]
    cells, grid = [len(each) for each in grids], torch.cat(grids)
    large, small = [9.0, 9, 31, 31], [16.0, 16, 24, 24]
    both, which = matched(grid, cells, torch.tensor([large, small]))
    alone, _ = matched(grid, cells, torch.tensor([small]))
    assert set(alone.tolist()) == {c for c, w in zip(both.tolist(), which.tolist(), strict=True) if w == 1}


def target(*boxes: list[float], label: int = 90) -> dict[str, Tensor]:
    return {"boxes": torch.tensor(boxes).reshape(-1, 4), "labels": torch.full((len(boxes),), label)}


def make(classes: int = 91) -> CompactDetector:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return CompactDetector(classes)


def test_it_has_about_1e5_parameters_and_no_batch_statistics() -> None:
    model = make()
    assert sum(p.numel() for p in model.parameters()) == 103_950
    assert list(model.buffers()) == []


@pytest.mark.parametrize("size", [32, 96, 101, 160])
def test_losses_and_detections_at_any_size(size: int) -> None:
    model = make()
    images = [torch.rand(3, size, size, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    found = model(images, [target([2.0, 3, 20, 28]), target(), target([0.0, 0, 5, 5], [9.0, 9, 30, 31])])
    assert isinstance(found, dict)
    assert found.keys() == {"classification", "boxes"}
    assert all(math.isfinite(float(loss.detach())) for loss in found.values())
    torch.stack(list(found.values())).sum().backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in model.parameters())
    model.eval()
    model.least = 0.0
    for each in model(images):
        assert isinstance(each, dict)
        assert len(each["boxes"]) == len(each["labels"]) == len(each["scores"]) <= 100
        assert each["boxes"].min() >= 0
        assert each["boxes"].max() <= size
        assert each["labels"].min() >= 1
        assert each["labels"].max() <= 90
        assert (each["scores"].diff() <= 0).all()


def test_a_batch_of_one_without_objects_gives_a_gradient() -> None:
    model = make()
    found = model([torch.rand(3, 64, 64)], [target()])
    assert isinstance(found, dict)
    assert float(found["boxes"].detach()) == 0
    assert 0 < float(found["classification"].detach()) < 50
    torch.stack(list(found.values())).sum().backward()  # type: ignore[no-untyped-call]


def test_images_of_a_batch_do_not_see_each_other() -> None:
    model = make().eval()
    model.least = 0.0
    images = [torch.rand(3, 64, 64) for _ in range(2)]
    both, alone = model(images), model(images[:1])
    assert isinstance(both, list)
    assert isinstance(alone, list)
    torch.testing.assert_close(both[0]["scores"], alone[0]["scores"], rtol=1e-4, atol=1e-6)


def test_the_loss_is_over_the_positive_cells_of_the_batch() -> None:
    model = make()
    image, wanted = torch.rand(3, 64, 64), target([10.0, 10, 30, 30])
    one, two = model([image], [wanted]), model([image, image], [wanted, wanted])
    assert isinstance(one, dict)
    assert isinstance(two, dict)
    for name in one:
        torch.testing.assert_close(one[name], two[name])


def test_refuses_training_without_targets() -> None:
    with pytest.raises(ValueError, match="needs targets"):
        make()([torch.rand(3, 64, 64)])


def test_it_learns_one_image() -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(3, 64, 64, generator=generator) * 0.2
    image[:, 20:44, 8:40] += 0.7
    wanted = target([8.0, 20, 40, 44], label=17)
    model = make(20)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        found = model([image], [wanted])
        assert isinstance(found, dict)
        total = torch.stack(list(found.values())).sum()
        total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(total.detach()))
    assert losses[-1] < losses[0] / 10
    model.eval()
    (best,) = model([image])
    assert isinstance(best, dict)
    assert int(best["labels"][0]) == 17
    assert iou(best["boxes"][0].tolist(), [8.0, 20, 40, 44]) > 0.75


# --- torchvision ---


def test_ssdlite_as_in_the_papers() -> None:
    """Builds, trains on two images and detects, whether or not torchvision's compiled part fits this torch."""
    model = detector(SSDLITE, 91)
    assert sum(p.numel() for p in model.parameters()) == 3_440_060
    images = [torch.rand(3, 320, 320, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    found = model(images, [target([10.0, 10, 50, 60]), target()])
    assert found.keys() == {"classification", "bbox_regression"}
    sum(found.values()).backward()
    model.eval()
    with torch.no_grad():
        (each,) = model(images[:1])
    assert each.keys() == {"boxes", "labels", "scores"}
    assert len(each["boxes"])


def test_torchvision_imports_beside_a_torch_that_its_operators_do_not_fit(tmp_path: Path) -> None:
    """A torchvision whose compiled part cannot be loaded: by itself it may fail to import, through ours it works."""
    script = """
import pathlib, torch
def refuse(path):
    raise OSError(f"{path}: undefined symbol")
torch.ops.load_library = refuse          # as the dynamic linker does
from gcdist.tasks.coco.vision import detector, torchvision
package = torchvision()
boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 0, 30, 10]])
assert package.ops.nms(boxes, torch.tensor([0.3, 0.9, 0.1]), 0.5).tolist() == [1, 2]
labels = torch.tensor([1, 2, 1])
assert package.ops.batched_nms(boxes, torch.tensor([0.3, 0.9, 0.1]), labels, 0.5).tolist() == [1, 0, 2]
assert torchvision() is package          # once more
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr


def test_an_unknown_detector_is_named() -> None:
    with pytest.raises(ValueError, match=r"model must be one of compact, .*ssdlite320_.*, found 'yolo'"):
        detector("yolo", 91)
