from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gcdist.model.batches import Batches, ReadError
from gcdist.tasks.coco import BrokenImageError, CocoImages, CompactDetector, collate, detection_task, open_index
from gcdist.tasks.coco.augment import View, boxes_in, draw, recoloured, whole
from tests.tasks.coco_files import REAL, annotation, image_entry, needs_images, small, write_image, write_split

torch.set_num_threads(1)  # tests share two cores
TRAIN = REAL / "annotations" / "instances_train2017.json"


def real(cache: Path, *, augment: bool = False, size: int = 96) -> CocoImages:
    return CocoImages(open_index(TRAIN, cache), REAL / "train2017", size, augment=augment)


@needs_images
def test_targets_are_the_annotations_in_pixels_of_the_input(tmp_path: Path) -> None:
    images = real(tmp_path)
    index, empty = images.index, 0
    for i in range(len(images)):
        sample = images[i]
        assert sample is not None
        image, target = sample
        assert image.shape == (3, 96, 96)
        assert image.dtype == torch.float32
        assert 0 <= image.min() <= image.max() <= 1
        at = index.of(i)
        wanted = index.box_B4[at][index.crowd_B[at] == 0]
        scale = 96 / np.tile(index.size_I2[i], 2)
        corners = np.concatenate([wanted[:, :2], wanted[:, :2] + wanted[:, 2:]], 1) * scale
        corners = corners[(np.clip(corners[:, 2:], 0, 96) - np.clip(corners[:, :2], 0, 96) >= 1).all(1)]
        np.testing.assert_allclose(target["boxes"].numpy(), corners.clip(0, 96), atol=1e-4)
        assert target["labels"].dtype == torch.int64
        assert target["image_id"] == index.image_id_I[i]
        empty += len(target["labels"]) == 0
    assert empty >= 1  # an image without boxes is a sample like any other


def test_what_is_in_a_box_stays_in_it(tmp_path: Path) -> None:
    """A white rectangle on black: in every view the box of its target is where it is seen."""
    pixels = np.zeros((300, 400, 3), np.uint8)
    pixels[90:180, 120:280] = 255
    path = write_split(tmp_path, [image_entry(1, 400, 300)], [annotation(1, 1, [120, 90, 160, 90])])
    Image.fromarray(pixels).save(tmp_path / "train2017" / "000000000001.png")
    images = CocoImages(open_index(path, tmp_path / "cache"), tmp_path / "train2017", 100, augment=True)
    seen = mirrored = 0
    for seed in range(40):
        torch.manual_seed(seed)
        sample = images[0]
        assert sample is not None
        image, target = sample
        bright = torch.nonzero(image.mean(0) > 0.5 * image.max())
        if not len(target["boxes"]):
            continue
        seen += 1
        (x0, y0, x1, y1) = target["boxes"][0].tolist()
        (top, left), (bottom, right) = bright.amin(0).tolist(), bright.amax(0).tolist()
        np.testing.assert_allclose([left, top, right + 1, bottom + 1], [x0, y0, x1, y1], atol=2.0)
        mirrored += x0 + x1 > 100
    assert seen > 25
    assert 0 < mirrored < seen


@needs_images
def test_augmentation_depends_on_seed_step_and_partition_alone(tmp_path: Path) -> None:
    images = real(tmp_path, augment=True)
    task = detection_task(CompactDetector(), images, images, batch_size=2)

    def batch(step: int, j: int, seed: int = 0) -> list[torch.Tensor]:
        found: list[torch.Tensor] = Batches(task, 8, seed).batch(step, j).batch[0]
        return found

    first = batch(3, 5)
    other = Batches(task, 8, 0)
    for step, j in ((9, 1), (3, 4), (0, 5)):  # whatever was read before
        other.batch(step, j)
    torch.manual_seed(1)
    for mine, theirs in zip(first, other.batch(3, 5).batch[0], strict=True):
        assert torch.equal(mine, theirs)
    assert not torch.equal(batch(4, 5)[0], first[0])
    assert not torch.equal(batch(3, 5, seed=1)[0], first[0])


