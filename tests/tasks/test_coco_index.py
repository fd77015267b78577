from __future__ import annotations

import json
import logging
import multiprocessing
import os
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from pycocotools.coco import COCO

from gcdist.tasks.coco import index as module
from gcdist.tasks.coco.index import ARRAYS, open_index
from gcdist.tasks.coco.parse import AnnotationError, parse
from tests.tasks.coco_files import REAL, annotation, image_entry, needs_images, small, write_split


@needs_images
def test_the_index_has_what_pycocotools_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = REAL / "annotations" / "instances_train2017.json"
    index = open_index(path, tmp_path)
    assert capsys.readouterr().out == ""  # standard output belongs to --json
    coco = COCO(str(path))
    assert len(index) == 92
    assert index.left_out() == []
    assert index.categories()[90] == "toothbrush"
    for i in range(len(index)):
        image = coco.imgs[int(index.image_id_I[i])]
        assert (index.name(i), *index.size_I2[i].tolist()) == (image["file_name"], image["width"], image["height"])
        theirs, at = coco.imgToAnns[image["id"]], index.of(i)
        np.testing.assert_array_equal(index.box_B4[at], np.array([a["bbox"] for a in theirs]).reshape(-1, 4))
        assert index.category_B[at].tolist() == [a["category_id"] for a in theirs]
        assert index.crowd_B[at].tolist() == [a["iscrowd"] for a in theirs]
        assert index.area_B[at].tolist() == [a["area"] for a in theirs]
        assert index.annotation_id_B[at].tolist() == [a["id"] for a in theirs]
    assert index.crowd_B.sum() == 9


def test_the_index_is_built_once_and_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, cache = small(tmp_path), tmp_path / "cache"
    first = open_index(path, cache)
    monkeypatch.setattr(f"{module.__name__}.parse", lambda path: pytest.fail("it was parsed again"))
    again = open_index(path, cache)
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
        with pytest.raises(ValueError, match="read-only"):
            getattr(again, name)[...] = 0
    moved = tmp_path / "moved.json"
    path.rename(moved)  # the same file elsewhere: its stem names the index
    monkeypatch.undo()
    assert len(open_index(moved, cache)) == 4


def test_another_file_has_another_index(tmp_path: Path) -> None:
    path, cache = small(tmp_path), tmp_path / "cache"
    assert open_index(path, cache).category_B.tolist() == [90] * 4
    text = path.read_text().replace('"category_id": 90', '"category_id": 1 ')  # of the same size
    before = path.stat()
    path.write_text(text)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert open_index(path, cache).category_B.tolist() == [1] * 4
    small(tmp_path, images=5)
    assert len(open_index(path, cache)) == 5


