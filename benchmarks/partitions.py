"""Processor time that one more partition costs a worker, beyond its forward and backward pass: a row of small partitions.

The worker is whole: the protocol in its thread, the user's code in the main thread, the row and its encoding; only the links
are left out. Rounds of one partition and of many take turns; the difference of their processor time (all threads of the
process, so that load on the machine does not count), over the difference of their partitions, is the cost of a partition.
Forward and backward by hand (gradients set to None, loss, backward) take turns with them on the same batches, and so does
reading: ``dataset[i]`` and ``collate_fn``, which are the user's too. A neighbour on the same core slows the processor by up
to 2.5 times, so there are quantiles of rounds.

python benchmarks/partitions.py                 # digits, a perceptron of 9,610 parameters, batches of 2 samples
python benchmarks/partitions.py --model cnn --batch 8 --json
python benchmarks/partitions.py --profile       # where it goes, by function
"""

from __future__ import annotations

import argparse
import cProfile
import json
import platform
import pstats
import sys
import time
from typing import Any

import numpy as np
import torch

from gcdist.config import Config
from gcdist.exchange.message import Message
from gcdist.exchange.setup import Setup
from gcdist.memory import keep_freed_memory, objects_set_aside
from gcdist.model.batches import fetch
from gcdist.model.randomness import generators_kept
from gcdist.protocol.last_events import LastEvents
from gcdist.protocol.messages import Assignment, Head, Round
from gcdist.protocol.worker import WorkerMachine
from gcdist.protocol.worker_io import (
    Linked,
    Released,
    RoundIn,
    SendCredit,
    SendFailed,
    SendLeaving,
    SentRow,
)
from gcdist.tasks import digits
from gcdist.worker.computing import QueuedComputing
from gcdist.worker.driver import WorkerDriver
from gcdist.worker.inbox_port import InboxPort
from gcdist.worker.main import OwnGradients
from gcdist.worker.rows import RowMaker
from gcdist.worker.turns import Turns

MANY = 33  # partitions of the long row
AIM = 150.0  # microseconds


class Master(InboxPort):
    """The port of a worker: gives rounds of one and of many partitions in turn, and reads the clock at each credit."""

    def __init__(self, setup: Setup, rounds: int) -> None:
        super().__init__()
        self.seconds: dict[int, list[float]] = {1: [], MANY: []}
        self._bits = setup.config.quantizer.bits
        self._body = setup.state.snapshot()
        self._rounds = rounds
        self._step = -1
        self._began = 0.0

    def connect(self, after: float) -> None:
        self.inbox.put(lambda at: Linked(at, 1))

    def send(self, head: Head, body: Message) -> None:
        self.inbox.put(lambda at: SentRow(at, head.step, head.row))

    def tell(self, instruction: SendCredit | SendFailed | SendLeaving) -> None:
        if not isinstance(instruction, SendCredit) or instruction.why not in ("fresh", "sent"):
            raise SystemExit(f"the worker says {instruction}")
        if self._step >= 0:
            self.seconds[self._load].append(time.process_time() - self._began)
        self._step += 1
        if self._step == self._rounds:
            self.inbox.put(Released)
            return
        work = Assignment((0,), (tuple((j, 1.0) for j in range(self._load)),), ((self._bits,),), partial=True)
        sent = Round(self._step, self._step, self._step, None, (0,), (0.0,), work, 60.0)
        self._began = time.process_time()
        self.inbox.put(lambda at: RoundIn(at, sent, self._body))

    @property
    def _load(self) -> int:
        return MANY if self._step % 2 else 1


def whole_worker(setup: Setup, rounds: int) -> dict[int, list[float]]:
    """Processor seconds of rounds by their number of partitions."""
    master = Master(setup, rounds)
    computing = QueuedComputing(master.inbox.call)
    rows = RowMaker(setup.quantizer, 0, OwnGradients(setup))
    driver = WorkerDriver(WorkerMachine(), rows, master, 0, setup.delays, 0, computing=computing, last=LastEvents(150))
    master.connect(0.0)
    with generators_kept(), objects_set_aside():
        Turns(driver, master.inbox, computing).run()
    return {load: seconds[2:] for load, seconds in master.seconds.items()}  # the first ones bring the caches' content


