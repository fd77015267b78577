"""What-if: the wall clock of another setting, predicted from a run's recorded times, against a run with that setting."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gcdist import Config, simulate
from gcdist.config import ConfigError
from gcdist.observe import WorkerRound
from gcdist.report import read_run
from gcdist.report.recorded_times import as_whole
from gcdist.report.replay import between_seconds, replay
from gcdist.report.whatif import outcomes, usual_changes
from gcdist.tasks import load_task
from tests.report.made_runs import made_run

TOLERANCE = 0.1
STEPS = 60


INJECTED = {
    "model": "shifted-exponential",
    "shift": [0.0, 0.05, 0.3, 0.02, 0.0, 0.0],
    "mean": [0.05, 0.1, 0.1, 0.05, 0.05, 0.05],
}


def simulated_run(
    folder: Path,
    deadline: float | str,
    scheme: str = "auto",
    inject: Mapping[str, Any] = INJECTED,
    compute: float = 0.02,
) -> Path:
    """Worker 2 has a slow link, worker 5 is away for 2 s; 3 (and 2) are slow by INJECTED."""
    config = Config(
        seed=1,
        steps=STEPS,
        straggler={"deadline": deadline},
        code={"scheme": scheme},
        cluster={"workers": 6},
        inject=inject,
        simulate={"compute_seconds": compute, "bandwidth": 1e7},
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
    runs = {deadline: read_run(simulated_run(tmp_path / str(deadline), deadline)) for deadline in (0.15, 0.3)}
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


@pytest.mark.parametrize("where", ["message", "compute"])
def test_an_automatic_deadline_and_an_automatic_scheme_are_predicted(tmp_path: Path, where: str) -> None:
    inject = INJECTED | {"where": where}
    recorded = read_run(simulated_run(tmp_path / "recorded", 0.3, "joint", inject))
    for scheme in ("joint", "auto"):
        run = read_run(simulated_run(tmp_path / scheme, "auto", scheme, inject))
        took = float(run.series["seconds"][-1])
        assert took < 0.75 * float(recorded.series["seconds"][-1])
        found = replay(recorded, ['straggler.deadline="auto"', f'code.scheme="{scheme}"'])
        # the automatic scheme's choices follow the noise, and that of made-up gradients is not the run's
        within = 0.2 if scheme == "auto" else TOLERANCE
        assert found.seconds == pytest.approx(took, rel=within), scheme


@pytest.mark.parametrize("deadline", [0.15, 0.3, "auto"])
def test_a_run_with_cut_rows_is_replayed_with_its_own_settings(tmp_path: Path, deadline: float | str) -> None:
    run = read_run(simulated_run(tmp_path / "run", deadline, "joint", {}, 0.05))
    cut = [each for each in run.rounds if each.done and not each.whole]
    assert len(cut) > 30 or deadline == 0.3  # of about 350
    found = replay(run)
    # an automatic deadline and its loads follow the noise, and that of made-up gradients is not the run's
    within = 0.2 if deadline == "auto" else 0.05
    assert found.seconds == pytest.approx(float(run.series["seconds"][-1]), rel=within)
    assert found.counted == pytest.approx(float(run.arrived_TN.sum(1).mean()), rel=TOLERANCE)


def test_a_cut_row_gets_the_time_of_a_whole_one_at_its_pace() -> None:
    cut = WorkerRound(1, 0, "counted", 0.0, 0.5, 0.4, 0.2, 0.1, 4, 100, 100, 2)  # 0.1 s computing, 0.05 s data each
    measured, spread = as_whole(cut, "measured"), as_whole(cut, "spread")
    assert measured.whole
    assert measured.held == pytest.approx(0.7)
    assert measured.compute == pytest.approx(0.4)
    assert measured.link == pytest.approx(cut.link)
    assert spread.held == pytest.approx(0.64)  # 2.5 of 4 in 0.4 s
    assert as_whole(replace(cut, done=4), "measured").held == 0.4


def test_what_cannot_be_replayed_is_one_line(tmp_path: Path) -> None:
    path = made_run(tmp_path / "run", 30, 3)
    assert len(usual_changes(read_run(path))) >= 6
    (path / "workers.jsonl").unlink()
    with pytest.raises(ConfigError, match=r"--what-if: run cannot be replayed: its folder has no workers.jsonl"):
        outcomes(read_run(path), [], lambda line: None)
    with pytest.raises(ConfigError, match=r"it has 5 steps; 20 are needed at least"):
        replay(read_run(made_run(tmp_path / "short", 5, 3)))


def test_the_choices_of_an_auto_run_take_what_its_gaps_exceed_the_usual_one_by(tmp_path: Path) -> None:
    folder = simulated_run(tmp_path / "run", "auto", "auto", INJECTED)
    run = read_run(folder)
    plain, _ = between_seconds(run)
    longer = run.series["seconds"].copy()
    longer[1:] += 0.3  # a choice after step 1
    run.series["seconds"] = longer
    took = run.series["choice_seconds"]
    took[1], took[2], took[4] = 0.01, 0.02, 0.04
    usual, choice = between_seconds(run)
    assert usual == pytest.approx(plain, abs=1e-6)
    assert choice == pytest.approx(0.02)
    took.fill(math.nan)  # a run of an older version
    usual, choice = between_seconds(run)
    assert usual == pytest.approx(plain, abs=1e-6)
    gaps, at, count = run.steps - 1, 1, 0
    while at <= gaps:
        count, at = count + 1, at + min(20, count + 1)
    assert choice == pytest.approx(0.3 / count, rel=0.1)
    run.config["code"]["scheme"] = "joint"
    assert between_seconds(run) == (usual, 0.0)


@pytest.mark.parametrize("where", ["message", "compute"])
def test_an_automatic_scheme_is_predicted_from_a_run_that_waited(tmp_path: Path, where: str) -> None:
    """Its only plan was made before anything was known of how much partitions differ; its steps know."""
    inject = INJECTED | {"where": where}
    waited = read_run(simulated_run(tmp_path / "waited", "wait", "sync", inject))
    run = read_run(simulated_run(tmp_path / "auto", "auto", "auto", inject))
    took = float(run.series["seconds"][-1])
    auto = ['straggler.deadline="auto"', 'code.scheme="auto"']
    assert replay(waited, auto).seconds == pytest.approx(took, rel=0.2)
    waited.series["spread"].fill(math.nan)  # as an older version wrote it
    assert replay(waited, auto).seconds == pytest.approx(took, rel=0.2)
