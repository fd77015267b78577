from __future__ import annotations

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_array

from gcdist.observe import RunFolder, read_lines, read_metrics
from gcdist.types import Plan


def plan() -> Plan:
    A_RK = csr_array(np.array([[0.5, 0.0], [0.5, 1.0]]))
    bits = np.full((2, 1), 4, np.uint8)
    return Plan(7, A_RK, np.array([0, 1]), bits, np.array([0.1, 0.2]), np.array([True, True]))


def test_a_run_is_read_back(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "a" / "run") as folder:
        folder.write_config("steps = 3\n")
        folder.write_plan(plan(), noise=0.25)
        for step in range(3):
            folder.step(step, loss=np.float32(0.5), arrived=np.array([1, 2]), deadline=float("inf"))
        folder.event("replan", "worker 3 is gone", workers=2)
        folder.write_summary({"accuracy": 0.97, "folder": folder.path})
    path = tmp_path / "a" / "run"
    assert tomllib.loads((path / "config.toml").read_text()) == {"steps": 3}
    written = json.loads((path / "plans" / "7.json").read_text())
    assert written["rows"][1] == {"worker": 2, "parts": [[0, 0.5], [1, 1.0]], "bits": [4], "p": 0.2}
    assert (written["noise"], written["uncovered"]) == (0.25, [])
    assert read_metrics(path)[2] == {"step": 2, "loss": 0.5, "arrived": [1, 2], "deadline": None}
    [event] = read_lines(path / "events.jsonl")
    assert event.pop("time") > 0
    assert event == {"step": 2, "kind": "replan", "text": "worker 3 is gone", "workers": 2}
    assert json.loads((path / "summary.json").read_text())["folder"] == str(path)
    assert not list(path.rglob("*.part"))


def test_a_line_is_on_disk_at_once(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.step(0, loss=1.0)
    assert len(read_metrics(tmp_path)) == 1
    folder.close()
    folder.close()


def test_half_lines_are_ignored_and_cut_off_on_resume(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as folder:
        folder.step(0, loss=1.0)
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(b'{"step":1,"lo')
    assert [line["step"] for line in read_metrics(tmp_path)] == [0]
    with RunFolder(tmp_path, resume=True) as folder:
        folder.step(1, loss=2.0)
    assert [line["loss"] for line in read_metrics(tmp_path)] == [1.0, 2.0]


def test_a_second_run_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    RunFolder(tmp_path).close()
    with pytest.raises(ValueError, match="already holds a run"):
        RunFolder(tmp_path)


def test_a_run_is_taken_back_to_a_step(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as folder:
        for step in range(6):
            folder.step(step, loss=0.1 * step, arrived=[1])
            if step % 2:
                folder.evaluation(step + 1, 0.5 * step, 0.1, {"accuracy": 0.5})
        folder.write_summary({})
    before = (tmp_path / "metrics.jsonl").read_bytes().splitlines()
    with RunFolder(tmp_path, resume=True) as folder:
        folder.rewind(4)
        assert (tmp_path / "metrics.jsonl").read_bytes().splitlines() == before[:4]
        assert [line["step"] for line in read_lines(tmp_path / "evaluations.jsonl")] == [2, 4]
        folder.step(4, loss=1.0)
    assert [line["step"] for line in read_metrics(tmp_path)] == list(range(5))
    assert not (tmp_path / "summary.json").exists()
