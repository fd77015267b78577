"""One static torchrun agent a process, through the file that users have."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

AGENT = Path(__file__).parents[2] / "launch" / "torchrun" / "agent.sh"
SCRIPT = Path(__file__).parents[1] / "launcher" / "training_script.py"
LIMIT = 150.0


@pytest.fixture
def agents(tmp_path: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    torchrun = tmp_path / "torchrun"
    torchrun.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m torch.distributed.run "$@"\n')
    torchrun.chmod(0o755)
    env = {**os.environ, "TORCHRUN": str(torchrun), "OMP_NUM_THREADS": "1", "PYTHONSAFEPATH": "1"}
    running = []
    for rank in range(3):
        command = [str(AGENT), str(rank), "3", "127.0.0.1", port, "--", sys.executable, str(SCRIPT), "2000"]
        with (tmp_path / f"out{rank}").open("wb") as out:
            running.append(
                subprocess.Popen(command, stdout=out, stderr=out, env=env, cwd=tmp_path, start_new_session=True)
            )
    yield running
    for agent in running:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(agent.pid, signal.SIGKILL)
        agent.wait()


@pytest.mark.slow
def test_a_death_restarts_that_worker_alone(agents: list[subprocess.Popen[bytes]], tmp_path: Path) -> None:
    def output(rank: int) -> str:
        return (tmp_path / f"out{rank}").read_text(errors="replace")

    give_up = time.monotonic() + LIMIT
    while "under way" not in output(0):
        assert agents[0].poll() is None, output(0)
        assert time.monotonic() < give_up, output(0)
        time.sleep(0.1)
    children = Path(f"/proc/{agents[2].pid}/task/{agents[2].pid}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGKILL)
    assert [agent.wait(LIMIT) for agent in agents] == [0, 0, 0], output(0)
    assert "all are back" in output(0)
    assert re.search(r"failed \(exitcode: -9\)", output(2))
    assert not re.search(r"failed \(exitcode", output(1))
    [run] = (tmp_path / "runs").iterdir()
    assert (run / "metrics.jsonl").exists()


@pytest.mark.parametrize("arguments", [[], ["0", "3", "node", "29500", "gcdist"]])
def test_a_mistake_is_one_line(arguments: list[str]) -> None:
    done = subprocess.run([AGENT, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "usage: agent.sh RANK WORLD_SIZE MASTER_ADDR MASTER_PORT -- COMMAND ...\n"