def by_hand(setup: Setup, rounds: int) -> tuple[list[float], list[float]]:
    """Processor seconds of MANY forward and backward passes, and of reading their batches; one entry a round."""
    task, model, clock = setup.task, setup.state.model, time.process_time
    parameters = list(model.parameters())
    passes, reads = [], []
    for step in range(rounds):
        wanted = [setup.gradients.batches.samples(step, j).tolist() for j in range(MANY)]
        computing = 0.0
        began = clock()
        for indices in wanted:
            batch = fetch(task, indices, [])
            then = clock()
            for p in parameters:
                p.grad = None
            loss: torch.Tensor = task.loss_fn(model, batch)
            loss.backward()  # type: ignore[no-untyped-call]
            computing += clock() - then
        passes.append(computing)
        reads.append(clock() - began - computing)
    return passes, reads


def quantiles(values: list[float]) -> list[float]:
    """10, 50 and 90%."""
    return [float(np.quantile(values, q)) for q in (0.1, 0.5, 0.9)]


def measure(model: str, batch: int, rounds: int, turns: int) -> dict[str, Any]:
    task = digits.build(batch, model)
    config = Config.model_validate(
        {"code": {"partitions": MANY, "scheme": "joint"}, "quantizer": {"downlink": "float32"}}
    )
    setup = Setup.of(task, config, 1, own=True)
    one: list[float] = []
    many: list[float] = []
    passes: list[float] = []
    reads: list[float] = []
    for turn in range(turns + 1):
        by_load = whole_worker(setup, rounds)
        computed, read = by_hand(setup, max(3, rounds // 2))
        if turn:  # the first one warms up
            one += by_load[1]
            many += by_load[MANY]
            passes += computed
            reads += read
    pairs = zip(quantiles(many), quantiles(one), strict=True)
    whole_3 = [1e6 * (most - least) / (MANY - 1) for most, least in pairs]
    passes_3, reads_3 = ([1e6 * seconds / MANY for seconds in quantiles(column)] for column in (passes, reads))
    beyond_3 = [whole - computing for whole, computing in zip(whole_3, passes_3, strict=True)]
    rows = {
        "whole": whole_3,
        "forward_backward": passes_3,
        "beyond": beyond_3,
        "reading": reads_3,
        "ours": [left - read for left, read in zip(beyond_3, reads_3, strict=True)],
    }
    return {
        "benchmark": "partitions",
        "model": model,
        "parameters": setup.state.layout.d,
        "batch": batch,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "microseconds_10_50_90": {name: [round(us, 1) for us in row] for name, row in rows.items()},
    }


WORDS = {
    "whole": "the whole worker",
    "forward_backward": "forward and backward",
    "beyond": f"beyond them (aim: {AIM:.0f})",
    "reading": "  reading: the user's code",
    "ours": "  the rest: gcdist's",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("mlp", "cnn"), default="mlp")
    parser.add_argument("--batch", type=int, default=2, help="samples of a partition (default: 2)")
    parser.add_argument("--rounds", type=int, default=12, help="of a turn (default: 12)")
    parser.add_argument("--turns", type=int, default=30, help="of the worker and the loop by hand (default: 30)")
    parser.add_argument("--profile", action="store_true", help="print the main thread's functions instead")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # as every worker
    if options.profile:
        with cProfile.Profile() as profile:
            measure(options.model, options.batch, options.rounds, 1)
        pstats.Stats(profile, stream=sys.stdout).sort_stats("tottime").print_stats(45)
        return
    found = measure(options.model, options.batch, options.rounds, options.turns)
    if options.json:
        print(json.dumps(found, indent=1))
        return
    print(f"{found['parameters']} parameters, batches of {found['batch']}; microseconds of processor time a partition")
    print(f"{'':28} {'10%':>7} {'median':>7} {'90%':>7}")
    for name, row in found["microseconds_10_50_90"].items():
        print(f"{WORDS[name]:28} " + " ".join(f"{us:>7}" for us in row))


if __name__ == "__main__":
    main()
