"""What-if: the wall clock of another setting, predicted from a run's recorded times, against a run with that setting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gcdist import Config, simulate
from gcdist.config import ConfigError
from gcdist.report import read_run
from gcdist.report.replay import replay
from gcdist.report.whatif import outcomes, usual_changes
from gcdist.tasks import load_task
from tests.report.made_runs import made_run

TOLERANCE = 0.1
STEPS = 60


def simulated_run(folder: Path, **straggler: Any) -> Path:
    config = Config(
        seed=1,
        steps=STEPS,
        straggler=straggler,
        cluster={"workers": 6},
        inject={
            "model": "shifted-exponential",
            "shift": [0.0, 0.05, 0.3, 0.02, 0.0, 0.0],
            "mean": [0.05, 0.1, 0.1, 0.05, 0.05, 0.05],
        },
        simulate={"compute_seconds": 0.02, "bandwidth": 1e7},
        faults=[
            {"kind": "slow", "worker": 2, "step": 0, "seconds": 1e6, "rate": 10_000.0},
            {"kind": "kill", "worker": 5, "step": 20, "seconds": 2.0},
        ],
        checkpoint={"keep": 0},
    )
    task = load_task("least-squares", {}, 16, folder)
    with simulate(task, config, folder=folder, say=lambda kind, text: None) as cluster:
        for step in cluster.steps(STEPS):
            step.backward()
    return folder


def test_the_wall_clock_of_another_deadline_is_predicted(tmp_path: Path) -> None:
    runs = {deadline: read_run(simulated_run(tmp_path / str(deadline), deadline=deadline)) for deadline in (0.15, 0.3)}
    took = {deadline: float(run.series["seconds"][-1]) for deadline, run in runs.items()}
    assert took[0.3] > 1.15 * took[0.15]
    for recorded, run in runs.items():
        for deadline in runs:
            found = replay(run, [f"straggler.deadline={deadline}"])
            assert found.seconds == pytest.approx(took[deadline], rel=TOLERANCE), (recorded, deadline)
    said: list[str] = []
    rows = outcomes(runs[0.15], [["code.scheme=nothing"], ["quantizer.bits=2"], ["quantizer.bits=8"]], said.append)
    assert len(said) == 1
    assert said[0].startswith("--what-if code.scheme=nothing: code")
    assert [row.changes for row in rows] == [(), ("quantizer.bits=2",), ("quantizer.bits=8",)]
    assert rows[0].times == pytest.approx(1.0, rel=TOLERANCE)
    assert rows[1].noise > 1.2 * rows[2].noise  # so few parameters that most bytes are heads and sidecars


def test_what_cannot_be_replayed_is_one_line(tmp_path: Path) -> None:
    path = made_run(tmp_path / "run", 30, 3)
    assert len(usual_changes(read_run(path))) >= 6
    (path / "workers.jsonl").unlink()
    with pytest.raises(ConfigError, match=r"--what-if: run cannot be replayed: its folder has no workers.jsonl"):
        outcomes(read_run(path), [], lambda line: None)
    with pytest.raises(ConfigError, match=r"it has 5 steps; 20 are needed at least"):
        replay(read_run(made_run(tmp_path / "short", 5, 3)))
