"""What a disk refuses: when a line says so, what waits in memory, what is left out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from gcdist.observe.files import AGAIN_SECONDS, GrowingFile, Trouble


def test_a_line_comes_at_once_and_rarely_again() -> None:
    now, lines = [0.0], list[str]()
    trouble = Trouble(lines.append, clock=lambda: now[0])
    error = OSError(28, "No space left on device")
    for name in ("metrics.jsonl", "events.jsonl", "metrics.jsonl"):
        trouble.failed(name, error)
    assert len(lines) == 1
    now[0] = AGAIN_SECONDS - 1.0
    trouble.failed("metrics.jsonl", error)
    assert len(lines) == 1
    now[0] = AGAIN_SECONDS
    trouble.failed("metrics.jsonl", error)
    assert lines[1].startswith("events.jsonl, metrics.jsonl: not written (No space left on device)")
    trouble.wrote("metrics.jsonl")
    assert len(lines) == 2  # events.jsonl waits still
    trouble.wrote("events.jsonl")
    assert lines[2] == "the disk takes the run's files again; missing for good: nothing"


def test_the_oldest_records_beyond_the_limit_are_left_out_and_counted(tmp_path: Path) -> None:
    lines: list[str] = []
    gone = tmp_path / "gone"
    gone.mkdir()
    file = GrowingFile(gone / "metrics.jsonl", Trouble(lines.append), most=100)
    shutil.rmtree(gone)
    for step in range(20):
        file.write(json.dumps({"step": step}).encode() + b"\n")  # 12 or 13 bytes
    gone.mkdir()
    file.close()
    kept = [json.loads(line)["step"] for line in (gone / "metrics.jsonl").read_text().splitlines()]
    assert kept == list(range(20 - len(kept), 20))
    assert 7 <= len(kept) <= 8
    assert f"missing for good: {20 - len(kept)} records of metrics.jsonl" in lines[-1]
