"""The speed of this machine, for the simulator: measured by short real runs before the benchmark's own.

Three wait for all. The first has no delays: its rounds take the time in which all workers compute at once on the available
cores. The delays of the other two hide the computing: their rounds exceed the slowest delay by the time of the messages,
of one worker or of all at once. The time between rounds is the master's. Three more say what differs: one partition a
worker (`SINGLE`), cut rows of four bits (`CODED`), and automatic choices (`CHOOSING`).

The speed of a shared core changes from run to run (by half within a minute on a virtual machine). The processor time of
a run's partitions, by the workers' clocks, gives the machine's speed in that run: all constants scale with it. A worker's
first partition of a step finds cold caches, so that fewer partitions a step take more of a processor each.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean, median

from gcdist.bench.cells import Cell, Outcome
from gcdist.bench.problems import get_problem
from gcdist.bench.schemes import FOUR_BITS
from gcdist.config import ConfigError
from gcdist.straggler import make_delays

SEED = 1000  # neither the benchmark's nor the tuning's
SECONDS, PACES = 5.0, 60.0  # a run lasts the longer of the two; the second in paces
NEVER = -1.0  # a loss
FITS = 5  # corrections of the constants
CODED_FITS = 3  # the same, of a scheme that plans
SIMULATED = 0.5  # of a run's length: the simulator needs fewer rounds, as its machine is constant
ACCIDENTS = 0.02  # share of the longest rounds that is left out
WARM = 5  # steps that are not measured
FREE, APART, TOGETHER = "none", "mild", "together"  # the last two have delays longer than any computing
CODED, CHOOSING = "partial", "auto"  # schemes
FEW = 4  # partitions of a worker in the runs of schemes that plan
UNCUT = 10.0  # paces: a deadline that every row makes


@dataclass(frozen=True, slots=True)
class Machine:
    """Constants of the settings' ``simulate`` section, in seconds, when a partition takes ``cpu_seconds`` of a processor.

    Those with a default are missing in measurements of older versions, which had ``send_seconds`` in their place.

    Args:
        master_seconds: between two rounds that wait for all, of ``share`` partitions a worker.
        coded_seconds: more than that for a scheme with a deadline and four bits.
        single_cpu_seconds: processor time of a partition where a worker computes one a step; 0: not measured.
        single_master_seconds: `master_seconds` with one partition a worker.
        share: partitions of a worker in the other measurements.
    """

    latency: float
    compute_seconds: float  # of one core
    send_seconds: float
    master_seconds: float
    cores: int
    cpu_seconds: float
    link_seconds: float = 0.0
    encode_seconds: float = 0.0  # of a four-bit message
    coded_seconds: float = 0.0
    choice_seconds: float = 0.0
    single_cpu_seconds: float = 0.0
    single_master_seconds: float = 0.0
    share: int = 0

    def at(self, cpu_seconds: float, share: int = 0) -> Machine:
        """The constants for this processor time of a partition; unchanged if it is not known (NaN).

        ``share``: partitions a step of the worker that it was measured with; 0: as many as in the measurement.
        """
        speed = self.slower(share, cpu_seconds)
        if math.isnan(speed):
            return self
        scaled = {name: speed * value for name, value in asdict(self).items() if name not in ("cores", "share")}
        return replace(self, **scaled)

    def slower(self, share: int, cpu_seconds: float) -> float:
        """How many times longer everything takes where a partition, one of ``share``, takes these processor seconds."""
        usual = self.cpu_seconds
        if share and self.single_cpu_seconds:
            usual += (self.single_cpu_seconds - usual) * self._towards_single(1 / share, 1 / self.share)
        return cpu_seconds / usual if usual > 0 else math.nan

    def busy_seconds(self, workers: int, share: int) -> float:
        """Seconds that all cores together need for a step in which every worker computes ``share`` partitions."""
        of_links = self.send_seconds + 2 * self.link_seconds
        return workers * (share * self.compute_seconds + of_links) / self.cores

    def section(self, cell: Cell) -> dict[str, float]:
        """For the settings of the cell's run."""
        names = ("latency", "compute_seconds", "send_seconds", "cores", "link_seconds", "choice_seconds")
        master, what = self.master_seconds, cell.what
        if self.single_cpu_seconds:
            master += (self.single_master_seconds - master) * self._towards_single(cell.even_share, self.share)
        coded = what.plans
        return {
            **{name: getattr(self, name) for name in names},
            "master_seconds": master + (self.coded_seconds if coded else 0.0),
            "encode_seconds": self.encode_seconds if what.quantizer["name"] == FOUR_BITS["name"] else 0.0,
        }

    def _towards_single(self, at: float, usual: float) -> float:
        """How far ``at`` is on the way from ``usual`` to 1."""
        return (at - usual) / (1 - usual) if usual != 1 else 0.0


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
    """The runs: no delays, one worker after another, all at once; cut rows, choices, and one partition a worker.

    The last one only where the samples of a step are tuned.
    """
    budget, problem = max(SECONDS, PACES * cell.pace), get_problem(cell.problem)
    run = replace(cell, scheme="sync", seed=SEED, deadline="wait", target=NEVER, budget=budget, share=problem.share)
    run = replace(run, lr=problem.lr, delays=FREE)
    few = min(FEW, problem.share) if problem.shares else problem.share
    return (
        *(replace(run, delays=delays) for delays in (FREE, APART, TOGETHER)),
        replace(run, scheme=CODED, deadline=UNCUT * cell.pace, share=few),
        replace(run, scheme=CHOOSING, deadline="auto", share=few),
        *([replace(run, delays=APART, share=1, seed=SEED + 1)] if problem.shares and problem.share > 1 else []),
    )


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
    slowest = [_slowest(each) for each in cells[1:3]]
    runs = [run(each) for each in cells]
    for outcome in runs:
        if len(outcome.rounds) < 2 * WARM:
            why = outcome.why or f"{len(outcome.rounds)} steps; {2 * WARM} are needed"
            raise ConfigError(f"the simulator cannot be told how fast this machine is: {why}")
    cpu = fmean(outcome.cpu_seconds for outcome in runs[:3])
    real = _Figures.of(runs[:3], slowest, cpu)
    machine = Machine(
        0.0, 0.0, 0.0, real.between, cores or len(os.sched_getaffinity(0)), cpu, share=cells[0].even_share
    )
    short = [replace(each, budget=SIMULATED * each.budget) for each in cells]
    for _ in range(FITS):
        found = _Figures.of([predict(each, machine) for each in short[:3]], slowest)
        machine = _nearer(machine, real, found, cell.workers)
    if len(runs) > 5:
        single = runs[5]
        seconds = _middle(_between(single)[WARM:])
        machine = replace(machine, single_cpu_seconds=single.cpu_seconds, single_master_seconds=seconds)
    machine = _with_coded(machine, runs[3], cells[3], lambda at: predict(short[3], at))
    choice = runs[4].choice_seconds / machine.slower(cells[4].even_share, runs[4].cpu_seconds)
    return replace(machine, choice_seconds=0.0 if math.isnan(choice) else choice)


