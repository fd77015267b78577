"""`gcdist report`, `gcdist runs` and `gcdist watch` as users call them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gcdist.cli import main
from tests.report.made_runs import made_run


def run(*words: object) -> None:
    """A command that ends well."""
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    assert ended.value.code in (None, 0)


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    assert ended.value.code == 2
    text = capsys.readouterr().err
    assert "Traceback" not in text
    return text


def test_report_prints_the_verdict_and_writes_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = made_run(tmp_path / "run", 40, 6, slow_link=4)
    run("report", path)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("Worker 4 needs a look.")
    assert lines[1].startswith("Worker 4 is slow because of its link: 200 kbit/s")
    assert lines[-1] == f"report: {path / 'report.html'}"
    assert (path / "report.html").read_text().startswith("<!doctype html>")
    run("report", path, path, "--out", tmp_path / "both.html")
    assert (tmp_path / "both.html").exists()


def test_report_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = made_run(tmp_path / "run", 40, 6, slow=2)
    run("report", path, "--json")
    [found] = json.loads(capsys.readouterr().out)
    assert [(each["worker"], each["kind"]) for each in found["troubles"]] == [(2, "computing")]
    assert len(found["workers"]) == 6
    assert found["state"] == "done"
    assert not (path / "report.html").exists()


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, "report", tmp_path / "no") == f"gcdist: {tmp_path / 'no'}: no such folder\n"
    assert "no run is in this folder" in refused(capsys, "watch", tmp_path)
    assert refused(capsys, "runs", tmp_path / "no") == f"gcdist: {tmp_path / 'no'}: no such folder\n"
    path = made_run(tmp_path / "run", 40, 6)
    assert "--every: found 0; should be 0.05 to 3600" in refused(capsys, "watch", path, "--every", 0)
    out = tmp_path / "no" / "page.html"
    assert f"report: {out} cannot be written" in refused(capsys, "report", path, "--out", out)


def test_runs_lists_what_there_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made_run(tmp_path / "first", 10, 2)
    halted = made_run(tmp_path / "second", 5, 2)
    (halted / "summary.json").unlink()
    events = halted / "events.jsonl"
    events.write_text(
        events.read_text().replace('"finished":true', '"finished":false').replace("the run is over", "[gone]")
    )
    (tmp_path / "other").mkdir()
    run("runs", tmp_path)
    text = capsys.readouterr().out
    assert "halted: [gone]" in text
    assert "10/10" in text
    run("runs", tmp_path, "--json")
    rows = json.loads(capsys.readouterr().out)
    assert [(row["steps"], row["workers"], row["state"], row["why"]) for row in rows] == [
        (10, 2, "done", ""),
        (5, 2, "halted", "[gone]"),
    ]


def test_watch_shows_a_run_until_its_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = made_run(tmp_path / "run", 40, 6, slow_link=4)
    run("watch", path, "--every", 0.05)
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("step 40/40  loss ") for line in lines)
    assert "members: worker 1 joined" in lines
    assert any(line.startswith("Worker 4 is slow because of its link") for line in lines)
    assert "the run is done" in lines
    run("watch", path, "--once")
    text = capsys.readouterr().out
    assert "at the worker" in text
    assert "needs a look" in text
    run("watch", path, "--once", "--json")
    assert json.loads(capsys.readouterr().out)["step"] == 39
    run("watch", path, "--json")
    assert len(capsys.readouterr().out.splitlines()) == 40


def test_watch_says_that_a_clock_is_virtual(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = made_run(tmp_path / "run", 40, 6)
    run("watch", path)
    assert "virtual" not in capsys.readouterr().out
    (path / "summary.json").unlink()  # as while it runs
    events = path / "events.jsonl"
    events.write_text('{"kind": "clock", "text": "", "virtual": true}\n' + events.read_text())
    for words in ((), ("--once",)):
        run("watch", path, *words)
        text = " ".join(capsys.readouterr().out.split())
        assert "20.0 s virtual" in text
        assert "steps/s" not in text  # the folder tells no real time


def test_runs_names_a_scripts_task_by_its_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = made_run(tmp_path / "run", 10, 2)
    for name, shown in (("script:/home/me/train.py", "train.py"), ("script:-", "a script"), ("digits", "digits")):
        (path / "config.toml").write_text(f"[task]\nname = {name!r}\n")
        run("runs", path, "--json")
        assert json.loads(capsys.readouterr().out)[0]["task"] == shown


@pytest.mark.parametrize("command", ["report", "runs", "watch"])
def test_help_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    run(command, "--help")
    assert f"Example: gcdist {command}" in capsys.readouterr().out
