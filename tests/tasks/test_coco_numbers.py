"""Files that number their images, annotations and categories as they like: labels, and precision by pycocotools' rules."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from gcdist.tasks import TaskError, load_task
from gcdist.tasks.coco import CompactDetector, Labels, Splits, average_precision, detections, open_index
from tests.tasks.coco_files import annotation, image_entry, write_image, write_split

BIG = 1 << 40
NUMBERINGS: dict[str, Any] = {  # of the i-th of n, i from 0
    "from 1": lambda i, n: i + 1,
    "from 0": lambda i, n: i,
    "gaps": lambda i, n: 7 * i * i + 3,
    "large": lambda i, n: BIG + i,
    "backwards from 0": lambda i, n: n - 1 - i,
    "negative": lambda i, n: i - n // 2,
}

# --- labels ---


def test_coco_s_own_ids_are_its_labels() -> None:
    ids = [i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]
    labels = Labels()
    labels.add({i: str(i) for i in ids}, "train")
    assert labels.classes == 91
    assert labels.of(np.array(ids)).tolist() == ids
    assert not labels.has(12)
    assert labels.names()[90] == "90"


@pytest.mark.parametrize("numbering", NUMBERINGS)
@pytest.mark.parametrize("count", [1, 2, 80, 400])
def test_labels_of_any_ids_are_from_1_on_and_come_back(numbering: str, count: int) -> None:
    ids = [NUMBERINGS[numbering](i, count) for i in range(count)]
    labels = Labels()
    labels.add({i: f"name {i}" for i in ids}, "train")
    found = labels.of(np.array(ids, np.int64)).tolist()
    assert len(set(found)) == count
    assert min(found) >= 1
    assert max(found) == labels.classes - 1
    assert labels.classes <= max(256, count + 1)  # gaps cost a detector little
    assert [labels.category(label) for label in found] == ids
    assert labels.names() == {label: f"name {i}" for i, label in zip(ids, found, strict=True)}


def test_a_second_split_keeps_the_labels_of_the_first() -> None:
    labels = Labels()
    labels.add({5: "a", 900: "b"}, "train")
    assert labels.of(np.array([5, 900])).tolist() == [1, 2]
    labels.add({900: "b", 0: "z", 7: "c"}, "val")
    assert labels.of(np.array([5, 900, 0, 7])).tolist() == [1, 2, 3, 4]
    assert labels.classes == 5
    labels = Labels()
    labels.add({3: "a"}, "train")
    labels.add({3: "a", 1: "b"}, "val")  # small ids stay themselves
    labels.add({0: "c"}, "test")
    assert labels.of(np.array([3, 1, 0])).tolist() == [3, 1, 4]


def test_ids_that_mean_something_else_in_another_split(caplog: pytest.LogCaptureFixture) -> None:
    labels = Labels()
    labels.add({1: "cat", 2: "dog"}, "train")
    with pytest.raises(
        ValueError, match=r"^val: 'dog' is category 1, and category 2 in train: the ids of all splits must"
    ):
        labels.add({1: "dog", 2: "cat"}, "val")
    with pytest.raises(ValueError, match="'dog' is category 3, and category 2 in train"):
        labels.add({3: "dog"}, "val")
    with caplog.at_level(logging.WARNING):
        labels.add({1: "Cat", 2: "dog"}, "val")
    assert [r.message for r in caplog.records] == [
        "val: category 1 is 'Cat' here and 'cat' in train; they count as one"
    ]
    twins = Labels()
    twins.add({1: "x", 2: "x"}, "train")
    twins.add({1: "x", 2: "x"}, "val")
    with pytest.raises(ValueError, match="10000 categories in all, allowed are 9999"):
        Labels().add({i: str(i) for i in range(10_000)}, "train")


# --- precision ---


def write(root: Path, content: Mapping[str, Any]) -> Path:
    path = root / "instances.json"
    path.write_text(json.dumps(content))
    return path


def official(content: Mapping[str, Any], answers: list[dict[str, Any]]) -> list[float]:
    """AP and AP50 of pycocotools; annotations numbered from 1, as it counts a match with number 0 as a miss."""
    truth = COCO()
    listed = [{**each, "id": number} for number, each in enumerate(content["annotations"], 1)]
    truth.dataset = {"info": {}, **content, "annotations": listed}
    truth.createIndex()
    scorer = COCOeval(truth, truth.loadRes(answers), "bbox")
    scorer.evaluate()
    scorer.accumulate()
    scorer.summarize()
    return [max(0.0, float(x)) for x in scorer.stats[:2]]


def world(
    rng: np.random.Generator, image_ids: Sequence[int], annotation_ids: Sequence[int], category_ids: Sequence[int]
) -> tuple[dict[str, Any], list[list[tuple[list[float], int, float]]]]:
    """A file of random boxes, and detections (x0, y0, x1, y1), category id, score of each image."""
    images = [image_entry(i, 200, 150, name=f"{at}.png") for at, i in enumerate(image_ids)]
    rng.shuffle(images)
    listed, found = [], []
    for number in annotation_ids:
        corner, side = rng.uniform(0, 100, 2), rng.uniform(3, 90, 2)
        if rng.random() < 0.05:
            side[rng.integers(2)] = 0.0  # of no size, but there
        box = np.concatenate([corner, side]).round(2).tolist()
        listed.append(
            annotation(number, int(rng.choice(image_ids)), box, int(rng.choice(category_ids)), area=float(side.prod()))
        )
        listed[-1]["iscrowd"] = int(rng.random() < 0.15)
    for image in images:
        mine = []
        for each in (a for a in listed if a["image_id"] == image["id"]):
            for _ in range(rng.integers(0, 3)):
                x, y, w, h = np.array(each["bbox"]) + rng.normal(0, 0.08, 4) * np.tile(each["bbox"][2:], 2)
                label = each["category_id"] if rng.random() < 0.8 else int(rng.choice(category_ids))
                mine.append(([x, y, x + abs(w), y + abs(h)], label, float(rng.integers(1, 8)) / 8))  # many equal scores
        for _ in range(rng.integers(0, 3)):
            x, y, w, h = rng.uniform(1, 80, 4)
            mine.append(([x, y, x + w, y + h], int(rng.choice(category_ids)), float(rng.random())))
        found.append(mine)
    categories = [{"id": i, "name": f"name {i}"} for i in category_ids]
    return {"images": images, "annotations": listed, "categories": categories}, found


def compare(content: Mapping[str, Any], found: Sequence[Sequence[tuple[list[float], int, float]]]) -> list[float]:
    """Assert that file and detections have pycocotools' precision, also by the results' file."""
    with TemporaryDirectory() as folder:
        index = open_index(write(Path(folder), content), Path(folder))
        labels = Labels()
        labels.add(index.categories(), "train")
        given: list[dict[str, Tensor]] = [
            {
                "boxes": torch.tensor([box for box, _, _ in each], dtype=torch.float64).reshape(-1, 4),
                "labels": torch.from_numpy(labels.of(np.array([label for _, label, _ in each], np.int64))),
                "scores": torch.tensor([score for _, _, score in each], dtype=torch.float64),
            }
            for each in found
        ]
        rows = list(range(len(index)))
        mine = average_precision(index, rows, given, labels)
        answers = detections(index, rows, given, labels)
    known = {category["id"] for category in content["categories"]}
    assert {answer["category_id"] for answer in answers} <= known  # the file's own
    assert len(answers) == sum(map(len, found))
    theirs = official(content, answers) if answers else [0.0, 0.0]
    assert [mine["test_ap"], mine["test_ap50"]] == pytest.approx(theirs, abs=1e-9)
    return theirs


@pytest.mark.parametrize("numbering", NUMBERINGS)
@pytest.mark.parametrize("what", ["images", "annotations", "categories", "all"])
def test_precision_is_pycocotools_on_files_numbered_oddly(
    numbering: str, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def ids(part: str, count: int) -> list[int]:
        return [NUMBERINGS[numbering if what in (part, "all") else "from 1"](i, count) for i in range(count)]

    content, found = world(np.random.default_rng(3), ids("images", 9), ids("annotations", 60), ids("categories", 5))
    ap, ap50 = compare(content, found)
    assert 0.02 < ap < ap50 < 0.9
    # another numbering is the same file, but for ties between images, whose order their ids decide
    plain, _ = world(np.random.default_rng(3), range(1, 10), range(1, 61), range(1, 6))
    if numbering in ("from 0", "gaps", "large", "negative"):
        assert [ap, ap50] == pytest.approx(
            compare(plain, world(np.random.default_rng(3), range(1, 10), range(1, 61), range(1, 6))[1])
        )
    capsys.readouterr()


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1 << 32),
    images=st.lists(st.integers(-5, 1 << 45), min_size=1, max_size=6, unique=True),
    annotations=st.lists(st.integers(0, 1 << 45), max_size=25, unique=True),
    categories=st.lists(st.integers(-3, 1 << 45), min_size=1, max_size=4, unique=True),
)
def test_precision_is_pycocotools_on_random_files(
    seed: int, images: list[int], annotations: list[int], categories: list[int]
) -> None:
    compare(*world(np.random.default_rng(seed), images, annotations, categories))


def test_annotation_0_is_an_annotation() -> None:
    """pycocotools itself, given the file as it is, takes the match with it for a miss."""
    content = {
        "images": [image_entry(0)],
        "annotations": [annotation(0, 0, [1, 1, 20, 20], 0)],
        "categories": [{"id": 0, "name": "a"}],
    }
    assert compare(content, [[([1.0, 1, 21, 21], 0, 0.9)]]) == [pytest.approx(1.0), pytest.approx(1.0)]
    double = {**content, "annotations": [annotation(4, 0, [1, 1, 20, 20], 0), annotation(4, 0, [50, 1, 20, 20], 0)]}
    ap, _ = compare(double, [[([1.0, 1, 21, 21], 0, 0.9), ([50.0, 1, 70, 21], 0, 0.8)]])  # one id twice: both count
    assert ap == pytest.approx(1.0)


def test_the_protocol_counts_100_detections_of_each_category(tmp_path: Path) -> None:
    """Not 100 of an image: a detector that gives more, as SSD does, loses none of them."""
    content = {
        "images": [image_entry(1, 400, 300)],
        "annotations": [annotation(1, 1, [1, 1, 50, 50], 1), annotation(2, 1, [200, 100, 50, 50], 2)],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
    }
    invented = [([float(i), 150.0, i + 20.0, 170.0], 1, 0.9 - i / 1000) for i in range(120)]
    ap, _ = compare(content, [[([1.0, 1, 51, 51], 1, 0.95), *invented, ([200.0, 100, 250, 150], 2, 0.5)]])
    assert ap == pytest.approx(1.0)
    ap, _ = compare(content, [[([1.0, 1, 51, 51], 1, 0.01), *invented, ([200.0, 100, 250, 150], 2, 0.5)]])
    assert ap == pytest.approx(0.5)  # the 121st of its category does not count


# --- the task ---


def folder_of(root: Path, ids: Sequence[int], **more: Any) -> None:
    for split in ("train2017", "val2017"):
        categories = [{"id": i, "name": f"name {i}"} for i in ids]
        objects = [annotation(i, i, [5, 5, 20, 15], ids[i % len(ids)], **more) for i in range(4)]
        write_split(root, [image_entry(i) for i in range(4)], objects, split, categories)
        for i in range(4):
            write_image(root / split / f"{i:012d}.png")


@pytest.mark.parametrize(("ids", "wanted"), [([0, 1, 2], 4), ([1, 90], 91), ([0, 10_000, BIG], 4), ([-1], 2)])
def test_a_task_of_any_category_ids_learns_labels_from_1_on(tmp_path: Path, ids: list[int], wanted: int) -> None:
    folder_of(tmp_path, ids)
    task = load_task(
        "coco", {"root": str(tmp_path), "cache": str(tmp_path / "c"), "size": 32, "augment": False}, 2, Path()
    )
    assert isinstance(task.model, CompactDetector)
    assert task.model.scores.out_channels == wanted - 1
    labels = [int(task.dataset[i][1]["labels"][0]) for i in range(4)]
    assert [task.dataset.labels.category(label) for label in labels] == [ids[i % len(ids)] for i in range(4)]
    loss = task.loss(task.model, task.batch([task.dataset[i] for i in range(4)]))
    assert np.isfinite(float(loss.detach()))
    assert task.evaluate is not None
    assert task.evaluate(task.model).keys() == {"test_loss", "test_ap", "test_ap50"}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"iscrowd": 1}, "4 annotations are crowds$"),
        ({"iscrowd": "0"}, "4 annotations whose iscrowd is not 0 or 1 were left out$"),
        ({"bbox": "5 5 20 15"}, "4 annotations without a box of four numbers were left out$"),
        ({"bbox": [5, 5, 0, 15]}, "4 boxes are under a pixel of 32x32, or outside of their image$"),
        ({"bbox": [50, 50, 20, 20]}, "4 boxes are under a pixel of 32x32, or outside of their image$"),
        ({"category_id": 77}, "4 annotations with a category that is not listed were left out$"),
        ({"image_id": "1"}, "4 annotations whose image_id or category_id is not a whole number were left out$"),
    ],
)
def test_a_run_without_any_target_does_not_begin(tmp_path: Path, changes: dict[str, Any], why: str) -> None:
    folder_of(tmp_path, [1])
    for split in ("train2017", "val2017"):
        path = tmp_path / "annotations" / f"instances_{split}.json"
        content = json.loads(path.read_text())
        content["annotations"] = [{**each, **changes} for each in content["annotations"]]
        path.write_text(json.dumps(content))
    options = {"root": str(tmp_path), "cache": str(tmp_path / "c"), "size": 32}
    with pytest.raises(TaskError, match=f"^coco: no target in the 4 images of .*train2017: {why}") as caught:
        load_task("coco", options, 2, Path())
    assert "\n" not in str(caught.value)


def test_one_target_among_the_images_that_are_used_is_enough(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    entries = [image_entry(i) for i in (1, 2, 3)]
    write_split(tmp_path, entries, [annotation(1, 3, [5, 5, 20, 15]), annotation(2, 1, [5, 5, 3, 3], iscrowd=1)])
    write_split(tmp_path, entries, [], "val2017")
    for split in ("train2017", "val2017"):
        for i in (1, 2, 3):
            write_image(tmp_path / split / f"{i:012d}.png")
    options = {"root": str(tmp_path), "cache": str(tmp_path / "c"), "size": 32}
    with caplog.at_level(logging.WARNING):
        load_task("coco", options, 2, Path())
    assert "nothing to find in the 3 images of " in caplog.text
    assert "val2017 (they have no annotations): test_ap is always 0" in caplog.text
    with pytest.raises(TaskError, match=r"no target in the 2 images of .*: 1 annotations are crowds$"):
        load_task("coco", {**options, "images": 2}, 2, Path())
    # a crop may magnify a box by 2.9
    write_split(tmp_path, entries, [annotation(1, 1, [5, 5, 0.6, 0.6])])
    load_task("coco", options, 2, Path())
    with pytest.raises(TaskError, match="1 boxes are under a pixel of 32x32"):
        load_task("coco", {**options, "augment": False}, 2, Path())


def test_without_a_home_folder_a_line_says_what_to_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a container's arbitrary user: no HOME, no entry in the password file."""

    def homeless(path: Path) -> Path:
        if str(path).startswith("~"):
            raise RuntimeError("Could not determine home directory.")
        return path

    monkeypatch.setattr(Path, "expanduser", homeless)
    for name in ("GCDIST_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    folder_of(tmp_path, [1])
    no_home = r"cannot be used: this user has no home folder \(HOME is not set\); "
    advice = no_home + r"name a folder: option 'cache' or \$GCDIST_CACHE$"
    with pytest.raises(TaskError, match=rf"^coco: cache: ~/\.cache/gcdist {advice}"):
        load_task("coco", {"root": str(tmp_path)}, 4, Path())
    with pytest.raises(TaskError, match=rf"^coco: root: ~/data {no_home}write it without ~$"):
        load_task("coco", {"root": "~/data"}, 4, Path())
    monkeypatch.setenv("GCDIST_CACHE", str(tmp_path / "cache"))
    load_task("coco", {"root": str(tmp_path), "size": 32}, 4, Path())
    assert list((tmp_path / "cache").glob("*.safetensors"))
    assert Splits(tmp_path).cache == tmp_path / "cache"
