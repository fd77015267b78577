"""Files that an editor saved with a byte order mark, as UTF-16, or with another separator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gcdist.config import Config, ConfigError, load_config
from gcdist.launcher.hosts import HostsError, read_hosts
from gcdist.straggler import load_delays, read_trace

SAVED = ["utf-8", "utf-8-sig"]


@pytest.mark.parametrize("encoding", SAVED)
def test_every_file_of_a_user_is_read_with_a_mark_or_without(
    tmp_path: Path, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(text, encoding=encoding, newline="\r\n")
        return path

    assert load_config(write("run.toml", "steps = 2\n[cluster]\nworkers = 2\n")).steps == 2
    assert [host.name for host in read_hosts(write("hosts", "node1 workers=2\nnode2\n"))] == ["node1", "node2"]
    trace = write("trace.csv", "round,a,b\n0,0.5,1\n1,0.25,2\n")
    assert np.array_equal(read_trace(trace), [[0.5, 1], [0.25, 2]])
    _, workers = load_delays(write("delays.toml", 'workers = 2\nmodel = "trace"\nfile = "trace.csv"\n'))
    assert workers == 2
    secret = write("key", "sesame of sixteen\n")
    assert Config(cluster={"secret_file": str(secret)}).cluster.shared_secret() == "sesame of sixteen"
    assert _plan(["--p-file", str(write("p.txt", "0.1\n0.5\n"))], monkeypatch) == 0


def _plan(words: list[str], monkeypatch: pytest.MonkeyPatch) -> int | str | None:
    from gcdist.cli import main

    with pytest.raises(SystemExit) as ended:
        main(["plan", *words, "--bits-total", "8", "--noise", "power:D=2"])
    return ended.value.code


def test_text_that_is_not_utf_8_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "file"
    path.write_text("steps = 2\n", encoding="utf-16")  # as an older PowerShell redirects
    with pytest.raises(ConfigError, match=r"file: cannot be read: it is not UTF-8 text; save it as UTF-8$"):
        load_config(path)
    with pytest.raises(ValueError, match=r"file: .*/file is not UTF-8 text; save it as CSV in UTF-8$"):
        read_trace(path)
    with pytest.raises(ValueError, match=r"/file: is not UTF-8 text; save it as UTF-8$"):
        load_delays(path)
    with pytest.raises(HostsError, match="file: not a text file"):
        read_hosts(path)
    assert _plan(["--p-file", str(path)], monkeypatch) == 2
    assert "file is not UTF-8 text; save it as UTF-8" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "mark"),
    [("round;a;b\n0;0,5;1\n", ";"), ("sep=;\nround;a\n", ";"), ("round\ta\n0\t1\n", r"\\t"), ("a|b\n", "\\|")],
)
def test_a_csv_with_another_separator_is_one_line(tmp_path: Path, text: str, mark: str) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(text)
    with pytest.raises(
        ValueError, match=rf"line 1: its columns are separated by '{mark}'; should be by commas, with decimal points: "
    ) as caught:
        read_trace(path)
    assert "\n" not in str(caught.value)
