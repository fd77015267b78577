from __future__ import annotations

import re
from pathlib import Path

from gcdist.observe.logs import BYTES_A_MINUTE, WINDOW, LineBudget, WorkerLogs

STAMP = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d "


def test_a_budget_counts_anew_each_minute() -> None:
    budget = LineBudget(100)
    assert [budget.admit(0.0, 50), budget.admit(59.0, 50), budget.admit(59.0, 1)] == [True, True, False]
    assert not budget.admit(59.5, 0)  # once a minute is full it stays so: no line overtakes one that was left out
    assert budget.left_out == 2
    assert budget.admit(WINDOW, 100)


def test_each_worker_has_a_file_with_stamped_lines(tmp_path: Path) -> None:
    logs = WorkerLogs(tmp_path / "logs")
    logs.add(1, "joined")
    logs.add(3, "ValueError: no\nTraceback\n  frame")
    logs.add(1, "ä \ud800")  # not valid text, and no reason to fail
    logs.close()
    logs.add(1, "too late")
    first, second = (tmp_path / "logs" / "worker-1.log").read_text().splitlines()
    assert re.fullmatch(STAMP + "joined", first)
    assert re.fullmatch(STAMP + r"ä \?", second)
    assert re.fullmatch(
        STAMP + "ValueError: no\n    Traceback\n      frame\n", (tmp_path / "logs/worker-3.log").read_text()
    )


def test_a_worker_that_floods_is_cut_alone(tmp_path: Path) -> None:
    now = 0.0
    logs = WorkerLogs(tmp_path, clock=lambda: now)
    line = "x" * 1023
    for _ in range(1000):
        logs.add(1, line)
    logs.add(2, "unharmed")
    path = tmp_path / "worker-1.log"
    assert 1 <= path.stat().st_size / BYTES_A_MINUTE <= 2.1
    now = WINDOW
    logs.add(1, "later")
    told = path.read_text().splitlines()
    kept = sum(entry.endswith(line) for entry in told)
    assert re.fullmatch(STAMP + f"{1000 - kept} lines were left out here .*", told[-2])
    assert told[-1].endswith(" later")
    assert (tmp_path / "worker-2.log").read_text().endswith(" unharmed\n")


def test_what_was_left_out_last_is_told_at_the_end(tmp_path: Path) -> None:
    logs = WorkerLogs(tmp_path, clock=lambda: 0.0)
    for _ in range(3):
        logs.add(1, "x" * BYTES_A_MINUTE)
    logs.close()
    assert " 1 lines were left out here " in (tmp_path / "worker-1.log").read_text().splitlines()[-1]


def test_a_disk_that_takes_nothing_costs_the_lines_alone(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file where the folder should be")
    WorkerLogs(tmp_path / "logs").add(1, "joined")
