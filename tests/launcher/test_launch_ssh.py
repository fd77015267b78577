"""`gcdist launch ssh` with real processes behind an ssh that stays on this machine (`fake_ssh`)."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gcdist.launcher.ssh import OPTIONS
from tests.launcher.conftest import LIMIT, SCRIPT, Launch, Launched

FAKE_SSH = Path(__file__).with_name("fake_ssh")
LaunchSsh = Callable[..., Launched]


@pytest.fixture
def launch_ssh(launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LaunchSsh:
    """``launch_ssh("a workers=2\nb", "--", "program")``: a hosts file, options, and the command."""
    monkeypatch.setenv("LAUNCH_TEST", str(tmp_path))
    python = shlex.quote(sys.executable)

    def go(hosts: str, *arguments: str) -> Launched:
        file = tmp_path / "hosts"
        lines = [f"{line} python={python} workdir={tmp_path}" for line in hosts.splitlines()]
        file.write_text("\n".join(lines))
        return launch("ssh", "--ssh", str(FAKE_SSH), "--hosts", str(file), *arguments)

    return go


def left_of(folder: Path) -> list[int]:
    """Live processes on the "hosts": those that the far end of fake_ssh has marked."""
    found = []
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if f"FAR_END_OF={folder}".encode() in environ and state not in "ZX":
            found.append(int(pid))
    return found


def gone(folder: Path) -> bool:
    give_up = time.monotonic() + LIMIT
    while left_of(folder) and time.monotonic() < give_up:
        time.sleep(0.05)
    return not left_of(folder)


def ssh_processes(launched: Launched, host: str) -> list[int]:
    """Its ssh processes to a host."""
    found = []
    for pid in launched.left():
        words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        if str(FAKE_SSH) in words and host in words:
            found.append(pid)
    return found


def test_a_run_over_ssh_gets_a_killed_worker_back_and_finishes(launch_ssh: LaunchSsh, tmp_path: Path) -> None:
    launched = launch_ssh("a\nb", "--", sys.executable, str(SCRIPT), "2000")
    launched.until(lambda: "under way" in launched.out.read_text())
    before = [launched.pids(rank) for rank in range(3)]
    os.kill(before[2][0], signal.SIGKILL)
    assert launched.wait() == 0, launched.err.read_text()
    assert launched.out.read_text().splitlines() == ["under way", "all are back"]
    assert [launched.pids(0), launched.pids(1)] == before[:2]  # nobody else was touched
    assert len(launched.pids(2)) == 2
    assert "worker 2 was killed by SIGKILL; starting it again in 0.5 s" in launched.err.read_text()
    assert launched.left() == []
    assert gone(tmp_path)


def test_no_shell_touches_arguments_variables_and_what_a_rank_is_told(
    launch_ssh: LaunchSsh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GCDIST_SECRET", "se'cret\"\\")
    monkeypatch.setenv("OTHER", "stays here")
    nasty = ['a"b', "c'd", "$HOME `x` $(y) \\", "!! *", "", "line\nbreak", "--", "é;&|<>"]
    script = tmp_path / "told.py"
    script.write_text(
        "import json, os, sys\n"
        "names = 'RANK LOCAL_RANK LOCAL_WORLD_SIZE WORLD_SIZE MASTER_ADDR GCDIST_SECRET NOTE OTHER'.split()\n"
        "told = [os.environ.get(name) for name in names]\n"
        "open(f'told{told[0]}', 'w').write(json.dumps([os.getcwd(), told[1:], sys.argv[1:]]))\n"
        "while told[0] == '0' and not all(os.path.exists(f'../told{rank}') for rank in (1, 2, 3)): pass\n"
    )
    hosts = "a workers=2 env.NOTE='x $y\"'\nb"
    launched = launch_ssh(hosts, "--", sys.executable, str(script), *nasty)
    assert launched.wait() == 0, launched.err.read_text()
    told = [json.loads((tmp_path / f"told{rank}").read_text()) for rank in (1, 2, 3)]
    secret = os.environ["GCDIST_SECRET"]
    assert told == [
        [str(tmp_path), ["0", "2", "4", "127.0.0.1", secret, 'x $y"', None], nasty],
        [str(tmp_path), ["1", "2", "4", "127.0.0.1", secret, 'x $y"', None], nasty],
        [str(tmp_path), ["0", "1", "4", "127.0.0.1", secret, None, None], nasty],
    ]


def test_lines_come_with_host_and_rank_and_the_master_s_as_they_are(launch_ssh: LaunchSsh) -> None:
    launched = launch_ssh(
        "a\nb", "--master", "b", "--", "sh", "-c", "echo $RANK; test $RANK != 0 || sleep 1; printf half >&2"
    )
    assert launched.wait() == 0, launched.err.read_text()
    assert launched.out.read_text() == "0\n"
    err = launched.err.read_text().splitlines()
    assert sorted(line for line in err if line.endswith("half")) == ["[a worker 1] half", "[b worker 2] half", "half"]
    assert {"[a worker 1] 1", "[b worker 2] 2"} < set(err)


@pytest.mark.parametrize(
    "master", [pytest.param([], marks=pytest.mark.slow, id="here"), pytest.param(["--master", "a"], id="elsewhere")]
)
def test_a_signal_at_the_launcher_ends_the_run_in_order(
    launch_ssh: LaunchSsh, tmp_path: Path, master: list[str]
) -> None:
    launched = launch_ssh("a\nb", *master, "--", sys.executable, str(SCRIPT), "100000")
    launched.until(lambda: "under way" in launched.out.read_text())
    os.kill(launched.process.pid, signal.SIGINT)
    assert launched.wait() == 130, launched.err.read_text()
    err = launched.err.read_text()
    assert "SIGINT: asking the master to end" in err
    assert "Traceback" not in err
    assert "was killed" not in err
    assert launched.left() == []
    assert left_of(tmp_path) == []


def test_a_broken_connection_ends_its_process_and_is_made_again(launch_ssh: LaunchSsh, tmp_path: Path) -> None:
    script = "test $RANK = 0 && exec sleep 600; echo $$ >> lives; sleep 600 & sleep 600"
    launched = launch_ssh("a", "--", "sh", "-c", script)
    lives = tmp_path / "lives"
    launched.until(lambda: lives.exists() and len(left_of(tmp_path)) >= 4)
    [ssh] = ssh_processes(launched, "a")
    os.kill(ssh, signal.SIGKILL)
    launched.until(lambda: len(launched.pids(1)) == 2 and len(lives.read_text().split()) == 2)
    err = launched.err.read_text()
    assert "worker 1 has lost its connection; starting it again in 0.5 s" in err
    first, second = map(int, lives.read_text().split())
    assert first not in left_of(tmp_path)
    assert second in left_of(tmp_path)
    os.kill(launched.process.pid, signal.SIGTERM)
    assert launched.wait() == 143
    assert gone(tmp_path)


def test_a_killed_launcher_leaves_nothing_on_the_hosts(launch_ssh: LaunchSsh, tmp_path: Path) -> None:
    launched = launch_ssh("a\nb", "--", "sh", "-c", "sleep 600 & sleep 600; true")
    launched.until(lambda: len(launched.pids(1) + launched.pids(2)) == 2)
    os.kill(launched.process.pid, signal.SIGKILL)
    launched.process.wait(LIMIT)
    assert gone(tmp_path)


def test_a_host_that_is_not_reached_is_given_up_and_the_run_goes_on(launch_ssh: LaunchSsh) -> None:
    launched = launch_ssh("a\nnowhere", "--max-restarts", "1", "--", "sh", "-c", "test $RANK != 0 || sleep 3")
    assert launched.wait() == 0
    err = launched.err.read_text()
    assert "[nowhere worker 2] ssh: connect to host nowhere port 22: No route to host" in err
    assert "worker 2 could not be reached; starting it again in 0.5 s" in err
    assert "worker 2 could not be reached; it is given up: no restart is left" in err


def test_a_command_that_a_host_does_not_have(launch_ssh: LaunchSsh) -> None:
    launched = launch_ssh("a", "--master", "a", "--", "no-such-program")
    assert launched.wait() == 2
    node = os.uname().nodename
    assert f"gcdist launch: {node}: 'no-such-program' is not found or not executable" in launched.err.read_text()


@pytest.mark.parametrize(
    ("hosts", "options", "code", "line"),
    [
        ("a workers=0", [], 127, "gcdist launch: a: workers=0; only the host of --master can be without workers"),
        ("a workers=0", ["--master", "a"], 127, "gcdist launch: the hosts have no worker; at least one is needed"),
        ("a", ["--master", "b"], 127, "gcdist launch: --master: found 'b'; the hosts file has a"),
        ("a", ["--port", "70000"], 2, "gcdist: launch ssh --port: found 70000; should be 65535 or less"),
        ("a", ["--ssh", "no-such-ssh"], 127, "gcdist launch: 'no-such-ssh' is not found or not executable"),
        ("a", ["--ssh", "ssh '"], 2, "gcdist: launch ssh --ssh: found \"ssh '\": No closing quotation"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(launch_ssh: LaunchSsh, hosts: str, options: list[str], code: int, line: str) -> None:
    launched = launch_ssh(hosts, *options, "--", "true")
    assert launched.wait() == code
    assert launched.err.read_text() == line + "\n"


def test_ssh_never_asks_and_notices_a_dead_line() -> None:
    assert "-oBatchMode=yes" in OPTIONS
    assert "-oServerAliveInterval=5" in OPTIONS
