"""The whole benchmark: tune in the simulator, run every cell by real processes, continue after an interruption."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from gcdist.bench.cells import Cell, Outcome, get_scheme, read_outcome, write_json
from gcdist.bench.loop import simulated
from gcdist.bench.machine import Machine, machines_in, measure
from gcdist.bench.network import ThinLinks, why_not
from gcdist.bench.pace import pace_line
from gcdist.bench.peers import check_installed
from gcdist.bench.problems import get_problem
from gcdist.bench.processes import Pool, end_with_benchmark, forkserver, run_cell
from gcdist.bench.scenarios import make_scenario
from gcdist.bench.tables import load_results
from gcdist.bench.tuning import Choice, tune, tune_timeout
from gcdist.bench.validate import Pair, compare, pair_rows, read_pairs
from gcdist.config import ConfigError

TUNING_SEEDS = (1001, 1002)  # never those of the benchmark
START_SECONDS = 1.5  # start of a cell's processes, in the estimate of the cost
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Bench:
    """The options of a benchmark. ``target`` None: the problem's own. ``samples``: tune the samples of a step, too."""

    problem: str
    schemes: tuple[str, ...]
    delays: tuple[str, ...]
    workers: int = 8
    seeds: int = 3
    target: float | None = None
    budget: float = 40.0
    pace: float = 0.05
    samples: bool = True

    def check(self) -> None:
        """ConfigError in one line for unknown names and numbers out of range."""
        for name in self.schemes:
            check_installed(get_scheme(name).engine, name)
        for name in self.delays:
            make_scenario(name, self.workers, get_problem(self.problem).share, self.pace)
        if len({self.scenario(name) for name in self.delays}) < len(self.delays):
            raise ConfigError(f"delays: two of {', '.join(self.delays)} have the same name")
        for key, value, least in (("workers", self.workers, 2), ("seeds", self.seeds, 1)):
            if value < least:
                raise ConfigError(f"{key}: found {value}; should be {least} or more")
        for key, number in (("target", self.target), ("budget", self.budget), ("pace", self.pace)):
            if number is not None and not (0 < number < math.inf):
                raise ConfigError(f"{key}: found {number:g}; should be above 0")

    def scenario(self, delays: str) -> str:
        """Short name of a scenario."""
        return make_scenario(delays, self.workers, get_problem(self.problem).share, self.pace).name

    def cell(self, delays: str, scheme: str, seed: int) -> Cell:
        """The cell, its step size not chosen yet."""
        problem = get_problem(self.problem)
        target = problem.target if self.target is None else self.target
        return Cell(
            self.problem,
            delays,
            scheme,
            self.workers,
            seed,
            problem.lr,
            get_scheme(scheme).deadline,
            self.pace,
            target,
            self.budget,
        )

    def order(self) -> Iterator[tuple[int, str, str]]:
        """(seed, delays, scheme): seeds outermost, schemes of a scenario interleaved in an order drawn by the seed."""
        for seed in range(self.seeds):
            for i, delays in enumerate(self.delays):
                rng = np.random.default_rng((seed, i))
                for s in rng.permutation(len(self.schemes)):
                    yield seed, delays, self.schemes[int(s)]


def open_folder(out: Path, bench: Bench) -> None:
    """``bench.json`` names the settings of the folder's results; ConfigError if they differ from these.

    Schemes, delays and seeds may grow: existing results are not run again.
    """
    path = out / "bench.json"
    fixed = {key: value for key, value in asdict(bench).items() if key not in ("schemes", "delays", "seeds", "problem")}
    if path.exists():
        there = json.loads(path.read_text(encoding="utf-8"))
        for key, value in fixed.items():
            if there.get(key) != value:
                raise ConfigError(
                    f"out: {out} holds results with {key} = {there.get(key)}, not {value}; take another folder"
                )
    write_json(path, fixed)


def note_command(out: Path, command: str) -> None:
    """``commands.txt`` has each command that made the folder once."""
    path = out / "commands.txt"
    known = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    if command not in known:
        out.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in [*known, command]), encoding="utf-8")


def machine_of(bench: Bench, out: Path, say: Say, context: Pool) -> Machine:
    """The simulator's constants of this machine, from the folder if they were measured before."""
    if known := machines_in(out).get(bench.problem):
        say(pace_line(bench.problem, known, bench.workers, bench.pace))
        return known
    path = out / "machine" / f"{bench.problem}.json"
    say("measuring this machine for the simulator: six short runs")
    cell = bench.cell(bench.delays[0], "sync", 0)
    machine = measure(cell, lambda run: run_cell(context, run, path.parent / run.place), simulated)
    write_json(path, asdict(machine))
    say(
        f"{machine.cores} cores; a partition takes {machine.compute_seconds * 1e3:.2f} ms of one, a message "
        f"{machine.latency * 1e3:.2f} ms, and {machine.link_seconds * 1e3:.2f} ms of a core (four bits "
        f"{machine.encode_seconds * 1e3:.2f} ms more), the master {machine.master_seconds * 1e3:.2f} ms between two rounds "
        f"(with a plan {machine.coded_seconds * 1e3:.2f} ms more), a choice {machine.choice_seconds * 1e3:.2f} ms"
    )
    say(pace_line(bench.problem, machine, bench.workers, bench.pace))
    return machine


