from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor, nn

import gcdist
from gcdist.config import dump_config
from gcdist.tasks import TaskError, load_task
from gcdist.tasks.coco import CocoImages, HeldOut, average_precision, build, open_index, task
from gcdist.tasks.coco.pictures import save_pictures
from gcdist.tasks.coco.scoring import ground_truth, loss_mode
from tests.tasks.coco_files import REAL, annotation, image_entry, needs_images, small, write_image, write_split

pytestmark = needs_images
torch.set_num_threads(1)  # tests share two cores


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GCDIST_CACHE", str(tmp_path / "cache"))


def held_out(cache: Path, most: int = 0) -> CocoImages:
    return CocoImages(
        open_index(REAL / "annotations" / "instances_val2017.json", cache), REAL / "val2017", 64, most=most
    )


def truth(images: CocoImages) -> list[dict[str, Tensor]]:
    """The annotations as a perfect detector would give them."""
    answer = []
    for row in images.rows.tolist():
        at = images.index.of(row)
        good = images.index.crowd_B[at] == 0
        box = torch.from_numpy(images.index.box_B4[at][good])
        box[:, 2:] += box[:, :2]
        label = torch.from_numpy(images.labels.of(images.index.category_B[at][good]))
        answer.append({"boxes": box, "labels": label, "scores": torch.ones(len(box))})
    return answer


def test_ground_truth_as_detections_has_precision_1(tmp_path: Path) -> None:
    images = held_out(tmp_path)
    found = average_precision(images.index, images.rows.tolist(), truth(images))
    assert found["test_ap"] == pytest.approx(1.0, abs=1e-9)
    assert found["test_ap50"] == pytest.approx(1.0, abs=1e-9)


def test_precision_is_that_of_pycocotools(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, rng = held_out(tmp_path), np.random.default_rng(0)
    found = truth(images)
    for each in found:  # moved boxes, wrong labels, some lost, some invented
        each["boxes"] += torch.from_numpy(rng.normal(0, 6, each["boxes"].shape))
        each["scores"] = torch.from_numpy(rng.random(len(each["scores"])))
        wrong = torch.from_numpy(rng.random(len(each["labels"])) < 0.2)
        each["labels"] = torch.where(wrong, torch.ones_like(each["labels"]), each["labels"])
    found[3] = {name: value[:0] for name, value in found[3].items()}
    mine = average_precision(images.index, images.rows.tolist(), found)
    theirs = COCO()
    theirs.dataset = ground_truth(images.index, images.rows.tolist())
    theirs.createIndex()
    results = [
        {"image_id": int(images.index.image_id_I[row]), "category_id": int(label), "score": float(score),
         "bbox": [*box[:2].tolist(), *(box[2:] - box[:2]).tolist()]}
        for row, each in zip(images.rows, found, strict=True)
        for box, label, score in zip(each["boxes"], each["labels"], each["scores"], strict=True)
    ]  # fmt: skip
    scorer = COCOeval(theirs, theirs.loadRes(results), "bbox")
    scorer.evaluate()
    scorer.accumulate()
    scorer.summarize()
    capsys.readouterr()
    assert 0.1 < mine["test_ap"] < 0.9
    assert mine["test_ap"] == pytest.approx(scorer.stats[0], abs=1e-9)
    assert mine["test_ap50"] == pytest.approx(scorer.stats[1], abs=1e-9)


def test_nothing_found_and_nothing_to_find(tmp_path: Path) -> None:
    images = held_out(tmp_path)
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "scores": torch.zeros(0)}
    assert average_precision(images.index, [0, 1], [nothing, nothing]) == {"test_ap": 0.0, "test_ap50": 0.0}
    path = write_split(tmp_path, [image_entry(1)], [])
    index = open_index(path, tmp_path)
    invented = {"boxes": torch.ones(1, 4), "labels": torch.ones(1, dtype=torch.int64), "scores": torch.ones(1)}
    assert average_precision(index, [0], [invented]) == {"test_ap": 0.0, "test_ap50": 0.0}


