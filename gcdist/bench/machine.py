"""The speed of this machine, for the simulator: measured by three short real runs that wait for all.

The first run has no delays: its rounds take the time in which all workers compute at once on the available cores. The
delays of the other two hide the computing: their rounds exceed the slowest delay by the time of the messages, of one
worker or of all at once. The time between rounds is the master's.

The speed of a shared core changes from run to run (by half within a minute on a virtual machine). The processor time of
a run's partitions, by the workers' clocks, gives the machine's speed in that run: all constants scale with it.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean

from gcdist.bench.cells import Cell, Outcome
from gcdist.bench.problems import get_problem
from gcdist.config import ConfigError
from gcdist.straggler import make_delays

SEED = 1000  # neither the benchmark's nor the tuning's
SECONDS, PACES = 5.0, 60.0  # a run lasts the longer of the two; the second in paces
NEVER = -1.0  # a loss
FITS = 5  # corrections of the constants
SIMULATED = 0.5  # of a run's length: the simulator needs fewer rounds, as its machine is constant
ACCIDENTS = 0.02  # share of the longest rounds that is left out
WARM = 5  # steps that are not measured
FREE, APART, TOGETHER = "none", "mild", "together"  # the last two have delays longer than any computing


@dataclass(frozen=True, slots=True)
class Machine:
    """Constants of the settings' ``simulate`` section, in seconds, when a partition takes ``cpu_seconds`` of a processor."""

    latency: float
    compute_seconds: float  # of one core
    send_seconds: float
    master_seconds: float
    cores: int
    cpu_seconds: float

    def at(self, cpu_seconds: float) -> Machine:
        """The constants for this processor time of a partition; unchanged if it is not known (NaN)."""
        speed = cpu_seconds / self.cpu_seconds if self.cpu_seconds > 0 else math.nan
        if math.isnan(speed):
            return self
        constants = self.latency, self.compute_seconds, self.send_seconds, self.master_seconds
        latency, compute, send, master = (speed * constant for constant in constants)
        return Machine(latency, compute, send, master, self.cores, cpu_seconds)

    def busy_seconds(self, workers: int, share: int) -> float:
        """Seconds that all cores together need for a step in which every worker computes ``share`` partitions."""
        return workers * (share * self.compute_seconds + self.send_seconds) / self.cores

    def section(self) -> dict[str, float]:
        """For the settings."""
        return {key: value for key, value in asdict(self).items() if key != "cpu_seconds"}


def machines_in(out: Path) -> dict[str, Machine]:
    """Earlier measurements in a benchmark's folder, by problem; ConfigError for a file of another kind."""
    found = {}
    for path in sorted((out / "machine").glob("*.json")):
        try:
            found[path.stem] = Machine(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(f"{path}: not a measurement of this benchmark ({error}); remove it") from None
    return found


def calibration_cells(cell: Cell) -> tuple[Cell, ...]:
    """The runs: no delays, one worker after another, all at once."""
    budget = max(SECONDS, PACES * cell.pace)
    run = replace(cell, scheme="sync", seed=SEED, deadline="wait", target=NEVER, budget=budget)
    run = replace(run, lr=get_problem(cell.problem).lr)
    return tuple(replace(run, delays=delays) for delays in (FREE, APART, TOGETHER))


def measure(
    cell: Cell,
    run: Callable[[Cell], Outcome],
    predict: Callable[[Cell, Machine], Outcome],
    cores: int | None = None,
) -> Machine:
    """The machine's constants, fitted so that the simulator's runs take as long as the real ones.

    Args:
        cell: any of the benchmark's; its problem, workers and pace count.
        run: the real run of a cell.
        predict: the same in the simulator.
        cores: that all processes share; None: those that this process may use.

    Raises:
        ConfigError: the real runs are too short for a measurement.
    """
    cells = calibration_cells(cell)
    slowest = [_slowest(each) for each in cells[1:]]
    runs = [run(each) for each in cells]
    cpu = fmean(outcome.cpu_seconds for outcome in runs)  # NaN without an arrival: refused below
    real = _Figures.of(runs, slowest, cpu)
    cores = cores or len(os.sched_getaffinity(0))
    crowd = max(1.0, cell.workers / cores)  # workers that share a core when all work
    share = cell.even_share * crowd  # partitions
    # the last of many simultaneous messages waits for a core if workers exceed cores; a single message does not
    of_send = 1 / max(crowd - 1.0, 1.0) if crowd > 1 else 0.0
    send = max(0.0, real.together - real.apart) * of_send
    machine = Machine(
        max(0.0, real.apart - send) / 2.5,
        max(0.0, real.free - real.apart - (crowd - 1) * send) / share,
        send,
        real.between,
        cores,
        cpu,
    )
    short = [replace(each, budget=SIMULATED * each.budget) for each in cells]
    for _ in range(FITS):
        found = _Figures.of([predict(each, machine) for each in short], slowest)
        free, apart, together = (real.free - found.free, real.apart - found.apart, real.together - found.together)
        send = max(0.0, machine.send_seconds + (together - apart) * of_send)
        more = send - machine.send_seconds
        # a round has a message each way, and a third one if the next round waits for its credit
        latency = max(0.0, machine.latency + (apart - more) / 2.5)
        free -= 2.5 * (latency - machine.latency) + crowd * more
        compute = max(0.0, machine.compute_seconds + free / share)
        master = max(0.0, machine.master_seconds + real.between - found.between)
        machine = Machine(latency, compute, send, master, cores, cpu)
    return machine


def _slowest(cell: Cell) -> Callable[[int], float]:
    """The slowest delay of a step."""
    config = cell.config()
    delays = make_delays(config.inject.model, cell.workers, **config.inject.params())
    share = float(cell.even_share)
    return lambda step: max(delays.seconds(worker, step, share, SEED) for worker in range(cell.workers))


def _middle(seconds: Sequence[float]) -> float:
    """The mean without the longest: a run lasts the sum of its rounds, but accidents do not repeat."""
    return fmean(sorted(seconds)[: math.ceil((1 - ACCIDENTS) * len(seconds))])


@dataclass(frozen=True, slots=True)
class _Figures:
    """Seconds, means: of a round without delays, of rounds with delays beyond the slowest, between two rounds."""

    free: float
    apart: float
    together: float
    between: float

    @staticmethod
    def of(runs: Sequence[Outcome], slowest: Sequence[Callable[[int], float]], cpu: float = math.nan) -> _Figures:
        """Of the runs; ``slowest`` delays of the latter two. ``cpu``: figures are scaled to it; NaN: no scale."""
        for outcome in runs:
            if len(outcome.rounds) < 2 * WARM:
                why = outcome.why or f"{len(outcome.rounds)} steps; {2 * WARM} are needed"
                raise ConfigError(f"the simulator cannot be told how fast this machine is: {why}")
        free, apart, together = runs
        steps = zip(apart.ends, apart.ends[1:], apart.rounds[1:], strict=False)
        between = [end - before - taken for before, end, taken in steps]
        beyond = [
            [taken - delay(step) for step, taken in enumerate(outcome.rounds)]
            for outcome, delay in zip(runs[1:], slowest, strict=True)
        ]
        rows = ((free.rounds, free), (beyond[0], apart), (beyond[1], together), (between, apart))
        scales = [1.0 if math.isnan(cpu) else cpu / outcome.cpu_seconds for _, outcome in rows]
        middles = [max(0.0, scale * _middle(row[WARM:])) for scale, (row, _) in zip(scales, rows, strict=True)]
        return _Figures(*middles)
