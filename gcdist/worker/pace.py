"""How long a worker's work takes in the simulator, and when a round that nothing interrupts leads to a message."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import NamedTuple

from gcdist.protocol.worker_io import WorkerEvent
from gcdist.records import record


@dataclass(frozen=True, slots=True)
class Pace:
    """How long a worker's work takes in the simulator; zero where it really takes its time.

    ``defer``: compute a row only when its message is about to leave, so that work that becomes stale costs nothing.
    ``work``: takes seconds of work, an event, its tag, the time before which it must not come, whether it is computing (one
    partition at a time) or encoding (beside it), and the least seconds that it occupies the worker; delivers it as `later`
    does. None: the work has taken its time already. ``computes``: whether a partition is being computed now.
    """

    part_seconds: float = 0.0
    encode_seconds: float = 0.0
    defer: bool = False
    work: Callable[[float, Callable[[float], WorkerEvent], object, float, bool, float], None] | None = None
    computes: Callable[[], bool] | None = None


class Injected(NamedTuple):
    """The injected delay of a row, as `WorkerDriver` takes it."""

    seconds: float
    with_load: bool  # spread over the partitions of a partial row
    inside: bool  # spent inside the partitions


@record
class Foreseen:
    """A round of one row that nothing interrupts; times on the port's clock."""

    at: float  # when it comes
    done: list[float]  # seconds from then until each partition of the message is done; none: it is cut before
    taken: float  # seconds until the row is complete or cut
    asked: float  # when that is: the worker waits for its message from then on; without a message: from the beginning
    ready: float  # when the message leaves, or the cut that leaves nothing to send
    free: float  # until then a partition occupies the worker
    rests: float  # until then a timer or a dropped partition runs, without a consequence


def foresee(
    pace: Pace, injected: Injected, load: int, partial: bool, cut: float | None, at: float, free: float
) -> Foreseen | None:
    """The times of a round of one row; None: it comes to no end.

    Args:
        pace: of the worker.
        injected: its delay in this step.
        load: partitions of the row.
        partial: the row may be cut.
        cut: seconds from the round's receipt to its cut; None: there is none.
        at: when the round comes.
        free: until then the worker is occupied with a partition.
    """
    delay, with_load, inside = injected
    least = delay / max(load, 1) if inside else 0.0
    length, floor = max(pace.part_seconds, least), 0.0
    cut_at = inf if cut is None else at + cut
    now, rests, done = at, 0.0, list[float]()
    for r in range(1, load + 1):
        if partial and not inside:
            floor = at + (delay * (r / load) if with_load else delay)
        before = free
        if floor < inf:
            free = max(now, free) + length
        ready = max(floor, free)
        if cut_at <= ready:
            if before > cut_at:  # the partition is dropped before it begins
                free = before
            now, rests = cut_at, free if ready < inf else 0.0
            break
        if ready == inf:
            return None
        now = ready
        done.append(now - at)
    if not done:
        return Foreseen(at, done, 0.0, at, now, free, rests)
    floor = 0.0 if partial or inside else at + delay
    ready = max(floor, now + pace.encode_seconds)
    rests = max(rests, cut_at if cut_at < inf else 0.0)
    return None if ready == inf else Foreseen(at, done, now - at, now, ready, free, rests)