def tune_all(
    bench: Bench, out: Path, say: Say, cores: int, context: Pool, machine: Machine
) -> dict[tuple[str, str], Choice]:
    """The choice of each (delays, scheme), from the folder if it was made before."""
    choices: dict[tuple[str, str], Choice] = {}
    tasks: list[tuple[str, str]] = []
    for delays in bench.delays:
        for name in bench.schemes:
            of = (delays, get_scheme(name).like or name)
            path = _choice_path(bench, out, *of)
            if of in choices or of in tasks:
                continue
            if path.exists():
                choices[of] = Choice.read(json.loads(path.read_text(encoding="utf-8")))
            else:
                tasks.append(of)
    if tasks:
        say(f"tuning {len(tasks)} pairs of scheme and delays in the simulator, seeds {TUNING_SEEDS}")
        with ProcessPoolExecutor(cores, mp_context=context, initializer=end_with_benchmark) as pool:
            waiting = {pool.submit(_tuned, bench, *of, machine): of for of in tasks}
            for done in as_completed(waiting):
                of = waiting[done]
                choices[of] = done.result()
                write_json(_choice_path(bench, out, *of), choices[of].as_dict())
                say(f"[{len(choices)}] {choice_line(bench.scenario(of[0]), of[1], choices[of])}")
    return choices


def tune_peers(bench: Bench, out: Path, say: Say, context: Pool, choices: dict[tuple[str, str], Choice]) -> None:
    """Add the timeouts of other projects, chosen by real runs; step size and samples are those of ``like``."""
    for delays in bench.delays:
        for name in [name for name in bench.schemes if get_scheme(name).patience]:
            path = _choice_path(bench, out, delays, name)
            if path.exists():
                choices[delays, name] = Choice.read(json.loads(path.read_text(encoding="utf-8")))
                continue
            cell, like = bench.cell(delays, name, TUNING_SEEDS[0]), choices[delays, get_scheme(name).like]
            say(
                f"tuning the timeout of {name}, {bench.scenario(delays)}, by {len(get_scheme(name).patience)} real runs"
            )
            place = path.with_suffix(".runs")
            choices[delays, name] = tune_timeout(
                cell,
                like,
                lambda trial, place=place: _run(context, trial, place / f"{trial.deadline}-{trial.share}.json"),  # type: ignore[misc]
            )
            write_json(path, choices[delays, name].as_dict())
            say(choice_line(bench.scenario(delays), name, choices[delays, name]))


def choice_line(scenario: str, scheme: str, choice: Choice) -> str:
    """A choice, and its grid."""
    lrs = sorted({lr for lr, _, _, _ in choice.tried})
    deadlines = sorted({d for _, d, _, _ in choice.tried if isinstance(d, float)})
    shares = sorted({share for _, _, share, _ in choice.tried if share is not None})
    grid = f"lr of {', '.join(f'{x:g}' for x in lrs)}"
    if deadlines:
        grid += f"; deadline of {', '.join(f'{x:.3g}' for x in deadlines)} s"
    if shares:
        grid += f"; partitions of {', '.join(map(str, shares))}"
    deadline = f"{choice.deadline:.3g} s" if isinstance(choice.deadline, float) else choice.deadline
    if choice.share is not None:
        deadline += f", {choice.share} partitions a worker"
    comes = f"{choice.cost:.1f} s" if choice.reached else "target not reached"
    what, by = ("timeout", "real runs") if get_scheme(scheme).patience else ("deadline", "the simulator")
    return f"{scenario}, {scheme}: lr {choice.lr:g}, {what} {deadline}, {comes} in {by} ({grid})"


def _tuned(bench: Bench, delays: str, scheme: str, machine: Machine) -> Choice:
    run, problem = partial(simulated, machine=machine), get_problem(bench.problem)
    shares = problem.shares if bench.samples else ()
    return tune(bench.cell(delays, scheme, 0), TUNING_SEEDS, problem.lr, run, shares)


def _choice_path(bench: Bench, out: Path, delays: str, scheme: str) -> Path:
    return out / "tuning" / bench.problem / bench.scenario(delays) / f"{scheme}.json"