def test_views_lie_in_the_image_and_use_the_generator_alone() -> None:
    for seed in range(200):
        view = draw(np.random.default_rng(seed), 64, 48)
        assert view == draw(np.random.default_rng(seed), 64, 48)
        assert 0 <= view.x0 < view.x1 <= 64 + 1e-9
        assert 0 <= view.y0 < view.y1 <= 48 + 1e-9
        assert (view.x1 - view.x0) * (view.y1 - view.y0) >= 0.1 * 64 * 48


def test_boxes_are_clipped_and_degenerate_ones_are_no_targets() -> None:
    box_B4 = np.array(
        [
            [10.0, 10, 20, 20],  # inside
            [-5.0, 0, 15, 10],  # begins outside
            [90.0, 90, 30, 8],  # ends outside, its centre too
            [10.0, 10, 0, 20],  # no width
            [10.0, 10, 20, -3],  # negative height
            [50.0, 50, 0.5, 0.5],  # under a pixel
        ]
    )
    boxes, kept = boxes_in(whole(100, 100), box_B4, 100)
    assert kept.tolist() == [True, True, False, False, False, False]
    assert boxes[kept].tolist() == [[10, 10, 30, 30], [0, 0, 10, 10]]
    mirrored, _ = boxes_in(View(0, 0, 100, 100, mirrored=True), box_B4, 100)
    assert mirrored[0].tolist() == [70, 10, 90, 30]
    half, kept = boxes_in(View(0, 0, 20, 40), box_B4, 100)
    assert kept.tolist()[0] is True
    assert half[0].tolist() == [50, 25, 100, 75]
    none, kept = boxes_in(whole(10, 10), np.zeros((0, 4)), 100)
    assert none.shape == (0, 4)
    assert kept.shape == (0,)


def test_colours_are_scaled_and_clamped() -> None:
    image = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(recoloured(image, whole(4, 4)), image)
    grey = recoloured(image, View(0, 0, 4, 4, saturation=0.0))
    torch.testing.assert_close(grey[0], grey[2])
    flat = recoloured(image, View(0, 0, 4, 4, contrast=0.0))
    assert flat.std() < 1e-6
    assert recoloured(image, View(0, 0, 4, 4, brightness=9.0)).max() == 1


def test_an_image_may_end_where_its_crowd_is_all(tmp_path: Path) -> None:
    objects = [annotation(1, 1, [1, 1, 20, 20], iscrowd=1), annotation(2, 2, [1, 1, 20, 20])]
    path = write_split(tmp_path, [image_entry(1), image_entry(2), image_entry(3)], objects)
    for i in (1, 2, 3):
        write_image(tmp_path / "train2017" / f"{i:012d}.png")
    images = CocoImages(open_index(path, tmp_path / "cache"), tmp_path / "train2017", 32)
    counts = [len(sample[1]["boxes"]) for sample in (images[0], images[1], images[2]) if sample is not None]
    assert counts == [0, 1, 0]
    shapes = [sample[1]["boxes"].shape for sample in (images[0], images[2]) if sample is not None]
    assert shapes == [(0, 4), (0, 4)]


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "I;16", "CMYK"])
def test_every_kind_of_image_becomes_rgb(tmp_path: Path, mode: str) -> None:
    suffix = "jpg" if mode == "CMYK" else "png"
    path = write_split(tmp_path, [image_entry(1, name=f"inner/one.{suffix}")], [])
    file = tmp_path / "train2017" / "inner" / f"one.{suffix}"
    file.parent.mkdir(parents=True)
    if mode == "I;16":
        Image.fromarray(np.full((30, 40), 300, np.uint16)).save(file)
    else:
        write_image(file, mode=mode)
    images = CocoImages(open_index(path, tmp_path / "cache"), tmp_path / "train2017", 32)
    sample = images[0]
    assert sample is not None
    assert sample[0].shape == (3, 32, 32)


