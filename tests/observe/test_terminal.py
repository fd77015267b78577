from __future__ import annotations

import io
import json
import threading
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from gcdist.observe import Progress, RunFolder, Summary, Trace, WorkerArrivals, print_summary
from gcdist.observe.board import Board
from tests.observe.records import a_round, record


def show(progress: Progress, steps: int) -> None:
    for step in range(steps):
        progress.step(record(step))


def test_plain_output_is_a_line_every_some_steps() -> None:
    out = io.StringIO()
    with Progress(100, Console(file=out, width=60)) as progress:
        show(progress, 100)
        progress.note("worker 3 is [lost]")
    lines = out.getvalue().splitlines()
    assert len(lines) == 22
    assert lines[0] == (
        "step 1/100  no loss: nothing to train on  arrived 7/8  noise 0.2  up 1 kB  down 2 kB  0.0 s  deadline 0.4 s"
    )
    assert lines[1] == (
        "step 5/100  loss 0.2500  arrived 7/8  noise 0.2  up 5 kB  down 10 kB  2.0 s  deadline 0.4 s  2 steps/s  47 s left"
    )
    assert lines[-2].endswith("up 100 kB  down 200 kB  49.5 s  deadline 0.4 s  2 steps/s")
    assert lines[-1] == "worker 3 is [lost]"


def test_a_line_tells_an_empty_step_an_evaluation_and_virtual_time_in_words() -> None:
    clock = iter([10.0, 14.0])
    board = Board(9, virtual=True, clock=lambda: next(clock))
    board.add(record(0))
    board.add(replace(record(4), loss=None, arrived=(), noise_observed=None))
    board.evaluate({"loss": 0.5, "test_accuracy": 0.75}, 4)
    assert board.line() == (
        "step 5/9  no gradient: nobody arrived  arrived 0/8  up 2 kB  down 4 kB  2.0 s virtual  deadline 0.4 s"
        "  1 steps/s  4 s left  evaluated after step 4: loss 0.5, test accuracy 75.00%"
    )


def test_a_terminal_shows_a_live_picture_and_keeps_the_notes() -> None:
    out = io.StringIO()
    with Progress(10, Console(file=out, force_terminal=True, width=150, height=30, legacy_windows=False)) as progress:
        progress.evaluation(1, 0.5, {"test_accuracy": 0.5})
        show(progress, 10)
        progress.note("worker 3 is lost")
    text = out.getvalue()
    assert "worker 3 is lost" in text
    assert "step 10/10" in text
    assert "test accuracy 50.00%" in text
    assert "██████████  100%" in text  # a bar for who always counted
    assert "0.2 s" in text  # at the worker


