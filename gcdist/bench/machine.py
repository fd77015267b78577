"""How fast this machine is, for the simulator: measured from two short real runs that wait for all.

One has no delays: its rounds take as long as everybody computing at once, on the cores that there are. The other's delays
hide the computing: what its rounds take beyond the slowest delay is messages, and the time between rounds is the master's.

A core's speed changes from run to run where others share it (half as fast again within a minute was seen on a virtual
machine). What a run's partitions took by the workers' processor clocks tells how fast the machine was then: all constants
scale with it.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean, median

from gcdist.bench.cells import Cell, Outcome
from gcdist.bench.problems import get_problem
from gcdist.config import ConfigError
from gcdist.straggler import make_delays

SEED = 1000  # neither the benchmark's nor the tuning's
SECONDS, PACES = 5.0, 60.0  # a run lasts as long as the longer of the two
NEVER = -1.0  # a loss
FITS = 5  # corrections of the constants
WARM = 5  # steps that are not measured
DELAYED = "mild"  # its delays are longer than anybody's computing, and its rounds short


@dataclass(frozen=True, slots=True)
class Machine:
    """Constants of the settings' ``simulate`` section, in seconds, when a partition takes ``cpu_seconds`` of a processor."""

    latency: float
    compute_seconds: float  # of one core
    master_seconds: float
    cores: int
    cpu_seconds: float

    def at(self, cpu_seconds: float) -> Machine:
        """When a partition takes so long; as it is, if that is not known (NaN)."""
        speed = cpu_seconds / self.cpu_seconds if self.cpu_seconds > 0 else math.nan
        if math.isnan(speed):
            return self
        latency, compute, master = (speed * x for x in (self.latency, self.compute_seconds, self.master_seconds))
        return Machine(latency, compute, master, self.cores, cpu_seconds)

    def section(self) -> dict[str, float]:
        """For the settings."""
        return {key: value for key, value in asdict(self).items() if key != "cpu_seconds"}


def machines_in(out: Path) -> dict[str, Machine]:
    """What was measured before in a benchmark's folder, by problem; ConfigError for a file of another kind."""
    found = {}
    for path in sorted((out / "machine").glob("*.json")):
        try:
            found[path.stem] = Machine(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(f"{path}: not a measurement of this benchmark ({error}); remove it") from None
    return found


def calibration_cells(cell: Cell) -> tuple[Cell, Cell]:
    """The two runs: nobody late, and delays that hide the computing."""
    budget = max(SECONDS, PACES * cell.pace)
    run = replace(cell, scheme="sync", seed=SEED, deadline="wait", target=NEVER, budget=budget)
    run = replace(run, lr=get_problem(cell.problem).lr)
    return replace(run, delays="none"), replace(run, delays=DELAYED)


def measure(
    cell: Cell,
    run: Callable[[Cell], Outcome],
    predict: Callable[[Cell, Machine], Outcome],
    cores: int | None = None,
) -> Machine:
    """The machine's constants: those with which the simulator's runs take as long as the real ones.

    Args:
        cell: any of the benchmark's; its problem, workers and pace count.
        run: makes a real run.
        predict: makes it in the simulator.
        cores: that all processes share; None: those that this process may use.

    Raises:
        ConfigError: the real runs are too short to tell.
    """
    cells = calibration_cells(cell)
    delays = _slowest(cells[1])
    runs = run(cells[0]), run(cells[1])
    cpu = fmean(outcome.cpu_seconds for outcome in runs)  # NaN where nobody arrived: that is refused below
    real = _Figures.of(*runs, delays, cpu)
    cores = cores or len(os.sched_getaffinity(0))
    share = get_problem(cell.problem).share * max(1.0, cell.workers / cores)  # of a core, when everybody computes
    machine = Machine(real.beyond / 2, max(0.0, real.free - real.beyond) / share, real.between, cores, cpu)
    for _ in range(FITS):
        found = _Figures.of(predict(cells[0], machine), predict(cells[1], machine), delays)
        # a message goes to and fro in a round, and a third time where its credit is what the next one waits for
        latency = max(0.0, machine.latency + (real.beyond - found.beyond) / 2.5)
        off = real.free - found.free - 2.5 * (latency - machine.latency)
        machine = Machine(latency, max(0.0, machine.compute_seconds + off / share), real.between, cores, cpu)
    return machine


def _slowest(cell: Cell) -> Callable[[int], float]:
    """The slowest delay of a step."""
    config = cell.config()
    delays = make_delays(config.inject.model, cell.workers, **config.inject.params())
    share = float(get_problem(cell.problem).share)
    return lambda step: max(delays.seconds(worker, step, share, SEED) for worker in range(cell.workers))


@dataclass(frozen=True, slots=True)
class _Figures:
    """Seconds, medians: of a round without delays, of one with delays beyond the slowest, between two rounds."""

    free: float
    beyond: float
    between: float

    @staticmethod
    def of(free: Outcome, delayed: Outcome, slowest: Callable[[int], float], cpu: float = math.nan) -> _Figures:
        """``cpu``: of a partition; the runs' figures are scaled to it. NaN: as they are."""
        for outcome in (free, delayed):
            if len(outcome.rounds) < 2 * WARM:
                why = outcome.why or f"{len(outcome.rounds)} steps; {2 * WARM} are needed"
                raise ConfigError(f"the simulator cannot be told how fast this machine is: {why}")
        beyond = [taken - slowest(step) for step, taken in enumerate(delayed.rounds)]
        steps = zip(delayed.ends, delayed.ends[1:], delayed.rounds[1:], strict=False)
        between = [end - before - taken for before, end, taken in steps]
        figures = []
        for row, outcome in ((free.rounds, free), (beyond, delayed), (between, delayed)):
            scale = 1.0 if math.isnan(cpu) else cpu / outcome.cpu_seconds
            figures.append(max(0.0, scale * median(row[WARM:])))
        return _Figures(*figures)
