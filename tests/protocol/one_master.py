"""One master machine with two workers, and the events that tests hand to it."""

from __future__ import annotations

from typing import Any

import numpy as np

from gcdist.protocol import Head, MasterMachine, Peer
from gcdist.protocol.master_io import (
    Arrived,
    Credit,
    Joined,
    OpenStep,
)
from gcdist.types import Plan, StepTerms
from tests.protocol.plans import HELLO, Rows, Weighing

A, B = Peer(0, 1), Peer(1, 2)
TWO: Rows = [(0, 4, {0: 1.0}), (1, 4, {1: 0.5, 2: 0.5})]


def master(*peers: Peer, workers: int = 2) -> MasterMachine:
    """A machine to which these peers have joined and given credit."""
    machine = MasterMachine(workers, HELLO)
    for peer in peers:
        machine.handle(Joined(0.0, peer, HELLO))
        machine.handle(Credit(0.0, peer, -1, "fresh"))
    return machine


def opening(
    step: int,
    plan: Plan,
    at: float = 1.0,
    deadline: float = 1.0,
    count: int | None = None,
    beta: float = 0.0,
    late_beta: float = 0.0,
    keep: tuple[int, ...] = (),
) -> OpenStep:
    n = plan.rows
    decoder = Weighing(np.full(n, 2.0), plan.weighted_R(), np.full(n, beta), late_beta, frozenset(keep))
    return OpenStep(at, step, step, plan, StepTerms(deadline, np.full(n, 0.5), count), decoder)


def arrived(
    at: float,
    peer: Peer,
    step: int,
    row: int,
    plan: int = 0,
    shift: int = 0,
    fault: str | None = None,
    done: int | None = None,
) -> Arrived:
    done = min(row, 1) + 1 if done is None else done  # as in TWO: row 0 has one partition, row 1 has two
    return Arrived(at, peer, Head(step, plan, row, done, shift, 8), f"m{row}", fault)


def only(out: list[Any], *kinds: type[Any]) -> list[Any]:
    return [told for told in out if isinstance(told, kinds)]
