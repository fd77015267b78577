"""Old and damaged run folders: a line each, and all that can be shown is shown."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from gcdist.config import ConfigError
from gcdist.report import judge, read_run, write_report
from gcdist.report.content import bits
from gcdist.report.figures import asked as asked_of
from tests.report.made_runs import made_run


def rounds_gone(path: Path) -> None:
    """As a run of the first release left it."""
    (path / "workers.jsonl").unlink()
    metrics = path / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace('"away":[],', ""))


def half_written(path: Path) -> None:
    metrics = path / "metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes()[:-40])


def a_line_damaged(path: Path) -> None:
    metrics = path / "metrics.jsonl"
    lines = metrics.read_bytes().splitlines(keepends=True)
    metrics.write_bytes(b"".join([*lines[:3], b"\x00\x00\xff{\n", b"[1]\n", *lines[4:]]))


def no_metrics(path: Path) -> None:
    (path / "metrics.jsonl").unlink()


def no_config(path: Path) -> None:
    (path / "config.toml").unlink()


def config_damaged(path: Path) -> None:
    (path / "config.toml").write_text("steps = [\n")


def unknown_settings(path: Path) -> None:
    (path / "config.toml").write_text('steps = 20\nfuture = "x"\n[cluster]\nworkers = 4\n')


def summary_damaged(path: Path) -> None:
    (path / "summary.json").write_text("{")


def plan_damaged(path: Path) -> None:
    (path / "plans" / "0.json").write_text('{"plan_id": 0, "rows": [3, null]}')
    (path / "plans" / "1.json").write_text("[]")


def rounds_of_another_version(path: Path) -> None:
    (path / "workers.jsonl").write_text('{"version":9,"columns":["worker"]}\n{"step":0,"rounds":[[1]]}\n')


DAMAGE: dict[Callable[[Path], None], str | None] = {
    rounds_gone: "do not tell a worker's link from its computing",
    half_written: None,
    a_line_damaged: "metrics.jsonl: 2 damaged lines left out, 19 read",
    no_metrics: "metrics.jsonl is missing",
    no_config: "config.toml is missing",
    config_damaged: "config.toml cannot be read: Invalid value",
    unknown_settings: None,
    summary_damaged: "summary.json cannot be read",
    plan_damaged: "1.json holds no table of values",
    rounds_of_another_version: "workers.jsonl: column 'step' is missing (version 9)",
}


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_what_is_left_of_a_damaged_folder_is_shown(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    path = made_run(tmp_path / "run", 20, 4)
    damage(path)
    run = read_run(path)
    wanted = DAMAGE[damage]
    if wanted is None:
        assert run.problems == []
    else:
        assert any(wanted in problem for problem in run.problems), run.problems
    verdict = judge(run)
    write_report([(run, verdict, [])], tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    for problem in run.problems:
        assert problem.split("'")[0].split('"')[0] in text.replace("&#x27;", "'")
    if damage is not no_metrics:
        assert run.steps >= 19
        assert run.workers == 4


def test_what_is_no_run_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        read_run(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"no run is in this folder \(none of metrics.jsonl"):
        read_run(tmp_path)


def test_plans_of_older_runs_count_workers_from_0(tmp_path: Path) -> None:
    """Both versions of ``plans/ID.json`` ask the same worker for nothing; a version to come is left out, with a line."""
    path = made_run(tmp_path / "run", 6, 4, slow=1)
    new = [{"worker": rank, "parts": [[0, 1.0]], "bits": [4 if rank > 1 else 0], "p": 0.1} for rank in range(1, 5)]
    old = [{**row, "worker": rank} for rank, row in enumerate(new)]
    asked = []
    for plan in ({"plan_id": 0, "rows": old}, {"version": 2, "plan_id": 0, "rows": new}):
        (path / "plans" / "0.json").write_text(json.dumps(plan))
        run = read_run(path)
        assert run.problems == []
        asked.append(asked_of(run).any(axis=0).tolist())
        assert bits(run) == [0, 4, 4, 4]
    assert asked == [[False, True, True, True]] * 2
    (path / "plans" / "0.json").write_text(json.dumps({"version": 3, "plan_id": 0, "rows": new}))
    [problem] = read_run(path).problems
    assert problem == "plan 0 has version 3, known are up to 2: left out"
