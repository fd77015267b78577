"""`gcdist launch local` with real processes: deaths, signals, and that nothing is left."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.launcher.conftest import LIMIT, SCRIPT, Launch


def test_a_killed_worker_comes_back_and_the_run_finishes(launch: Launch) -> None:
    launched = launch("local", "-n", "2", "--", sys.executable, str(SCRIPT), "2000")
    launched.until(lambda: "under way" in launched.out.read_text())
    before = [launched.pids(rank) for rank in range(3)]
    os.kill(before[2][0], signal.SIGKILL)
    assert launched.wait() == 0, launched.err.read_text()
    assert launched.out.read_text().splitlines() == ["under way", "all are back"]
    assert [launched.pids(0), launched.pids(1)] == before[:2]  # nobody else was touched
    assert len(launched.pids(2)) == 2
    assert "worker 2 was killed by SIGKILL; starting it again in 0.5 s" in launched.err.read_text()
    assert launched.left() == []  # nor the processes that the ranks had started


def test_a_signal_at_the_launcher_ends_the_run_in_order(launch: Launch) -> None:
    launched = launch("local", "-n", "2", "--", sys.executable, str(SCRIPT), "100000")
    launched.until(lambda: "under way" in launched.out.read_text())
    os.kill(launched.process.pid, signal.SIGINT)
    assert launched.wait() == 130, launched.err.read_text()
    err = launched.err.read_text()
    assert "SIGINT: asking the master to end" in err
    assert "Traceback" not in err
    assert "was killed" not in err
    assert launched.left() == []


def test_a_killed_launcher_leaves_nothing_behind(launch: Launch) -> None:
    # every child has a child, which no signal of its parent's death would reach
    launched = launch("local", "-n", "2", "--", "sh", "-c", "sleep 600 & sleep 600; true")
    launched.until(lambda: len(launched.left()) == 11)  # launcher, guard, three shells, six sleepers
    os.kill(launched.process.pid, signal.SIGKILL)
    launched.process.wait(LIMIT)
    give_up = time.monotonic() + LIMIT
    while launched.left() and time.monotonic() < give_up:
        time.sleep(0.05)
    assert launched.left() == []


def test_what_the_children_are_told_and_where_their_lines_go(launch: Launch) -> None:
    told = "echo $RANK $WORLD_SIZE $LOCAL_RANK $LOCAL_WORLD_SIZE $MASTER_ADDR $OMP_NUM_THREADS; printf half; sleep 1"
    launched = launch("local", "-n", "2", "--", "sh", "-c", told)
    assert launched.wait() == 0
    threads = os.environ.get("OMP_NUM_THREADS", "1")
    assert launched.out.read_text() == f"0 3 0 3 127.0.0.1 {threads}\nhalf"
    err = launched.err.read_text().splitlines()
    for rank in (1, 2):
        mine = [line for line in err if line.startswith(f"[worker {rank}] ")]
        assert mine == [f"[worker {rank}] {rank} 3 {rank} 3 127.0.0.1 {threads}", f"[worker {rank}] half"]


def test_a_worker_s_orphans_go_before_it_is_started_again(launch: Launch) -> None:
    worker = "echo here; sleep 600 & test -e again && exec sleep 600; touch again; exit 3"
    script = f"test $RANK = 0 && exec sleep 600; {worker}"
    launched = launch("local", "-n", "1", "--", "sh", "-c", script)
    launched.until(lambda: len(launched.pids(1)) == 2 and launched.err.read_text().count("[worker 1]") == 2)
    launched.until(lambda: len(launched.left()) == 5)  # launcher, guard, master, worker and its one sleeper
    os.kill(launched.process.pid, signal.SIGTERM)
    assert launched.wait() == 143
    assert launched.left() == []


def test_a_master_is_started_again_if_that_is_wanted(launch: Launch) -> None:
    script = "test $RANK = 0 || exec sleep 600; echo $MASTER_PORT; test -e again && exit 0; touch again; exit 1"
    launched = launch("local", "-n", "1", "--restart-master", "1", "--", "sh", "-c", script)
    assert launched.wait() == 0
    first, second = launched.out.read_text().split()
    assert first == second
    assert len(launched.pids(1)) == 1  # the worker stayed


def test_a_refused_worker_stays_away(launch: Launch, tmp_path: Path) -> None:
    script = tmp_path / "mismatch.py"
    script.write_text(
        "import os, sys, torch, gcdist\n"
        "from pathlib import Path\n"
        "from torch import nn\n"
        "from torch.utils.data import TensorDataset\n"
        "wide = 4 if os.environ['RANK'] == '2' else 3\n"
        "if wide == 4:\n"
        "    Path('two').write_text(str(os.getpid()))\n"
        "task = gcdist.Task(nn.Linear(wide, 1), TensorDataset(torch.ones(8, wide)), lambda m, b: m(b[0]).mean())\n"
        "config = gcdist.Config(cluster={'start_timeout': 1.0, 'min_workers': 1})\n"
        "with gcdist.connect(task, config) as cluster:\n"
        "    for step in cluster.steps(100_000):\n"
        "        live = step.backward().live\n"
        "        if '\"refuse\"' in (cluster.folder.path / 'events.jsonl').read_text():\n"
        "            if not Path('/proc', Path('two').read_text()).exists():  # the launcher has seen its end\n"
        "                break\n"
        "    print(live)\n"
    )
    launched = launch("local", "-n", "2", "--", sys.executable, str(script))
    assert launched.wait() == 0, launched.err.read_text()
    err = launched.err.read_text()
    assert launched.out.read_text() == "1\n"
    assert "worker 2 ended with exit code 2 (refused, or bad input); it is not started again" in err
    assert "[worker 2] gcdist worker rank2: the master refused this worker: " in err
    assert "gcdist refuse: " in err
    assert "model (names, shapes, dtypes, requires_grad or buffers)" in err
    assert len(launched.pids(2)) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (
            ["-n", "2"],
            2,
            "gcdist: launch local: no command given; for example: gcdist launch local -n 8 -- python script.py",
        ),
        (["-n", "2", "--", "gcdist", "train", "no.toml"], 2, "gcdist: no.toml: no such file"),
        (
            ["-n", "2", "--", sys.executable, "-m", "gcdist", "train", "--set", "steps=0", "/dev/null"],
            2,
            "gcdist: /dev/null: steps: found 0; should be greater than or equal to 1",
        ),
        (["-n", "0", "--", "true"], 2, "gcdist: launch local -n: found 0; should be 1 or more"),
        (
            ["-n", "1", "--", "no-such-program"],
            127,
            "gcdist launch: 'no-such-program' is not found or not executable (a script needs its interpreter: python ...)",
        ),
    ],
)
def test_a_mistake_is_one_line(launch: Launch, arguments: list[str], code: int, line: str) -> None:
    launched = launch("local", *arguments)
    assert launched.wait() == code
    assert launched.err.read_text() == line + "\n"
