"""The COCO task in real processes: the example's settings, on the real images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Start
from tests.tasks.coco_files import REAL, needs_images

pytestmark = needs_images
EXAMPLE = Path(__file__).parents[2] / "examples" / "coco.toml"
GROWTH = 12_000_000  # bytes between step 100 and 700


def arguments(out: Path, **changes: object) -> list[str]:
    """`gcdist train examples/coco.toml` with small images and two workers."""
    values = {
        "out": out,
        "name": "run",
        "task.options.root": REAL,
        "task.options.size": 64,
        "task.options.eval_images": 6,
        "task.batch_size": 2,
        "cluster.workers": 2,
        "code.partitions": 4,
        **changes,
    }
    settings = [word for key, value in values.items() for word in ("--set", f"{key}={value}")]
    return ["-m", "gcdist", "train", str(EXAMPLE), *settings]


def test_the_example_trains_on_real_images(tmp_path: Path, start: Start) -> None:
    cluster = start(
        arguments(tmp_path, **{"steps": 6, "evaluation.every": 3}), 3, {"GCDIST_CACHE": str(tmp_path / "cache")}
    )
    assert cluster.wait(120.0) == [0] * 3, cluster.output(0)
    evaluations = (tmp_path / "run" / "evaluations.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in evaluations] == [3, 6]
    assert json.loads(evaluations[0])["metrics"].keys() == {"test_loss", "test_ap", "test_ap50"}
    # one index a split for all processes
    assert len(list((tmp_path / "cache").glob("*.safetensors"))) == 2


LONG = """
import json, sys
from pathlib import Path
import torch
import gcdist
from gcdist.tasks.coco import build

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) * 1024

made = build(2, root=sys.argv[1], size=64, eval_images=20)
done = {"partitions": 0}

def loss_fn(model, batch):
    done["partitions"] += 1
    if done["partitions"] in (200, 1400):  # two partitions a step
        Path(f"worker-{done['partitions']}.json").write_text(json.dumps(resident()))
    return made.loss_fn(model, batch)

task = gcdist.Task(made.model, made.dataset, loss_fn, 2, made.collate_fn, evaluate=made.evaluate)
config = gcdist.Config(
    out="runs", name="run", steps=700, evaluation={"every": 25}, code={"partitions": 4, "scheme": "osgc"},
    straggler={"deadline": "wait"},
)
found = {}
with gcdist.connect(task, config) as cluster:
    optimizer = torch.optim.SGD(task.model.parameters(), 0.01)
    for step in cluster.steps(700):
        step.backward()
        optimizer.step()
        if step.number in (99, 699):
            found[step.number + 1] = resident()
Path("master.json").write_text(json.dumps([found[100], found[700]]))
"""


@pytest.mark.slow
def test_memory_is_flat_while_images_are_read(tmp_path: Path, start: Start) -> None:
    script = tmp_path / "long.py"
    script.write_text(LONG)
    cluster = start([str(script), str(REAL)], 3, {"GCDIST_CACHE": str(tmp_path / "cache")})
    assert cluster.wait(280.0) == [0] * 3, cluster.output(0)
    before, after = json.loads((tmp_path / "master.json").read_text())
    early, late = (json.loads((tmp_path / f"worker-{n}.json").read_text()) for n in (200, 1400))
    print(f"master {before / 1e6:.1f} -> {after / 1e6:.1f} MB, worker {early / 1e6:.1f} -> {late / 1e6:.1f} MB")
    assert after - before < GROWTH
    assert late - early < GROWTH
