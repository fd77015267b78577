"""The command over all cases knows every case, and sees one that does not end as it should."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cases import CASES, SHARED, Case, main, run_case


@pytest.mark.skipif(not (SHARED / "cases").is_dir(), reason="no shared cases here")
def test_every_case_is_known() -> None:
    assert {case.name for case in CASES} == {path.name for path in (SHARED / "cases").iterdir() if path.is_dir()}


@pytest.mark.parametrize(("command", "good"), [("cat input", True), ("exit 3", False), ("cat nothing", False)])
def test_an_outcome_is_judged(tmp_path: Path, command: str, good: bool) -> None:
    (tmp_path / "cases" / "one").mkdir(parents=True)
    (tmp_path / "cases" / "one" / "input").write_text("well\n")
    case = Case("one", [command], "ends well", lambda folder, said, codes: codes == [0] and said == ["well\n"])
    assert run_case(case, tmp_path)[0] == good


def test_without_cases_there_is_nothing_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--shared", str(tmp_path)]) == 0
    assert "no cases" in capsys.readouterr().out