def _nearer(machine: Machine, real: _Figures, found: _Figures, workers: int) -> Machine:
    """One correction of what runs that wait for all can tell.

    Latency stays 0: all processes are on one machine, and what a message takes of it is `link_seconds`.
    """
    free, apart, together = (real.free - found.free, real.apart - found.apart, real.together - found.together)
    # turns that the last message waits for: its round is in the middle, or the last one, and its own way back
    alone, last = (workers + 3) / 2, workers + 1.0
    link = max(0.0, machine.link_seconds + (alone * apart + last * together) / (alone**2 + last**2))
    crowd = max(1.0, workers / machine.cores)  # workers that share a core when all compute
    free -= last * (link - machine.link_seconds)
    compute = max(0.0, machine.compute_seconds + free / (crowd * machine.share))
    master = max(0.0, machine.master_seconds + real.between - found.between)
    return replace(machine, link_seconds=link, compute_seconds=compute, master_seconds=master)


def _with_coded(machine: Machine, real: Outcome, cell: Cell, predict: Callable[[Machine], Outcome]) -> Machine:
    """The time of four bits, and of the master for a scheme with a deadline."""
    scale, crowd = machine.slower(cell.even_share, real.cpu_seconds), max(1.0, cell.workers / machine.cores)
    for _ in range(CODED_FITS):
        found = predict(machine)
        rounds = _middle(real.rounds[WARM:]) / scale - _middle(found.rounds[WARM:])
        between = median(_between(real)[WARM:]) / scale - median(_between(found)[WARM:])
        encode = max(0.0, machine.encode_seconds + rounds / crowd)
        coded = max(0.0, machine.coded_seconds + between)
        machine = replace(machine, encode_seconds=encode, coded_seconds=coded)
    return machine


def _between(outcome: Outcome) -> list[float]:
    """Seconds between two rounds."""
    steps = zip(outcome.ends, outcome.ends[1:], outcome.rounds[1:], strict=False)
    return [end - before - taken for before, end, taken in steps]


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
        free, apart, together = runs
        between = _between(apart)
        beyond = [
            [taken - delay(step) for step, taken in enumerate(outcome.rounds)]
            for outcome, delay in zip(runs[1:], slowest, strict=True)
        ]
        rows = ((free.rounds, free), (beyond[0], apart), (beyond[1], together), (between, apart))
        scales = [1.0 if math.isnan(cpu) else cpu / outcome.cpu_seconds for _, outcome in rows]
        middles = [max(0.0, scale * _middle(row[WARM:])) for scale, (row, _) in zip(scales, rows, strict=True)]
        return _Figures(*middles)
