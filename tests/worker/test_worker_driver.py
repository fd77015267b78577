"""The worker's driver with a port by hand: partitions are computed, delays are floors, errors are placed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from gcdist.exchange.message import Message
from gcdist.exchange.replica import ReplicaError
from gcdist.exchange.sidecar import Sidecar
from gcdist.model.gradients import PartitionResult
from gcdist.protocol import WorkerMachine
from gcdist.protocol.last_events import LastEvents
from gcdist.protocol.messages import CODED_SUM, Head, Round, Tick
from gcdist.protocol.worker_io import (
    Announced,
    Linked,
    RoundIn,
    SendCredit,
    SendFailed,
    SendLeaving,
    SentRow,
    Sigterm,
    WorkerEvent,
)
from gcdist.quantize import get_quantizer
from gcdist.straggler import make_delays
from gcdist.types import U8
from gcdist.worker.driver import WorkerDriver
from gcdist.worker.rows import RowMaker
from tests.worker.results import a_round, result

NOTHING = np.zeros(0, np.uint8)


class Port:
    """What the driver asks for, in order; events to come are delivered by `run`."""

    def __init__(self) -> None:
        self.at = 0.0
        self.told: list[SendCredit | SendFailed | SendLeaving] = []
        self.sent: list[tuple[float, Head, Message]] = []
        self.links: list[float] = []
        self.coming: list[tuple[float, Callable[[float], WorkerEvent], object]] = []

    def now(self) -> float:
        return self.at

    def later(self, at: float, make: Callable[[float], WorkerEvent], tag: object = None) -> None:
        self.coming.append((at, make, tag))

    def cancel(self, tag: object) -> None:
        self.coming = [each for each in self.coming if each[2] != tag]

    def send(self, head: Head, body: Message) -> None:
        self.sent.append((self.at, head, body))
        self.later(self.at, lambda at: SentRow(at, head.step, head.row))

    def tell(self, instruction: SendCredit | SendFailed | SendLeaving) -> None:
        self.told.append(instruction)

    def connect(self, after: float) -> None:
        self.links.append(after)

    def run(self, driver: WorkerDriver) -> None:
        """Let everything happen that is to come, in the order of time."""
        while self.coming:
            self.coming.sort(key=lambda each: each[0])
            at, make, _ = self.coming.pop(0)
            self.at = max(self.at, at)
            driver.feed(make(self.at))


class Gradients:
    """Partition j has the gradient (j, j, j, j); some raise."""

    def __init__(self) -> None:
        self.computed: list[tuple[int, int]] = []
        self.raises: Exception | None = None
        self.astray = False
        self.value = 1.0

    def load(self, sent: Round, raw: U8) -> None:
        if self.astray:
            raise ReplicaError("another digest")

    def take(self, sent: Round, raw: U8) -> None: ...

    def compute(self, step: int, partition: int) -> PartitionResult:
        self.computed.append((step, partition))
        if self.raises is not None:
            raise self.raises
        return result(partition, [self.value * partition] * 4)


class Worker:
    """A linked worker with a delay of 2 s for a whole row."""

    def __init__(self, delay: float = 2.0, scale_with_load: bool = False, last: LastEvents | None = None) -> None:
        self.port, self.gradients = Port(), Gradients()
        self.driver = WorkerDriver(
            WorkerMachine(),
            RowMaker(get_quantizer("float32"), 0, self.gradients),
            self.port,
            1,
            make_delays("shifted-exponential", 2, shift=delay),
            0,
            name_of=lambda at: f"weight[{at}]",
            scale_with_load=scale_with_load,
            last=last,
        )
        self.driver.feed(Linked(0.0, 1))

    def feed(self, event: WorkerEvent) -> None:
        self.port.at = max(self.port.at, event.at)
        self.driver.feed(event)
        self.port.run(self.driver)


def test_a_round_is_computed_in_order_and_leaves_after_its_delay() -> None:
    worker = Worker()
    worker.feed(RoundIn(1.0, a_round(4, {3: 1.0, 1: 0.5}), NOTHING))
    assert worker.gradients.computed == [(4, 3), (4, 1)]
    [(at, head, body)] = worker.port.sent
    assert (at, head.step, head.done) == (3.0, 4, 2)  # the delay is a floor from the round's arrival
    sidecar = Sidecar.unpack(body.sidecar)
    assert (sidecar.held_seconds, sidecar.parts_P4[:, 0].tolist()) == (2.0, [3.0, 1.0])
    assert worker.port.told == [SendCredit(-1, "fresh"), SendCredit(4, "sent")]


def test_a_cut_row_goes_with_what_is_done_by_then() -> None:
    worker = Worker(delay=4.0, scale_with_load=True)  # four partitions: one each second
    worker.feed(RoundIn(0.0, a_round(0, dict.fromkeys(range(4), 1.0), partial=True, cut=2.5), NOTHING))
    [(at, head, body)] = worker.port.sent
    assert (at, head.done) == (2.5, 2)
    assert Sidecar.unpack(body.sidecar).parts_P4[:, 3].tolist() == [1.0, 2.0]


def test_a_cut_before_anything_is_done_says_if_a_partition_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    cut_row = a_round(0, {0: 1.0}, partial=True, cut=2.5)
    waiting = Worker(delay=4.0)  # the partition is computed, its delay is not over
    waiting.feed(RoundIn(0.0, cut_row, NOTHING))
    assert (waiting.port.sent, waiting.port.told[1:]) == ([], [SendCredit(0, "cut", 2.5)])
    worker = Worker(delay=0.0)

    def compute(step: int, partition: int) -> PartitionResult:
        worker.port.at = 2.5
        worker.driver.feed(Tick(2.5))  # the other thread's
        return result(partition, [1.0] * 4)

    monkeypatch.setattr(worker.gradients, "compute", compute)
    worker.feed(RoundIn(0.0, cut_row, NOTHING))
    assert (worker.port.sent, worker.port.told[1:]) == ([], [SendCredit(0, "busy", 2.5)])


def test_a_newer_step_ends_the_work_for_an_older_one() -> None:
    worker = Worker()
    worker.port.at = 1.0
    worker.driver.feed(RoundIn(1.0, a_round(0, {0: 1.0}), NOTHING))
    worker.driver.feed(Announced(1.5, 1))
    worker.port.run(worker.driver)
    assert worker.port.sent == []
    assert [credit.why for credit in worker.port.told if isinstance(credit, SendCredit)] == ["fresh", "stale"]


@pytest.mark.parametrize(
    ("error", "value", "place", "text"),
    [
        (ValueError("bad batch"), 1.0, 3, "worker 2: ValueError: bad batch"),
        (None, 1e38, CODED_SUM, "worker 2: ValueError: the coded gradient is not finite in weight[0]"),
    ],
    ids=["a partition", "the coded sum"],
)
def test_an_error_is_told_with_its_place(error: Exception | None, value: float, place: int, text: str) -> None:
    worker = Worker()
    worker.gradients.raises, worker.gradients.value = error, value
    worker.feed(RoundIn(0.0, a_round(0, {3: 2.0}), NOTHING))
    assert SendFailed(0, place, text) in worker.port.told
    assert [credit.why for credit in worker.port.told if isinstance(credit, SendCredit)] == ["fresh", "failed"]


def test_parameters_that_do_not_fit_send_the_worker_astray() -> None:
    worker = Worker()
    worker.gradients.astray = True
    worker.feed(RoundIn(0.0, a_round(0, {3: 1.0}), NOTHING))
    assert worker.port.sent == []
    assert [credit.why for credit in worker.port.told if isinstance(credit, SendCredit)] == ["fresh", "astray"]


def test_a_sigterm_asks_to_leave_and_ends_without_an_answer() -> None:
    worker = Worker()
    worker.feed(Sigterm(1.0))
    assert SendLeaving() in worker.port.told
    assert worker.driver.exit is not None
    assert (worker.driver.exit.code, worker.port.at) == (0, 6.0)  # the machine's patience


def test_the_last_events_are_kept_where_they_are_asked_for() -> None:
    ring = LastEvents()
    Worker(last=ring).feed(RoundIn(1.0, a_round(0, {0: 1.0}), NOTHING))
    assert [line.split('"')[3] for line in ring.lines()] == ["Linked", "RoundIn", "PartDone", "EncodedRow", "SentRow"]