class Stuck(io.StringIO):
    """A terminal that takes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.free = threading.Event()

    def write(self, text: str) -> int:
        self.free.wait()
        return super().write(text)


def test_training_does_not_wait_for_a_stuck_terminal() -> None:
    out = Stuck()
    progress = Progress(5000, Console(file=out), every=1)
    show(progress, 5000)  # would hang here
    out.free.set()
    progress.close()
    # the newest lines are kept
    assert "step 5000/5000" in out.getvalue()
    assert len(out.getvalue().splitlines()) <= 2000  # a batch that was taken, and those that waited


class Gone(io.StringIO):
    """A terminal that was closed."""

    def write(self, text: str) -> int:
        raise OSError("gone")


def test_a_closed_terminal_ends_the_picture_and_not_the_run() -> None:
    with Progress(10, Console(file=Gone())) as progress:
        show(progress, 10)


def summary(folder: Path) -> Summary:
    return Summary(
        scheme="osgc",
        quantizer="bucket, 4 bits",
        workers=3,
        steps=200,
        metrics={"test_accuracy": 0.9731, "test_loss": 0.125},
        wall_seconds=50.0,
        waiting_seconds=150.0,
        waiting_check=(20.0, 20.5),
        arrivals=[WorkerArrivals(1, 195, 0.98, 0.97, -0.4), WorkerArrivals(2, 0, 0.0, 0.0, 0.0)],
        bytes_up=1_000_000,
        bytes_up_float32=7_900_000,
        bytes_down=50_000_000,
        bytes_down_float32=325_000_000,
        folder=folder,
    )


def test_the_summary_is_a_readable_table(tmp_path: Path) -> None:
    out = io.StringIO()
    print_summary(summary(tmp_path), Console(file=out, width=60))
    text = out.getvalue()
    for part in (
        "97.31%",
        "50.0 s",
        "150.0 s (3.00 times)",
        "off by 2.5%",
        "1 MB, in float32 7.9 MB (7.9 times)",
        "-0.4",
    ):
        assert part in text
    assert text.splitlines()[-1] == f"run folder: {tmp_path}"


def test_a_summary_prints_itself(tmp_path: Path) -> None:
    text = str(summary(tmp_path))
    assert "wall clock       50.0 s" in text
    assert text.splitlines()[-1] == f"run folder: {tmp_path}"
    assert "virtual clock    50.0 s" in str(replace(summary(tmp_path), virtual=True))


def test_of_many_workers_those_furthest_off_are_shown(tmp_path: Path) -> None:
    out = io.StringIO()
    sigmas = [(-1) ** rank * rank / 100 for rank in range(1, 1001)]
    many = [WorkerArrivals(rank, 50, 0.9, 0.9, off) for rank, off in enumerate(sigmas, 1)]
    many += [
        WorkerArrivals(rank, 0, 0.0, 0.0, 99.0) for rank in range(1001, 1011)
    ]  # nothing was promised: nobody is off
    print_summary(replace(summary(tmp_path), arrivals=many), Console(file=out, width=100))
    text = out.getvalue()
    assert "arrival rates furthest off their plans, 40 of 1,010 workers (all: summary.json)" in " ".join(text.split())
    assert "+10.0" in text
    assert "-9.6" in text
    assert "-9.5" not in text


def test_the_summary_is_written(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run") as folder:
        folder.write_summary(summary(folder.path).as_dict())
    written = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert written["arrivals"][0]["planned"] == 0.98
    assert written["waiting_check"] == [20.0, 20.5]


def test_a_trace_tells_the_parts_of_a_round_and_the_marks(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    trace = Trace(path)
    rounds = [a_round(1, 0), a_round(2, 0, end="lost", held=None)]
    trace.step(0, 0.0, 0.5, {1: 0.3}, (2,), "deadline", rounds)
    trace.close()
    events = json.loads(path.read_text())
    names = {event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"}
    mine = {name: track for track, name in names.items()}
    parts = [event for event in events if event["ph"] == "X" and event["tid"] == mine["worker 1, rounds"]]
    assert [event["name"] for event in parts] == [
        "round: counted",
        "receive",
        "data",
        "compute 2 partitions",
        "encode, delay",
        "upload",
    ]
    sizes = {"step": 0, "partitions": 2, "done": 2, "bytes up": 500, "bytes down": 1500}
    assert parts[0]["args"] == {**sizes, "compute s": 0.1, "data s": 0.01}
    assert [event["dur"] for event in parts] == [300000, 75000, 10000, 100000, 90000, 25000]
    assert parts[-1]["ts"] + parts[-1]["dur"] == parts[0]["ts"] + parts[0]["dur"]  # they fill the round
    marks = [(event["name"], event["tid"]) for event in events if event["ph"] == "i"]
    assert marks == [("deadline", 0), ("worker 2 lost", mine["worker 2, rounds"])]


def test_a_trace_of_a_long_run_ends_with_a_line_that_says_so(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    trace = Trace(path, most=20_000)
    for step in range(1000):
        trace.step(step, 0.5 * step, 0.5, {1: 0.3}, (), "deadline", [a_round(1, step)])
    trace.close()
    assert path.stat().st_size < 25_000
    assert sum("ends here" in event["name"] for event in json.loads(path.read_text())) == 1


def test_the_trace_is_json_when_closed_and_continues(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    for first in (0, 2):
        trace = Trace(path)
        for step in (first, first + 1):
            trace.step(step, opened=float(step), seconds=0.5, arrivals={1: 0.25}, missing=(2,))
        trace.close()
        trace.close()
    with open(path, "ab") as file:
        file.write(b'{"name": "ha')  # a writer that was killed
    trace = Trace(path)
    trace.close()
    events = json.loads(path.read_text())
    slices = [event for event in events if event["ph"] == "X"]
    assert [event["name"] for event in slices] == ["step 0", "counted", "missed"] + [
        name for step in (1, 2, 3) for name in (f"step {step}", "counted", "missed")
    ]
    assert slices[1] == {"name": "counted", "ph": "X", "pid": 0, "tid": 1, "ts": 0, "dur": 250000}
    assert {event["args"]["name"] for event in events if event["name"] == "thread_name"} == {
        "master",
        "worker 1",
        "worker 2",
    }


def test_an_empty_trace_is_json(tmp_path: Path) -> None:
    for _ in range(2):
        Trace(tmp_path / "trace.json").close()
    assert len(json.loads((tmp_path / "trace.json").read_text())) == 1