class Oracle(nn.Module):
    """Gives the true boxes of the images in the order in which they come; its loss is the number of boxes."""

    def __init__(self, images: CocoImages) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.drop = nn.Dropout()
        self.targets = [sample[1] for i in range(len(images)) if (sample := images[i]) is not None]

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None) -> Any:
        batch = torch.stack(images)
        self.norm(batch)
        assert not self.drop.training
        if self.training:
            assert targets is not None
            return {"boxes": batch.new_tensor(float(sum(len(t["boxes"]) for t in targets))) / len(targets)}
        given, self.targets = self.targets[: len(images)], self.targets[len(images) :]
        return [{**each, "scores": torch.ones(len(each["boxes"]))} for each in given]


def test_the_held_out_loss_leaves_modes_and_statistics_alone(tmp_path: Path) -> None:
    images = held_out(tmp_path, most=21)
    model = Oracle(images)
    boxes = sum(len(target["boxes"]) for target in model.targets)
    model.norm.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    metrics = HeldOut(images, 8)(model.eval())
    assert metrics["test_loss"] == pytest.approx(boxes / 21)
    assert metrics["test_ap50"] > 0.8  # boxes under a pixel of 64 are no targets
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model.train()
    model.norm.eval()
    with loss_mode(model):
        assert model.training
        assert not model.norm.training
    assert model.training
    assert not model.norm.training
    assert model.drop.training


def test_evaluation_skips_broken_images_by_choice(tmp_path: Path) -> None:
    path = small(tmp_path, 3, "val2017")
    (tmp_path / "val2017" / "000000000002.png").write_bytes(b"")
    index = open_index(path, tmp_path / "cache")
    images = CocoImages(index, tmp_path / "val2017", 32, broken="skip")
    metrics = HeldOut(images, 2)(Oracle(images).eval())
    assert metrics["test_ap"] == pytest.approx(1.0, abs=1e-6)
    for i in (1, 3):
        (tmp_path / "val2017" / f"{i:012d}.png").write_bytes(b"")
    with pytest.raises(ValueError, match="none of the 3 held-out images could be read"):
        HeldOut(images, 2)(Oracle(images))


# --- the task ---


def test_build_is_a_function_of_the_seed_alone() -> None:
    before = torch.get_rng_state()
    one, two, other = (build(root=str(REAL), seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    a, b, c = (nn.utils.parameters_to_vector(t.model.parameters()) for t in (one, two, other))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert len(one.dataset) == 92
    assert isinstance(one.evaluate, HeldOut)
    assert len(one.evaluate.images) == 66
    assert len(build(root=str(REAL), images=24, eval_images=5).dataset) == 24


def test_the_folder_may_be_named_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_COCO", str(REAL.parent))
    assert len(build(root="$MY_COCO/coco-small").dataset) == 92


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "coco: root: missing; the folder"),
        ({"root": "/nowhere"}, "coco: root: no folder /nowhere"),
        ({"root": "REAL", "train": "train2014"}, r"instances_train2014\.json: cannot be read: No such file"),
        ({"root": "REAL", "broken": "ignore"}, "coco: broken must be one of refuse, skip, later, found 'ignore'"),
        ({"root": "REAL", "size": 8}, "coco: size must be 32 or more, found 8"),
        ({"root": "REAL", "images": -1}, "coco: images must be 0 or more, found -1"),
        ({"root": "REAL", "model": "yolo"}, "model must be one of compact, .* found 'yolo'"),
    ],
)
def test_refuses(options: dict[str, Any], message: str) -> None:
    given = {key: str(REAL) if value == "REAL" else value for key, value in options.items()}
    with pytest.raises(TaskError, match=message) as caught:
        load_task("coco", given, 4, Path())
    assert "\n" not in str(caught.value)


def test_ssdlite_needs_two_images_a_batch() -> None:
    name = "ssdlite320_mobilenet_v3_large"
    with pytest.raises(TaskError, match="needs a batch_size of 2 or more"):
        load_task("coco", {"root": str(REAL), "model": name}, 1, Path())
    made = load_task("coco", {"root": str(REAL), "model": name}, 2, Path())
    assert made.dataset.size == 320
    loss = made.loss(made.model, made.batch([made.dataset[0], made.dataset[1]]))
    assert float(loss.detach()) > 5


def test_without_the_extra_a_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(task, "find_spec", lambda name: None if name == "pycocotools" else real(name))
    with pytest.raises(TaskError, match=r"^coco: pycocotools missing: pip install 'gcdist\[coco\]'$"):
        load_task("coco", {"root": str(REAL)}, 4, Path())
    assert load_task("digits", {}, 4, Path()).batch_size == 4


