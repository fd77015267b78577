"""Several runs in one process, and a worker that is lost in the second one: it finds its place again."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from tests.launcher.conftest import Launch

SCRIPT = Path(__file__).with_name("two_runs_script.py")


@pytest.mark.parametrize("plane", ["gloo", "tls"])
def test_two_runs_in_one_process(launch: Launch, monkeypatch: pytest.MonkeyPatch, plane: str) -> None:
    monkeypatch.setenv("PLANE", plane)
    monkeypatch.setenv("GCDIST_SECRET", "one two three four five six")
    launched = launch("local", "-n", "2", "--", sys.executable, str(SCRIPT))
    launched.until(lambda: "second under way" in launched.out.read_text())
    os.kill(launched.pids(2)[0], signal.SIGKILL)  # its next life begins with the first run, which is over
    assert launched.wait() == 0, launched.err.read_text()
    assert launched.out.read_text().splitlines() == ["fold 0 is over", "second under way", "fold 1 is over"]
    assert len(launched.pids(1)) == 1
    assert "Traceback" not in launched.err.read_text()
    assert launched.left() == []
