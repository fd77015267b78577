"""Signals that reach a run by several ways at once: one wish, one checkpoint, an end in order."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from gcdist.observe import read_metrics
from gcdist.run.checkpoint import read_checkpoint
from tests.launcher.conftest import Launch, Launched

TERM, INT, HUP = signal.SIGTERM, signal.SIGINT, signal.SIGHUP


def group(launched: Launched, number: int) -> None:
    """As `timeout`, a control group's stop or a terminal does: launcher and master are in one group."""
    os.killpg(launched.process.pid, number)


def twice(launched: Launched, number: int) -> None:
    os.kill(launched.pids(0)[0], number)
    os.kill(launched.pids(0)[0], number)
    os.kill(launched.process.pid, number)


def launcher(launched: Launched, number: int) -> None:
    os.kill(launched.process.pid, number)


def master(launched: Launched, number: int) -> None:
    os.kill(launched.pids(0)[0], number)


WAYS = [
    (group, TERM, 143),
    (master, HUP, 129),
    *(
        pytest.param(way, number, code, marks=pytest.mark.slow)
        for way, number, code in (
            (group, INT, 130),
            (group, HUP, 129),
            (launcher, HUP, 143),
            (launcher, TERM, 143),
            (twice, INT, 130),
            (twice, TERM, 143),
        )
    ),
]


@pytest.mark.parametrize(("way", "number", "code"), WAYS)
def test_one_wish_leaves_one_checkpoint(launch: Launch, tmp_path: Path, way: object, number: int, code: int) -> None:
    config = tmp_path / "config.toml"
    run = tmp_path / "run"
    config.write_text('steps = 100000\n[task.options]\nmodel = "mlp"\n[straggler]\ndeadline = 0.5\n')
    train = [sys.executable, "-m", "gcdist", "train", str(config), "--resume", str(run)]
    launched = launch("local", "-n", "2", "--restart-master", "3", "--", *train)
    launched.until(lambda: "step 1/" in launched.out.read_text())
    assert callable(way)
    way(launched, number)
    assert launched.wait() == code, launched.err.read_text()
    assert len(launched.pids(0)) == 1  # somebody's wish is no death: it was not started again
    [checkpoint] = (run / "checkpoints").iterdir()
    assert read_checkpoint(checkpoint).step == len(read_metrics(run))
    err = launched.err.read_text()
    assert "Traceback" not in err
    assert "the same command goes on" in err.splitlines()[-1]
    assert launched.left() == []


@pytest.mark.slow
def test_timeout_of_the_shell_leaves_a_checkpoint(launch: Launch, tmp_path: Path) -> None:
    """`timeout` sends its signal to the launcher and then to its whole group."""
    config, run = tmp_path / "config.toml", tmp_path / "run"
    config.write_text('steps = 100000\n[task.options]\nmodel = "mlp"\n[straggler]\ndeadline = 0.5\n')
    gcdist = f'"{sys.executable}" -m gcdist'
    inner = f'timeout 40 {gcdist} launch local -n 2 -- {gcdist} train "{config}" --resume "{run}"'
    launched = launch("local", "-n", "1", "--", "sh", "-c", f"test $RANK = 0 || exec sleep 600; {inner}; echo ended $?")
    launched.until(lambda: "ended " in launched.out.read_text())
    assert "ended 124" in launched.out.read_text()
    [checkpoint] = (run / "checkpoints").iterdir()
    assert read_checkpoint(checkpoint).step == len(read_metrics(run)) > 0