def settings(tmp_path: Path, **more: Any) -> gcdist.Config:
    options = {"root": str(REAL), "size": 64, "eval_images": 10, **more.pop("options", {})}
    return gcdist.Config(
        **{
            "steps": 4,
            "out": str(tmp_path / "runs"),
            "name": "run",
            "task": {"name": "coco", "batch_size": 2, "options": options},
            "optimizer": {"name": "adam", "lr": 2e-3},
            "code": {"partitions": 4},
            "cluster": {"workers": 3},
            "evaluation": {"every": 2},
            **more,
        }
    )


def run(argv: list[str]) -> None:
    from gcdist.cli import main

    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 0


def test_a_simulated_run_and_its_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    near = os.path.relpath(REAL, tmp_path)  # a path that another folder reads otherwise
    Path("coco.toml").write_text(dump_config(settings(tmp_path, out="runs", options={"root": near})))
    run(["simulate", "coco.toml", "--json"])
    summary = json.loads(capsys.readouterr().out)
    (tmp_path / "another" / "folder").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "another" / "folder")
    assert summary["metrics"].keys() == {"test_loss", "test_ap", "test_ap50"}
    folder = tmp_path / "runs" / "run"
    assert len((folder / "evaluations.jsonl").read_text().splitlines()) == 2
    run(["coco", "pictures", str(folder), "--count", "3", "--least", "0.0", "--json"])
    files = [Path(name) for name in json.loads(capsys.readouterr().out)]
    assert [file.suffix for file in files] == [".png"] * 3
    assert files[0].parent == folder / "pictures"
    run(["coco", "pictures", str(folder), "--split", "train", "--count", "1", "--out", str(tmp_path / "elsewhere")])
    assert (tmp_path / "elsewhere" / "000000000030.png").exists()
    capsys.readouterr()
    run(["coco", "results", str(folder), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["images"] == 10
    assert {key: told[key] for key in ("test_ap", "test_ap50")} == pytest.approx(
        {key: summary["metrics"][key] for key in ("test_ap", "test_ap50")}
    )
    truth = COCO(str(REAL / "annotations" / "instances_val2017.json"))
    answers = json.loads((folder / "results-val.json").read_text())
    assert {answer["category_id"] for answer in answers} <= set(truth.getCatIds())
    assert {answer["image_id"] for answer in answers} <= set(truth.getImgIds())
    run(["coco", "results", str(folder), "--split", "train", "--out", str(tmp_path / "train.json")])
    assert "train.json: detections in 92 images; test_ap 0." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pictures", "nowhere"], "coco pictures: nowhere is no folder of a run"),
        (["pictures", "nowhere", "--count", "0"], "--count: found 0; should be 1 to"),
        (["results", "nowhere"], "coco results: nowhere is no folder of a run"),
    ],
)
def test_pictures_refuse(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    from gcdist.cli import main

    with pytest.raises(SystemExit) as ended:
        main(["coco", *arguments])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_pictures_show_what_is_found(tmp_path: Path) -> None:
    images = [image_entry(1, 80, 60), image_entry(2, 80, 60)]
    path = write_split(tmp_path, images, [annotation(1, 1, [20, 20, 30, 25], 90)])
    for i in (1, 2):
        write_image(tmp_path / "train2017" / f"{i:012d}.png", 80, 60, "L")
    made = CocoImages(open_index(path, tmp_path / "cache"), tmp_path / "train2017", 40)
    model = Oracle(made)
    files = save_pictures(model, made, tmp_path / "out", 2)
    assert [file.name for file in files] == ["000000000001.png", "000000000002.png"]
    assert model.training
    with Image.open(files[0]) as picture, Image.open(tmp_path / "train2017" / "000000000001.png") as plain:
        changed = np.abs(np.array(picture).astype(int) - np.array(plain.convert("RGB"))).sum(2) > 0
        colour = np.array(picture)[35, 20]
    assert changed[20:46, 20].all()  # the left side of the box
    assert not changed[30:40, 30:40].any()  # not its inside
    assert np.ptp(colour.astype(int)) > 50  # in colour, though the image is grey