def cells_of(bench: Bench, choices: dict[tuple[str, str], Choice]) -> list[Cell]:
    """All runs in the order in which they are made."""
    cells = []
    for seed, delays, name in bench.order():
        scheme = get_scheme(name)
        choice = choices[delays, name if scheme.patience else scheme.like or name]
        deadline = scheme.deadline if scheme.tunes == "step" and not scheme.patience else choice.deadline
        cells.append(bench.cell(delays, name, seed).with_choice(choice.lr, deadline, choice.share))
    return cells


def estimate(bench: Bench, choices: dict[tuple[str, str], Choice], cells: Sequence[Cell]) -> float:
    """Seconds of these cells, predicted by the simulator."""
    total = 0.0
    for cell in cells:
        choice = choices.get((cell.delays, cell.scheme)) or choices[cell.delays, cell.what.like]
        total += START_SECONDS + min(choice.cost, bench.budget)
    return total


def prepare(bench: Bench, out: Path, say: Say, cores: int) -> list[Cell]:
    """Measure the machine and tune, as far as the folder does not have it; all runs in the order of `cells_of`.

    Without the runs: only the measuring of the machine, some seconds, needs a machine that does nothing else.
    """
    bench.check()
    blocked = why_not() if any(bench.cell(delays, "sync", 0).scenario.rate for delays in bench.delays) else None
    if blocked:
        raise ConfigError(f'delays: "network" cannot be run here: {blocked}')
    open_folder(out, bench)
    context = forkserver()
    machine = machine_of(bench, out, say, context)
    choices = tune_all(bench, out, say, cores, context, machine)
    tune_peers(bench, out, say, context, choices)
    cells = cells_of(bench, choices)
    missing = [cell for cell in cells if _made(out / "cells" / cell.place) is None]
    if missing:
        minutes = estimate(bench, choices, missing) / 60
        say(f"{len(missing)} of {len(cells)} runs are to be made, about {minutes:.0f} minutes")
    return cells


def run(bench: Bench, out: Path, say: Say, cores: int) -> list[tuple[Cell, Outcome]]:
    """Tune, run the missing cells, return all outcomes; after SIGINT the next call continues with the folder."""
    cells, context = prepare(bench, out, say, cores), forkserver()
    there = {cell.place: found for cell in cells if (found := _made(out / "cells" / cell.place)) is not None}
    missing = [cell for cell in cells if cell.place not in there]
    for number, cell in enumerate(missing, 1):
        there[cell.place] = cell, _run(context, cell, out / "cells" / cell.place)
        say(f"[{number}/{len(missing)}] {outcome_line(*there[cell.place])}")
    return [there[cell.place] for cell in cells]


def validated(out: Path, cores: int, anew: bool = True) -> list[Pair]:
    """The simulator against every real run of the folder; also its ``validation.json``.

    Without ``anew``, that file's predictions of the same runs are kept.
    """
    results, machines, path = load_results(out), machines_in(out), out / "validation.json"

    def predict(runs: Sequence[tuple[Cell, Outcome]]) -> list[Outcome]:
        known = [(machines.get(cell.problem), real.cpu_seconds, cell.even_share) for cell, real in runs]
        then = [machine and machine.at(cpu_seconds, share) for machine, cpu_seconds, share in known]
        with ProcessPoolExecutor(cores, mp_context=forkserver(), initializer=end_with_benchmark) as pool:
            return list(pool.map(simulated, [cell for cell, _ in runs], then))

    pairs = compare(results, predict, read_pairs(path) if path.exists() and not anew else ())
    write_json(path, pair_rows(pairs))
    return pairs


def _made(path: Path) -> tuple[Cell, Outcome] | None:
    """An earlier run; None: there is none, or it failed by itself and must be repeated."""
    if not path.exists():
        return None
    cell, outcome = read_outcome(path)
    return None if outcome.status == "failed" else (cell, outcome)


def _run(context: Pool, cell: Cell, path: Path) -> Outcome:
    rate = cell.scenario.rate
    if rate is None:
        return run_cell(context, cell, path)
    with ThinLinks(cell.workers + 1, rate) as links:
        return run_cell(context, cell, path, links)


def outcome_line(cell: Cell, outcome: Outcome) -> str:
    """One run for the log."""
    what = f"{cell.scenario.name}, {cell.scheme}, seed {cell.seed}"
    if outcome.status == "reached":
        return f"{what}: {outcome.seconds:.2f} s, {outcome.steps} steps, {outcome.bytes_up / 1e6:.2f} MB up"
    return f"{what}: {outcome.status} after {outcome.steps} steps, best loss {outcome.best:.3g} {outcome.why}".rstrip()
