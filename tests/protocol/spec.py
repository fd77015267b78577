"""The invariants of a whole world, and what breaks over many of them.

The checks are written from the protocol's description and not from the machines; each raises AssertionError.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gcdist.protocol import MasterMachine, WorkerMachine
from gcdist.protocol import master_io as m
from tests.protocol.book import SEEN, booked, every
from tests.protocol.plans import HELLO
from tests.protocol.proc import MASTER, Did
from tests.protocol.spec_master import check_1, check_2, check_3, check_4, check_5, check_6, check_8
from tests.protocol.spec_worker import check_7, check_9, check_10, check_12
from tests.protocol.world import World, fresh


def check_11(trace: list[Did], workers: int) -> None:
    """Equal events give equal instructions."""
    again = MasterMachine(workers, HELLO)
    others: dict[tuple[int, int], WorkerMachine] = {}
    for did in trace:
        if did.who == MASTER:
            assert again.handle(fresh(did.event)) == did.out
        else:
            machine = others.setdefault((did.who, did.life), WorkerMachine(0.05, 0.4, 0.5))
            assert machine.handle(did.event) == did.out


def checks(world: World, trace: list[Did]) -> dict[int, Callable[[], None]]:
    """The invariants of one finished world, by number."""
    return {
        1: lambda: check_1(trace),
        2: lambda: check_2(trace),
        3: lambda: check_3(trace),
        4: lambda: check_4(trace),
        5: lambda: check_5(trace),
        6: lambda: check_6(trace),
        7: lambda: check_7(trace),
        8: lambda: check_8(trace, frozenset(world.cheaters)),
        9: lambda: check_9(trace),
        10: lambda: check_10(trace),
        11: lambda: check_11(trace, world.n),
        12: lambda: check_12(trace),
    }


def calm_step_is_complete(world: World, trace: list[Did]) -> None:
    """After all misfortunes a step that waits for everybody gets every row of everybody who is here."""
    last, present = None, set()
    for did, book in booked(trace):
        if isinstance(did.event, m.OpenStep):
            last, present = did.event, set(book.peers)
        for close in every(did.out, m.CloseStep):
            result = close
    if last is None or world.calm < 2 or result.step != last.step or result.why == "stop":
        return
    want = {r for r in range(last.plan.rows) if last.plan.weighted_R()[r] and int(last.plan.worker_R[r]) in present}
    missing = {r for r in want - set(result.rows) if last.decoder.counted_R[r]}  # type: ignore[attr-defined]
    assert present == {s for s, p in world.procs.items() if s in present}
    assert not missing, f"rows {missing} did not come"
    SEEN["calm"] += 1


def failures(
    seeds: Any,
    master: type[MasterMachine] = MasterMachine,
    worker: type[WorkerMachine] = WorkerMachine,
    only: int | None = None,
) -> dict[int, list[str]]:
    """What breaks in the worlds of ``seeds``, by invariant; 0 is liveness. With ``only``, stop at its first failure."""
    found: dict[int, list[str]] = {k: [] for k in range(13)}
    for seed in seeds:
        world = World(seed, master, worker)
        try:
            trace = world.run()
            if world.failure:
                found[0].append(f"seed {seed}: {world.failure}")
            calm_step_is_complete(world, trace)
        except (AssertionError, ValueError, KeyError) as error:  # a broken machine may break its driver, too
            found[0].append(f"seed {seed}: {type(error).__name__} {error}")
            trace = world.trace
        for number, check in checks(world, trace).items():
            if only in (None, number):
                try:
                    check()
                except (AssertionError, KeyError) as error:
                    found[number].append(f"seed {seed}: {type(error).__name__} {error}")
        if only is not None and found[only]:
            break
    return found
