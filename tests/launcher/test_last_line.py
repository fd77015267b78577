"""The last line of a run: why it has ended, where its checkpoint is, how it goes on. Nobody waits for what cannot come."""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path

import pytest

from tests.launcher.conftest import Launch

SCRIPT = Path(__file__).with_name("ending_script.py")
NEWEST = r"the newest checkpoint is runs/run/checkpoints/step-0+\d+; it goes on with resume='runs/run' in the script"


@pytest.mark.parametrize(
    ("how", "code", "last"),
    [
        ("loop", 1, rf"the master ended with ConnectionError: the tracker is down, after 6 steps; {NEWEST}"),
        (
            "refused",
            1,
            r"a worker was refused before the first step: worker 2 differs in its model \(.*\): '\w+', the .*",
        ),
        ("mistake", 2, r"worker 2: cluster\.secret_file: .*nowhere.*"),
        ("loss", 1, r"partition \d failed 3 times in a row: worker \d: ValueError: a bad batch \(step .*"),
    ],
)
def test_the_reason_is_the_last_line(launch: Launch, how: str, code: int, last: str) -> None:
    launched = launch("local", "-n", "2", "--", sys.executable, str(SCRIPT), how)
    assert launched.wait() == code, launched.err.read_text()
    err = launched.err.read_text()
    line = err.splitlines()[-1]
    assert re.fullmatch(rf"gcdist launch: the run has ended with exit code {code}: {last}", line), err
    assert "gcdist join: waiting for" not in err
    assert "frame #" not in err  # of C++
    if how == "loss":
        assert err.count(", in loss\n") == 1  # the traceback, once
    assert launched.left() == []


def test_an_error_before_the_run_is_seen_at_once(launch: Launch) -> None:
    launched = launch("local", "-n", "2", "--", sys.executable, str(SCRIPT), "start")
    assert launched.wait() == 1
    *above, last = launched.err.read_text().splitlines()
    assert last == "gcdist launch: the master ended with exit code 1"
    assert "OSError: no data at the master" in above


def test_a_stopped_and_a_killed_run_say_how_to_go_on(launch: Launch, tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    config.write_text(
        'steps = 100000\nout = "runs"\nname = "run"\n[task.options]\nmodel = "mlp"\n[checkpoint]\nevery = 1\n'
    )
    command = ("local", "-n", "2", "--", sys.executable, "-m", "gcdist", "train", str(config))
    again = f"it goes on with: gcdist launch {' '.join(command)} --resume runs/run"
    for number, code, why in (
        (signal.SIGTERM, 143, r"stopped by SIGTERM, after \d+ steps; the newest checkpoint is \S+/step-0*\d+; "),
        (signal.SIGKILL, 137, r"the master died; its run folder is runs/run; "),
    ):
        launched = launch(*command)
        launched.until(lambda: list(launched.out.parent.glob("runs/run/checkpoints/step-*")))  # noqa: B023
        os.kill(launched.pids(0)[0], number)
        assert launched.wait() == code
        last = launched.err.read_text().splitlines()[-1]
        assert re.fullmatch(f"gcdist launch: the run has ended with exit code {code}: {why}{re.escape(again)}", last), (
            last
        )
