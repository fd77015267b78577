"""Two threads take turns: a cut comes while a partition is under way, and an error of either thread ends the worker."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest

from gcdist.exchange.message import Message
from gcdist.model.gradients import PartitionResult
from gcdist.protocol.messages import Head, Round, Tick
from gcdist.protocol.worker import WorkerMachine
from gcdist.protocol.worker_io import (
    Exit,
    Linked,
    Released,
    RoundIn,
    SendCredit,
    SendFailed,
    SendLeaving,
    SentRow,
    WorkerEvent,
)
from gcdist.quantize import get_quantizer
from gcdist.straggler import make_delays
from gcdist.types import U8
from gcdist.worker.computing import QueuedComputing
from gcdist.worker.driver import WorkerDriver
from gcdist.worker.inbox_port import InboxPort
from gcdist.worker.rows import RowMaker
from gcdist.worker.turns import Turns
from tests.worker.results import a_round, result

NOTHING = np.zeros(0, np.uint8)
PATIENCE = 60.0  # seconds; nothing here takes one


class Port(InboxPort):
    """Gives one round after the other, and the release at their end."""

    def __init__(self, rounds: list[Round]) -> None:
        super().__init__()
        self.rounds = rounds
        self.sent: list[tuple[int, int, str]] = []  # step, partitions done, thread
        self.credits: list[tuple[int, str]] = []
        self.on_credit: Callable[[], None] = lambda: None

    def connect(self, after: float) -> None: ...

    def send(self, head: Head, body: Message) -> None:
        self.sent.append((head.step, head.done, threading.current_thread().name))
        self.inbox.put(lambda at: SentRow(at, head.step, head.row))

    def tell(self, instruction: SendCredit | SendFailed | SendLeaving) -> None:
        assert isinstance(instruction, SendCredit)
        self.credits.append((instruction.step, instruction.why))
        self.on_credit()
        if self.rounds:
            sent = self.rounds.pop(0)
            self.inbox.put(lambda at: RoundIn(at, sent, NOTHING))
        else:
            self.inbox.put(Released)


class Gradients:
    """Partition 3 waits until it is let go."""

    def __init__(self) -> None:
        self.let_go = threading.Event()

    def load(self, sent: Round, raw: U8) -> None: ...

    def take(self, sent: Round, raw: U8) -> None: ...

    def compute(self, step: int, partition: int) -> PartitionResult:
        assert threading.current_thread() is threading.main_thread()
        if partition == 3:
            assert self.let_go.wait(PATIENCE)
        return result(partition, [float(partition)] * 4)


def run(port: Port, gradients: Gradients, look: Callable[[WorkerEvent], Exit | None] = lambda event: None) -> Exit:
    computing = QueuedComputing(port.inbox.call)
    rows = RowMaker(get_quantizer("float32"), 0, gradients)
    driver = WorkerDriver(WorkerMachine(), rows, port, 0, make_delays("none", 1), 0, computing=computing)
    port.inbox.put(lambda at: Linked(at, 1))
    return Turns(driver, port.inbox, computing, look).run()


def test_rows_of_many_partitions_are_computed_and_sent_by_the_main_thread() -> None:
    port = Port([a_round(step, dict.fromkeys(range(3), 1.0)) for step in range(5)])
    assert run(port, Gradients()).code == 0
    assert port.sent == [(step, 3, "MainThread") for step in range(5)]
    assert port.credits == [(-1, "fresh"), *((step, "sent") for step in range(5))]
    assert [thread.name for thread in threading.enumerate() if thread.name == "gcdist-protocol"] == []


def test_a_cut_comes_while_a_partition_is_under_way() -> None:
    cut = a_round(0, dict.fromkeys((3, 4), 1.0), partial=True, cut=0.01)
    port, gradients = Port([cut, a_round(1, {1: 1.0})]), Gradients()
    port.on_credit = lambda: gradients.let_go.set() if port.credits[-1][0] == 0 else None
    assert run(port, gradients).code == 0
    step_0 = [sent for sent in port.sent if sent[0] == 0]  # nothing, or partition 4 alone: it may come first
    assert step_0 in ([], [(0, 1, "gcdist-protocol")])
    assert port.credits[1] == (0, "sent" if step_0 else "cut")
    assert port.sent[-1][:2] == (1, 1)


@pytest.mark.parametrize("away", [False, True])
def test_an_error_of_either_thread_ends_the_worker(away: bool) -> None:
    port, gradients = (
        Port([a_round(0, dict.fromkeys((1, 3) if away else (1, 2), 1.0), partial=True, cut=0.01)]),
        Gradients(),
    )

    def look(event: WorkerEvent) -> Exit | None:
        if isinstance(event, Tick if away else RoundIn):
            gradients.let_go.set()
            raise ZeroDivisionError
        return None

    with pytest.raises(ZeroDivisionError):
        run(port, gradients, look)


def test_whoever_looks_at_the_events_may_end_it() -> None:
    port = Port([a_round(0, {1: 1.0})])
    assert run(port, Gradients(), lambda event: Exit(3, "enough") if isinstance(event, RoundIn) else None).code == 3
