"""The command: what it prints, its exit codes, and what it refuses."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from gcdist.cli import main
from gcdist.commands.doctor import _place

Ask = Callable[..., tuple[int, str, str]]


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Ask:
    for name in ("MASTER_ADDR", "MASTER_PORT", "RANK", "GCDIST_SECRET", "GLOO_SOCKET_IFNAME", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)

    def go(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main(["doctor", *words])
        told = capsys.readouterr()
        assert isinstance(end.value.code, int)
        return end.value.code, told.out, told.err

    return go


def test_this_machine_by_itself(ask: Ask) -> None:
    code, out, _ = ask("--json")
    said = json.loads(out)
    assert code == int(said["verdict"] == "fail")
    assert {"versions", "memory", "kernel cache", "own name", "gloo's interface"} <= {
        each["check"] for each in said["findings"]
    }


def test_a_port_in_use_and_the_exit_code(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        monkeypatch.setenv("MASTER_PORT", str(port))
        code, out, _ = ask()
    assert code == 1
    assert f"127.0.0.1:{port} cannot be listened on: it is in use" in out
    assert "fix: ss -ltnp" in out


def test_nobody_serves(ask: Ask) -> None:
    with socket.socket() as bound:  # bound and not listening: refused
        bound.bind(("127.0.0.1", 0))
        code, out, _ = ask("--connect", f"127.0.0.1:{bound.getsockname()[1]}", "--json")
    assert code == 1
    [reach] = [each for each in json.loads(out)["findings"] if each["check"] == "reach"]
    assert reach["text"].split(": ")[1].startswith("refused")


def test_the_verdict_on_a_table(ask: Ask, tmp_path: Path) -> None:
    table = tmp_path / "times.csv"
    rows = "".join(f"{i},{1000 + i % 3},{1000 + i % 2},{9000 + i % 5}\n" for i in range(60))
    table.write_text(f"round,a,b,c\n{rows}")
    code, out, _ = ask("--trace", str(table), "--trace-unit", "0.001", "--json")
    said = json.loads(out)
    assert code == 0
    assert said["coding"]["answer"] == "yes"
    assert said["coding"]["wait"] == pytest.approx(9.0, abs=0.01)
    assert len(said["findings"]) == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--connect", "a", "--serve", "b"], "not both"),
        (["--connect", "a:99999"], "should be HOST or HOST:PORT"),
        (["--serve", ":5"], "should be HOST or HOST:PORT"),
        (["--count", "2"], "with --serve"),
        (["--run", "/nowhere", "--trace", "x"], "give one of --run, --trace and --probe"),
        (["-n", "3"], "should be 2 or more, with --probe"),
        (["--probe", "/nowhere.toml"], "/nowhere.toml"),
        (["--run", "/nowhere"], "doctor: /nowhere/trace.json cannot be read"),
        (["--trace", "x", "--trace-unit", "0"], "seconds above 0"),
    ],
)
def test_a_mistake_is_one_line(ask: Ask, words: list[str], says: str) -> None:
    code, _, err = ask(*words)
    assert code == 2
    assert says in err
    assert len(err.splitlines()) == 1


def test_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MASTER_PORT", raising=False)
    assert _place("--connect", "node0") == ("node0", 29500)
    assert _place("--connect", "node0:7") == ("node0", 7)
    monkeypatch.setenv("MASTER_PORT", "31000")
    assert _place("--connect", "node0") == ("node0", 31000)
    assert _place("--connect", "fe80::1") == ("fe80::1", 31000)
    assert _place("--connect", None) is None
