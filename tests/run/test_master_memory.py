"""Memory of real processes over 2,000 steps: what a step leaves behind must not add up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Start

BOUND = 8_000_000  # bytes between step 200 and 2,000: 4.4 kB a step would be a leak of anything held by step
SCRIPT = """
import json
from pathlib import Path
import torch
import gcdist
from gcdist.tasks import digits

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) * 1024

good = digits.build(model="mlp")
done = {"partitions": 0}

def loss_fn(model, batch):
    done["partitions"] += 1
    if done["partitions"] in (400, 4000):  # two partitions a step
        Path(f"worker-{done['partitions']}.json").write_text(json.dumps(resident()))
    return good.loss_fn(model, batch)

task = gcdist.Task(good.model, good.dataset, loss_fn, batch_size=4)
config = gcdist.Config(
    out="runs", name="run", steps=2000, checkpoint={"every": 50}, evaluation={"every": 100},
    code={"scheme": "shifted"}, straggler={"deadline": 0.05, "replan_every": 5},
    inject={"model": "shifted-exponential", "mean": (0.0, 0.0, 0.01)},
)
found = {}
with gcdist.connect(task, config) as cluster:
    optimizer = torch.optim.Adam(task.model.parameters())
    cluster.track(optimizer=optimizer)
    for step in cluster.steps(2000):
        step.backward()
        optimizer.step()
        if step.number in (199, 1999):
            found[step.number + 1] = resident()
Path("master.json").write_text(json.dumps([found[200], found[2000]]))
"""


@pytest.mark.slow
def test_memory_is_flat_over_2000_steps(tmp_path: Path, start: Start) -> None:
    script = tmp_path / "long.py"
    script.write_text(SCRIPT)
    cluster = start([str(script)], ranks=4)
    assert cluster.wait(280.0) == [0] * 4, cluster.output(0)
    before, after = json.loads((tmp_path / "master.json").read_text())
    early, late = (json.loads((tmp_path / f"worker-{n}.json").read_text()) for n in (400, 4000))
    print(f"master {before / 1e6:.1f} -> {after / 1e6:.1f} MB, worker {early / 1e6:.1f} -> {late / 1e6:.1f} MB")
    assert after - before < BOUND
    assert late - early < BOUND
