from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from contextlib import closing
from pathlib import Path

import pytest
from rich.console import Console

from gcdist.observe import Board, FolderTail, RunFolder, read_lines, read_rounds
from gcdist.observe.files import GrowingFile, Trouble
from gcdist.observe.prometheus import Prometheus
from gcdist.observe.times import THIN_BYTES, TimesFile
from tests.observe.records import a_round, record


def shown(board: Board, rows: int = 24, width: int = 120) -> str:
    console = Console(width=width, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(board.picture(rows))
    console.file.close()
    return console.export_text()


def test_a_board_tells_time_left_rates_and_who_is_away() -> None:
    board = Board(200)
    assert "waiting for the first step" in shown(board)
    for step in range(100):
        board.add(record(step, missing=(8,), away=(3,) if step >= 50 else ()))
    text = shown(board)
    assert "50 s left" in text
    lines = {line.split()[0]: line for line in text.splitlines() if line.strip() and line.split()[0].isdigit()}
    assert "100%" in lines["1"]
    assert "0.2 s" in lines["1"]  # at the worker
    assert "0.1 s" in lines["1"]  # on the link
    assert lines["3"].rstrip().endswith("away")
    assert "0%" in lines["8"]


def test_a_board_of_many_workers_shows_those_that_count_least() -> None:
    board = Board(None)
    board.add(record(0, workers=100, missing=(17, 60)))
    text = shown(board, rows=10)
    assert "the 10 of 100 workers that count least" in text
    assert " 17 " in text
    assert " 60 " in text


def test_the_folder_of_a_running_run_is_followed(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as folder:
        tail = FolderTail(tmp_path, 2)
        assert tail.steps() == []
        folder.step(0, [a_round(1, 0)], seconds=0.5, loss=1.0, arrived=(1, 2), away=(), live=2)
        folder.event("members", "worker 1 joined")
        [first] = tail.steps()
        assert (first.step, first.arrived) == (0, (1, 2))
        assert first.rounds[0].link == pytest.approx(0.1)
        assert tail.events() == [("members", "worker 1 joined")]
        assert tail.steps() == []
        folder.evaluation(1, 0.5, 0.1, {"accuracy": 0.5})
        assert tail.evaluations() == [(1, 0.5, {"accuracy": 0.5})]
        with open(tmp_path / "metrics.jsonl", "ab") as file:
            file.write(b'{"step": 1, "half')
        assert tail.steps() == []
    with RunFolder(tmp_path, resume=True) as folder:
        folder.rewind(0)
        folder.step(0, seconds=0.25, loss=2.0, arrived=(1,), live=2)
        [again] = tail.steps()
        assert (again.loss, tail.rewound) == (2.0, True)


def growing(path: Path) -> GrowingFile:
    return GrowingFile(path, Trouble(lambda text: None))


def test_rounds_are_read_back_and_other_versions_named(tmp_path: Path) -> None:
    path = tmp_path / "workers.jsonl"
    with closing(growing(path)) as file:
        TimesFile(file).step(0, [a_round(1, 0), a_round(2, 0, held=None, end="lost")])
    with closing(growing(path)) as file:
        TimesFile(file).step(1, [a_round(1, 1)])
    rounds = list(read_rounds(read_lines(path)))
    assert rounds[0] == a_round(1, 0)
    assert rounds[1].link is None
    assert [each.step for each in rounds] == [0, 0, 1]
    header, *lines = list(read_lines(path))
    assert header["version"] == 1
    wider = {"version": 2, "columns": ["new", *header["columns"]]}
    assert list(read_rounds([wider, {"step": 0, "rounds": [[7, *lines[0]["rounds"][0]]]}])) == [a_round(1, 0)]
    with pytest.raises(ValueError, match="column 'held' is missing"):
        list(read_rounds([{"version": 2, "columns": [name for name in header["columns"] if name != "held"]}]))


def test_the_file_of_rounds_grows_slower_the_longer_it_is(tmp_path: Path) -> None:
    path = tmp_path / "workers.jsonl"
    with path.open("wb") as made:
        made.truncate(THIN_BYTES)
        made.seek(0, 2)
        made.write(b"\n")
    before = path.stat().st_size
    with closing(growing(path)) as file:
        for step in range(10):
            TimesFile(file).step(step, [a_round(1, step)])
    assert json.loads(path.read_bytes()[before:])["step"] == 0  # one of ten


def test_prometheus_serves_on_this_machine_only() -> None:
    server = Prometheus(0)
    try:
        server.step(record(0, missing=(8,)))
        server.step(record(1, missing=(8,)))
        server.evaluation(2, 1.0, {'accuracy "top1"': 0.5})
        assert server._server.server_address[0] == "127.0.0.1"
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics") as answer:
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            lines = answer.read().decode().splitlines()
        with pytest.raises(urllib.error.HTTPError, match="404") as missing:
            urllib.request.urlopen(f"http://127.0.0.1:{server.port}/nothing")
        missing.value.close()
    finally:
        server.close()
    assert "gcdist_steps_total 2" in lines
    assert 'gcdist_bytes_total{way="down"} 4000' in lines
    assert "gcdist_loss 0.25" in lines
    assert 'gcdist_worker_counted_total{worker="8"} 0' in lines
    assert 'gcdist_worker_counted_total{worker="1"} 2' in lines
    assert 'gcdist_worker_seconds_total{worker="1",at="worker"} 0.4' in lines
    assert 'gcdist_evaluation{metric="accuracy \\"top1\\""} 0.5' in lines


def test_tensorboard_gets_scalars_and_histograms(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra gcdist[report] is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from gcdist.observe.tensorboard import TensorBoard

    board = TensorBoard(tmp_path)
    for step in range(20):
        board.step(record(step))
    board.evaluation(20, 9.5, {"accuracy": 0.75})
    board.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [each.step for each in events.Scalars("loss")] == list(range(1, 20))
    assert events.Scalars("step/counted")[0].value == pytest.approx(7 / 8)
    assert events.Scalars("evaluation/accuracy")[0].value == 0.75
    assert set(events.Tags()["histograms"]) >= {"worker 1/at the worker", "worker 1/on the link"}
