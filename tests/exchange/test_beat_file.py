"""The file that tells a container engine that the process lives."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from gcdist.exchange.beat_file import beat_file
from tests.conftest import Start


def test_the_file_is_touched_until_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "beat"
    monkeypatch.setenv("GCDIST_BEAT_FILE", str(file))
    end = beat_file(0.01)
    give_up = time.monotonic() + 60.0
    for _ in range(2):
        os.utime(file, (0, 0))
        while file.stat().st_mtime == 0:
            assert time.monotonic() < give_up
            time.sleep(0.005)
    end()
    os.utime(file, (0, 0))
    assert file.stat().st_mtime == 0


def test_without_the_variable_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GCDIST_BEAT_FILE", raising=False)
    beat_file(0.01)()


def test_a_file_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GCDIST_BEAT_FILE", str(tmp_path / "none" / "beat"))
    with pytest.raises(
        ValueError, match=r"^GCDIST_BEAT_FILE: .*/none/beat cannot be written: No such file or directory$"
    ):
        beat_file(1.0)


def test_master_and_workers_have_a_beat(tmp_path: Path, start: Start) -> None:
    (tmp_path / "config.toml").write_text('steps = 3\nout = "runs"\n[cluster]\nbeat = 0.1\n')
    (tmp_path / "beats").mkdir()
    script = tmp_path / "beating.py"
    script.write_text(
        "import os, sys, gcdist.cli\n"
        "os.environ['GCDIST_BEAT_FILE'] = f\"beats/{os.environ['RANK']}\"\n"
        "gcdist.cli.main(['train', 'config.toml'])\n"
    )
    cluster = start([str(script)], ranks=3)
    assert cluster.wait(120.0) == [0, 0, 0], cluster.output(0)
    assert sorted(file.name for file in (tmp_path / "beats").iterdir()) == ["0", "1", "2"]