@pytest.mark.parametrize("damage", ["cut", "emptied", "byte", "text", "deleted", "folder deleted"])
def test_a_damaged_or_deleted_index_is_built_again(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    path, cache = small(tmp_path), tmp_path / "cache"
    open_index(path, cache)
    (file,) = cache.glob("*.safetensors")
    raw = file.read_bytes()
    file.unlink()
    if damage == "cut":
        file.write_bytes(raw[:-5])
    elif damage == "emptied":
        file.write_bytes(b"")
    elif damage == "byte":
        file.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    elif damage == "text":
        file.write_text("this is no index")
    elif damage == "folder deleted":
        for left in cache.iterdir():
            left.unlink()
        cache.rmdir()
    with caplog.at_level(logging.WARNING):
        assert len(open_index(path, cache)) == 4
    assert ("is damaged" in caplog.text) == ("deleted" not in damage)
    assert file.read_bytes() == raw
    assert not list(cache.glob("*.part"))


def test_an_index_that_vanishes_at_once_and_a_killed_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, cache = small(tmp_path), tmp_path / "cache"
    with monkeypatch.context() as patched:
        patched.setattr(module, "_read", lambda file, key: None)
        assert len(open_index(path, cache)) == 4
    (file,) = cache.glob("*.safetensors")
    file.rename(file.with_name(file.name + ".part"))
    file.with_name(file.name + ".part").write_bytes(b"half")
    assert len(open_index(path, cache)) == 4
    assert sorted(left.suffix for left in cache.iterdir()) == [".lock", ".safetensors"]


def _open(path: Path, cache: Path, log: Path) -> None:
    def counted(annotations: Path) -> dict[str, Any]:
        with log.open("a") as out:
            out.write("parsed\n")
        return parse(annotations)

    with patch(f"{module.__name__}.parse", counted):
        assert len(open_index(path, cache)) == 4


def test_processes_that_start_together_parse_once(tmp_path: Path) -> None:
    path, log = small(tmp_path), tmp_path / "log"
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_open, args=(path, tmp_path / "cache", log)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert log.read_text() == "parsed\n"


def test_annotations_that_cannot_be_used_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    entries = [
        annotation(1, 1, [1, 2, 3, 4]),
        annotation(2, 1, [1, 2, 3]),
        annotation(3, 1, [1, 2, "3", 4]),
        annotation(4, 1, [1, 2, float("nan"), 4]),
        annotation(5, 1, [1, 2, 3, 4], label=7),
        annotation(6, 99, [1, 2, 3, 4]),
        annotation(7, 1, [0, 0, 10, 5], area="none"),
        annotation(8, 1, [2, 2, 4, 4], iscrowd=1, segmentation={"counts": [1], "size": [3, 3]}),
        annotation(9, 1, [2, 2, 4, 4], iscrowd="0"),  # bool("0") would make it a crowd
        annotation(10, 1, [2, 2, 4, 4], iscrowd=2),
        annotation(11, 1, [2, 2, 4, 4], iscrowd=[1]),
        annotation(12, 1, [2, 2, 4, 4], iscrowd=None),
        annotation(13, 1, [2, 2, 4, 4], iscrowd=True),
        annotation(14, 1, [2, 2, 4, 4], iscrowd=0.0, area=True),
        {**annotation(15, 1, [2, 2, 4, 4]), "category_id": [1]},
        {**annotation(16, 1, [2, 2, 4, 4]), "category_id": "1"},
        {**annotation(17, 1, [2, 2, 4, 4]), "category_id": {"id": 1}},
        {**annotation(18, 1, [2, 2, 4, 4]), "category_id": True},
        {**annotation(19, 1, [2, 2, 4, 4]), "category_id": 1.5},
        {**annotation(20, 1, [2, 2, 4, 4]), "category_id": float("nan")},
        {**annotation(21, 1, [2, 2, 4, 4]), "image_id": "1"},
        {**annotation(22, 1, [2, 2, 4, 4]), "image_id": [1]},
        {**annotation(23, 1, [2, 2, 4, 4]), "image_id": None},
        {**annotation(24.0, 1.0, [2, 2, 4, 4]), "category_id": 1.0},  # whole floats are whole numbers
        annotation(25, 1, "2, 2, 4, 4"),
        annotation(26, 1, {"x": 1}),
        annotation(27, 1, [1, 2, True, 4]),
        annotation(28, 1, [1, 2, 10**400, 4]),
    ]
    del entries[1]["bbox"]
    path = write_split(tmp_path, [image_entry(1)], entries)
    with caplog.at_level(logging.WARNING):
        index = open_index(path, tmp_path / "cache")
    assert index.annotation_id_B.tolist() == [1, 7, 8, 12, 13, 14, 24]
    assert index.area_B.tolist() == [9.0, 50.0, 9.0, 9.0, 9.0, 16.0, 9.0]
    assert index.crowd_B.tolist() == [0, 0, 1, 0, 1, 0, 0]
    lines = [
        "1 annotations with an image that is not listed",
        "1 annotations with a category that is not listed",
        "9 annotations whose image_id or category_id is not a whole number",
        "7 annotations without a box of four numbers",
        "3 annotations whose iscrowd is not 0 or 1",
    ]
    assert [record.message for record in caplog.records] == [f"{path}: {line} are left out" for line in lines]
    caplog.clear()
    with caplog.at_level(logging.WARNING):  # the next run, which reads the index, says so too
        assert open_index(path, tmp_path / "cache").left_out() == lines
    assert len(caplog.records) == 5


def _document(**changes: Any) -> str:
    whole = {
        "images": [image_entry(1)],
        "annotations": [annotation(1, 1, [1, 2, 3, 4])],
        "categories": [{"id": 1, "name": "person"}],
    }
    return json.dumps({key: value for key, value in {**whole, **changes}.items() if value is not None})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON .*line 1 column 2"),
        ("[1, 2]", "is no JSON object, but a list"),
        ("\xff\xfe", "is not JSON"),
        ("", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        (_document(images=None), "has no list of images"),
        (_document(annotations=None), "has no list of annotations"),
        (_document(categories=None), "has no list of categories"),
        (_document(images=[]), "has no images"),
        (_document(categories=[]), "has no categories"),
        (_document(images=[image_entry(1), image_entry(1)]), "image id 1 comes 2 times"),
        (_document(images=[{"id": 1, "width": 3, "height": 4}]), "image 1 misses 'file_name'"),
        (_document(images=[image_entry(1, name="../../secret.png")]), "'../../secret.png' leads out of the folder"),
        (_document(images=[image_entry(1, width=0)]), "image 1 has no size"),
        (_document(images=[{**image_entry(1), "id": "one"}]), "an image's id should be a whole number, found 'one'"),
        (_document(images=[image_entry(1, width="40")]), "the width of image 1 should be a whole number, found '40'"),
        (
            _document(images=[image_entry(1, height=40.5)]),
            r"the height of image 1 should be a whole number, found 40\.5",
        ),
        (
            _document(images=[{**image_entry(1), "file_name": None}]),
            "file_name of image 1 should be a text, found None",
        ),
        (_document(images=[{**image_entry(1), "file_name": 7}]), "file_name of image 1 should be a text, found 7"),
        (_document(images=[{**image_entry(1), "id": [1]}]), r"an image's id should be a whole number, found \[1\]"),
        (_document(images=[image_entry(1), image_entry(1.0, name="b.png")]), "image id 1 comes 2 times"),
        (_document(annotations=[{"id": 1}]), "an annotation misses 'image_id'"),
        (_document(annotations=[{"id": 1, "image_id": 1}]), "an annotation misses 'category_id'"),
        (
            _document(annotations=[annotation("a", 1, [1, 2, 3, 4])]),
            "annotation's id should be a whole number, found 'a'",
        ),
        (_document(annotations=[7]), "entry 0 of annotations is no JSON object, found 7"),
        (_document(categories=[{"id": "0"}]), "a category's id should be a whole number, found '0'"),
        (_document(categories=[{"id": [0] * 99}]), r"should be a whole number, found \[0.*\.\.\.;"),
        (_document(categories=[{"name": "a"}]), "a category misses 'id'"),
        (_document(categories=[{"id": 1}, {"id": 1}]), "category id 1 comes 2 times"),
        (_document(categories=[{"id": i} for i in range(10_000)]), "has 10000 categories, allowed are 1 to 9999"),
        (_document(images=[None]), "entry 0 of images is no JSON object, found None"),
    ],
)
def test_bad_annotations_are_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "instances.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(AnnotationError, match=message) as caught:
        open_index(path, tmp_path / "cache")
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])  # with a byte order mark, as editors may save it
def test_a_byte_order_mark_changes_nothing(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "instances.json"
    path.write_text(_document(categories=[{"id": 1, "name": "café"}]), encoding=encoding)
    assert open_index(path, tmp_path / "cache").categories() == {1: "café"}


def test_missing_file_and_unusable_cache(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=r"nowhere\.json: cannot be read: No such file"):
        open_index(tmp_path / "nowhere.json", tmp_path)
    with pytest.raises(AnnotationError, match="Is a directory"):
        open_index(tmp_path, tmp_path)
    path = small(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(AnnotationError, match=r"the cache folder .*file/cache cannot be used .*option 'cache'"):
        open_index(path, tmp_path / "file" / "cache")
