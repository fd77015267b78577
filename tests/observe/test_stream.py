from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

from gcdist.observe import EventStream, Observer, RunFolder, StepRecord
from gcdist.observe.stream import WAITING
from tests.observe.records import a_round, record


class Notebook(Observer):
    """What a bridge to another tool looks like."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def step(self, record: StepRecord) -> None:
        self.told.append(record.step)

    def event(self, kind: str, text: str) -> None:
        self.told.append((kind, text))

    def evaluation(self, step: int, seconds: float, metrics: Mapping[str, float]) -> None:
        self.told.append((step, dict(metrics)))

    def close(self) -> None:
        self.told.append("closed")


def test_an_observer_hears_everything_in_order(tmp_path: Path) -> None:
    notebook = Notebook()
    with RunFolder(tmp_path) as folder:
        folder.stream.add(notebook)
        folder.step(0, [a_round(1, 0)], seconds=0.5, loss=1.0, arrived=(1,), away=(2,), live=1, deadline=float("inf"))
        folder.event("members", "worker 2 lost: killed")
        folder.evaluation(1, 0.5, 0.1, {"accuracy": 0.5})
    assert notebook.told == [0, ("members", "worker 2 lost: killed"), (1, {"accuracy": 0.5}), "closed"]


def test_an_observer_gets_what_the_folder_gets(tmp_path: Path) -> None:
    seen: list[StepRecord] = []

    class Keeps(Observer):
        def step(self, record: StepRecord) -> None:
            seen.append(record)

    with RunFolder(tmp_path) as folder:
        folder.stream.add(Keeps())
        folder.step(3, [a_round(1, 3)], seconds=0.5, loss=1.0, arrived=(1,), away=(2,), live=1, deadline=float("inf"))
    assert [(each.step, each.workers, each.live, each.deadline, len(each.rounds)) for each in seen] == [
        (3, 2, 1, None, 1)
    ]


def test_an_observer_that_raises_is_called_no_more_and_the_run_says_so() -> None:
    class Broken(Observer):
        calls = 0

        def step(self, record: StepRecord) -> None:
            Broken.calls += 1
            raise RuntimeError("no network")

    said: list[str] = []
    notebook = Notebook()
    with EventStream(lambda kind, text: said.append(text)) as stream:
        stream.add(Broken())
        stream.add(notebook)
        for step in range(3):
            stream.step(record(step))
    assert Broken.calls == 1
    assert notebook.told == [0, 1, 2, "closed"]
    assert said == ["Broken raised RuntimeError: no network; it is called no more"]


def test_training_does_not_wait_for_a_stuck_observer() -> None:
    free = threading.Event()

    class Stuck(Observer):
        def step(self, record: StepRecord) -> None:
            free.wait()

    said: list[str] = []
    stream = EventStream(lambda kind, text: said.append(text))
    stream.add(Stuck())
    for step in range(WAITING + 100):
        stream.step(record(step, workers=1))  # would hang here
    assert not stream.drain(0.0)
    free.set()
    stream.close()
    assert said[0].endswith("steps and events were left out: an observer was too slow")
    stream.close()


def test_without_observers_there_is_no_thread() -> None:
    before = threading.active_count()
    stream = EventStream(lambda kind, text: None)
    stream.step(record(0))
    assert threading.active_count() == before
    stream.close()