def test_missing_images_are_named_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    index = open_index(small(tmp_path, 12), tmp_path / "cache")
    folder = tmp_path / "train2017"
    for i in range(2, 10):
        (folder / f"{i:012d}.png").unlink()
    with pytest.raises(
        ValueError, match=r"8 of 12 images are missing: 000000000002\.png, .*000000000006\.png, \.\.\.; to"
    ):
        CocoImages(index, folder, 32)
    with caplog.at_level(logging.WARNING):
        images = CocoImages(index, folder, 32, broken="skip")
    assert "8 of 12 images are missing" in caplog.text
    assert images.index.image_id_I[images.rows].tolist() == [1, 10, 11, 12]
    assert all(images[i] is not None for i in range(4))
    later = CocoImages(index, folder, 32, broken="later")  # as long as nobody reads them
    assert len(later) == 12
    assert later[0] is not None
    with pytest.raises(BrokenImageError, match=r"000000000002\.png: cannot be read: .*No such file"):
        later[1]
    with pytest.raises(ValueError, match="no such folder of images"):
        CocoImages(index, tmp_path / "elsewhere", 32)
    for left in folder.iterdir():
        left.unlink()
    with pytest.raises(ValueError, match="none of the 12 images of the annotations is there"):
        CocoImages(index, folder, 32, broken="skip")


def test_broken_images_are_refused_or_skipped_by_choice(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = small(tmp_path, 5)
    folder = tmp_path / "train2017"
    good = (folder / "000000000001.png").read_bytes()
    (folder / "000000000002.png").write_bytes(good[: len(good) // 2])
    (folder / "000000000003.png").write_bytes(b"")
    (folder / "000000000004.png").write_text("no image")
    write_image(folder / "000000000005.png", 41, 30)  # not the one that was annotated
    index = open_index(path, tmp_path / "cache")
    strict = CocoImages(index, folder, 32)
    for i, message in ((1, "cannot be read"), (2, "cannot be read"), (3, "cannot be read"), (4, "is 41x30 pixels")):
        with pytest.raises(BrokenImageError, match=rf"{i + 1:012d}\.png: {message}"):
            strict[i]
    lenient = CocoImages(index, folder, 32, broken="skip")
    with caplog.at_level(logging.WARNING):
        samples = [lenient[i] for i in range(5)] + [lenient[1]]
    assert [sample is None for sample in samples] == [False, True, True, True, True, True]
    assert caplog.text.count("it is skipped") == 4  # each once
    assert "the annotations say 40x30; it is skipped (4 so far)" in caplog.text
    images, targets = collate(samples)
    assert len(images) == len(targets) == 1
    with pytest.raises(ValueError, match="none of the 2 images of this batch could be read"):
        collate([None, None])


def test_a_broken_image_names_sample_and_partition_in_a_run(tmp_path: Path) -> None:
    path = small(tmp_path, 4)
    (tmp_path / "train2017" / "000000000003.png").write_bytes(b"\x89PNG")
    images = CocoImages(open_index(path, tmp_path / "cache"), tmp_path / "train2017", 32)
    batches = Batches(detection_task(CompactDetector(), images, images, batch_size=2), 2, 0)
    batches.batch(0, 0)
    with pytest.raises(ReadError) as caught:
        batches.batch(0, 1)
    assert "000000000003.png: cannot be read" in caught.value.text
    assert "partition 1, sample 2" in caught.value.text


@needs_images
def test_the_first_images_by_choice(tmp_path: Path) -> None:
    images = CocoImages(open_index(TRAIN, tmp_path), REAL / "train2017", 32, most=24)
    assert len(images) == 24
    assert images.rows.tolist() == list(range(24))
