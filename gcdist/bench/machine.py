"""How fast this machine is, for the simulator: measured from two short real runs that wait for all.

One has no delays: its rounds take as long as everybody computing at once, on the cores that there are. The other's delays
hide the computing: what its rounds take beyond the slowest delay is messages, and the time between rounds is the master's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median

from gcdist.bench.cells import Cell, Outcome
from gcdist.bench.problems import get_problem
from gcdist.config import ConfigError
from gcdist.straggler import make_delays

SEED = 1000  # neither the benchmark's nor the tuning's
SECONDS = 5.0  # of each run
WARM = 5  # steps that are not measured
DELAYED = "mild"  # its delays are longer than anybody's computing, and its rounds short


@dataclass(frozen=True, slots=True)
class Machine:
    """Constants of the settings' ``simulate`` section, in seconds."""

    latency: float
    compute_seconds: float
    master_seconds: float


def calibration_cells(cell: Cell) -> tuple[Cell, Cell]:
    """The two runs: nobody late, and delays that hide the computing. Their target is never reached."""
    run = replace(cell, scheme="sync", seed=SEED, deadline="wait", target=1e-300, budget=SECONDS)
    run = replace(run, lr=get_problem(cell.problem).lr)
    return replace(run, delays="none"), replace(run, delays=DELAYED)


def measure(cell: Cell, run: Callable[[Cell], Outcome]) -> Machine:
    """The machine's constants; ConfigError if its runs are too short to tell.

    Args:
        cell: any of the benchmark's; its problem, workers and pace count.
        run: makes a real run.
    """
    free, delayed = calibration_cells(cell)
    of_free, of_delayed = run(free), run(delayed)
    for outcome in (of_free, of_delayed):
        if len(outcome.rounds) < 2 * WARM:
            why = outcome.why or f"{len(outcome.rounds)} steps in {SECONDS:g} s"
            raise ConfigError(f"pace: found {cell.pace:g}; calibration of the simulator failed ({why})")
    share = get_problem(cell.problem).share
    config = delayed.config()
    delays = make_delays(config.inject.model, cell.workers, **config.inject.params())
    slowest = [
        max(delays.seconds(worker, step, float(share), SEED) for worker in range(cell.workers))
        for step in range(len(of_delayed.rounds))
    ]
    beyond = median([taken - floor for taken, floor in zip(of_delayed.rounds, slowest, strict=True)][WARM:])
    latency = max(0.0, beyond) / 2
    computing = median(of_free.rounds[WARM:]) - 2 * latency
    return Machine(latency, max(0.0, computing) / share, _between(of_delayed))


def _between(outcome: Outcome) -> float:
    """Seconds from the close of a round to the opening of the next, median."""
    steps = zip(outcome.ends, outcome.ends[1:], outcome.rounds[1:], strict=False)
    return max(0.0, median([end - before - taken for before, end, taken in steps][WARM:]))
