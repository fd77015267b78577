"""The automatic scheme against an oracle that knows the workers' laws, in the simulator: is learning them fast enough?

    python benchmarks/oracle.py [--delays none,exponential,...,abrupt] [--seeds 2] [--steps 300]

Both choose by the same objective and code. The oracle's laws are `DRAWS` draws of each worker's law from a seed of their
own, there before the first step and replaced at the step at which the law changes; the scheme has what its steps have
shown. Eight workers, eight partitions each, a pace of 50 ms, 4 ms at the master, 1 ms of latency a message; logistic
regression on batches of two samples, and parameters that stay, so that ``S^2/|g|^2`` stays, too. Each line is JSON: mean
seconds of a step, the noise over ``|g|^2`` that cuts and absence came to, the cost ``seconds (1 + noise)``, of both, and
the ratio of costs. "abrupt": worker 8 becomes ten times slower at step 200 and recovers at 600, of 800 steps; ``within``
is the ratio in the 30 steps from each change on, ``after`` that of the steps behind them.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from gcdist.api import simulate
from gcdist.bench.cells import Cell
from gcdist.bench.machine import Machine
from gcdist.bench.scenarios import make_scenario
from gcdist.config import Config
from gcdist.master.round_result import RoundResult
from gcdist.master.scheme import Scheme
from gcdist.straggler.known_laws import KnownLaws
from gcdist.tasks import load_task
from gcdist.types import F64

MACHINE = Machine(0.001, 0.0005, 0.0, 0.004, 0, math.nan)
WORKERS, SHARE, PACE = 8, 8, 0.05
FIRST_SEED, DRAWS = 3001, 400
SLOW, BACK, LONG, TIMES, FOLLOWED = 200, 600, 800, 10.0, 30
OPTIONS = {"samples": 4096, "dim": 20, "differ": 0.0, "condition": 4.0, "l2": 0.01}


@dataclass(frozen=True, slots=True)
class Run:
    """Seconds and noise of each step, (T,)."""

    seconds_T: F64
    noise_T: F64
    first: int  # the step of the first choice
    before: float  # share of the run's seconds that was spent before it

    def cost(self, steps: slice = slice(None)) -> float:
        """``mean seconds (1 + mean noise)``."""
        return float(self.seconds_T[steps].mean() * (1 + self.noise_T[steps].mean()))


def config(delays: str, seed: int, folder: Path) -> Config:
    """The settings of a run."""
    cell = Cell(
        "logistic", "none" if delays == "abrupt" else delays, "auto", WORKERS, seed, 0.0, "auto", PACE, 0.0, 1e9
    )
    made = cell.config(MACHINE.section(cell))
    inject = dict(make_scenario(cell.delays, WORKERS, SHARE, PACE).inject)
    if delays == "abrupt":
        path = folder / "times.csv"
        rows = [
            [PACE * (TIMES if i == WORKERS - 1 and SLOW <= (t - seed) % LONG < BACK else 1) for i in range(WORKERS)]
            for t in range(LONG)  # the run's step 0 reads the row that its seed says
        ]
        lines = [",".join(["step", *(f"worker{i + 1}" for i in range(WORKERS))])]
        path.write_text("\n".join(lines + [",".join(map(str, [t, *row])) for t, row in enumerate(rows)]) + "\n")
        inject = {"model": "trace", "file": path, "unit": 1 / SHARE, "scale_with_load": True}
    task = {"name": "logistic", "batch_size": 2, "options": {**OPTIONS, "seed": seed}}
    return Config(**{**made.model_dump(exclude_unset=True), "inject": inject, "task": task})


def realised(result: RoundResult, spread: float) -> float:
    """The noise over ``|g|^2`` of what was done and of what did not come (math section 10), partitions being alike."""
    load_R, k, noise = np.diff(result.plan.A_RK.indptr), result.plan.A_RK.shape[1], 0.0
    done = {counted.row: len(counted.sidecar.parts_P4) for counted in result.counted}
    for row in np.flatnonzero(result.plan.weighted_R()).tolist():
        load, p = int(load_R[row]), float(result.terms.p_R[row])
        energy = max(0.0, 1 - k * spread) * (load / k) ** 2 + load * spread
        if row in done:
            noise += (p / (1 - p)) ** 2 * energy + (load * load / done[row] - load) * spread / (1 - p) ** 2
        else:
            noise += energy
    return noise


def ran(delays: str, seed: int, steps: int, oracle: bool, spread: float | None) -> tuple[Run, float]:
    """A run, and the spread ``S^2/|g|^2`` that it measured; ``spread``: count the noise by this one."""
    seconds, results, first, before = [], [], 0, 0.0
    with tempfile.TemporaryDirectory(prefix="gcdist-oracle-") as name:
        given = config(delays, seed, Path(name))
        task = load_task("logistic", {**OPTIONS, "seed": seed}, 2, Path())
        with simulate(task, given, folder=Path(name, "run"), say=lambda kind, text: None) as cluster:
            scheme, run_round = cluster._scheme, cluster._run_round
            laws = None
            if oracle:
                model, draws = cluster.session.delays, range(10**6, 10**6 + DRAWS)
                of_steps = (lambda t: (t,)) if delays == "abrupt" else (lambda t: draws)
                seeds = {"seed": seed} if delays == "abrupt" else {}  # a trace begins at a row that the seed says
                laws = scheme.maker.laws = KnownLaws(WORKERS, model, of_steps, 0.0005, **seeds)

            def kept(number: int, scheme: Scheme) -> RoundResult:
                results.append(run_round(number, scheme))
                return results[-1]

            setattr(cluster, "_run_round", kept)  # noqa: B010
            for step in cluster.steps(steps):
                if laws is not None:
                    laws.at(step.number)
                info = step.backward()
                seconds.append(info.step_seconds)
                if scheme.choice is None:  # type: ignore[attr-defined]
                    first, before = step.number + 1, before + info.step_seconds
            found = scheme.maker.spread
    noise = [realised(result, found if spread is None else spread) for result in results]
    run = Run(np.array(seconds), np.array(noise), first, before / sum(seconds))
    return run, found


def line(delays: str, seed: int, steps: int) -> dict[str, object]:
    """Both runs with one seed."""
    steps = LONG if delays == "abrupt" else steps
    known, spread = ran(delays, seed, steps, True, None)
    mine, _ = ran(delays, seed, steps, False, spread)
    told: dict[str, object] = {"delays": delays, "seed": seed, "steps": steps, "ratio": mine.cost() / known.cost()}
    for name, run in (("auto", mine), ("oracle", known)):
        told[name] = {"seconds": float(run.seconds_T.mean()), "noise": float(run.noise_T.mean()), "cost": run.cost()}
    if delays == "abrupt":
        ends = (SLOW, SLOW + FOLLOWED, BACK, BACK + FOLLOWED, LONG)
        parts = [mine.cost(slice(*pair)) / known.cost(slice(*pair)) for pair in pairwise(ends)]
        told["within"], told["after"] = parts[::2], parts[1::2]
    return {**told, "warm-up steps": mine.first, "warm-up share": mine.before}


def main() -> None:
    """Print a line for each scenario and seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--delays", default="none,exponential,pareto,spells,mild,abrupt")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=300)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for delays in asked.delays.split(","):
        for seed in range(FIRST_SEED, FIRST_SEED + asked.seeds):
            print(json.dumps(line(delays, seed, asked.steps)), flush=True)


if __name__ == "__main__":
    main()
