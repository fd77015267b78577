"""The scheme that chooses by itself against others, in the simulator: virtual seconds to a problem's target.

    python benchmarks/automatic.py [--problem digits] [--schemes auto,sync] [--delays none,exponential,...] [--seeds 2] \
[--lrs 0.8] [--deadlines 0.03,0.05]

Eight workers, eight partitions each, a pace of 50 ms, 4 ms at the master and 1 ms of latency a message: delays as in
`gcdist bench wallclock`, ``trace:FILE.csv`` too. Each line is JSON, with the seconds of every seed (null: not reached).
Step sizes and, for schemes that need one, deadlines are tried one after another: take the best line of a scheme.
"""

from __future__ import annotations

import argparse
import json
import math
from itertools import product
from statistics import fmean

from gcdist.bench.cells import Cell, Deadline
from gcdist.bench.loop import simulated
from gcdist.bench.machine import Machine
from gcdist.bench.problems import get_problem
from gcdist.bench.schemes import SCHEMES

MACHINE = Machine(0.001, 0.0005, 0.0, 0.004, 0, math.nan)
WORKERS, PACE, BUDGET = 8, 0.05, 60.0
FIRST_SEED = 2001


def line(problem: str, scheme: str, delays: str, seeds: int, lr: float, deadline: Deadline) -> dict[str, object]:
    """What some runs came to."""
    target = get_problem(problem).target
    runs = []
    for seed in range(FIRST_SEED, FIRST_SEED + seeds):
        cell = Cell(problem, delays, scheme, WORKERS, seed, lr, deadline, PACE, target, BUDGET)
        runs.append(simulated(cell, MACHINE))
    seconds = [run.seconds if run.status == "reached" else None for run in runs]
    reached = [each for each in seconds if each is not None]
    mean = fmean(reached) if len(reached) == seeds else None
    about = {"problem": problem, "delays": delays, "scheme": scheme, "lr": lr, "deadline": deadline}
    return {**about, "mean": mean, "seconds": seconds, "steps": [run.steps for run in runs]}


def main() -> None:
    """Print a line for every combination."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--problem", default="digits", help="of the benchmark: digits, logistic, least-squares")
    parser.add_argument("--schemes", default="auto,sync")
    parser.add_argument("--delays", default="none,exponential,pareto,spells,dead")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--lrs", default="0.8")
    parser.add_argument("--deadlines", default="0.03,0.05", help="seconds, of schemes that need one")
    asked = parser.parse_args()
    for delays, scheme in product(asked.delays.split(","), asked.schemes.split(",")):
        what = SCHEMES[scheme]
        given: list[Deadline] = [float(each) for each in asked.deadlines.split(",")]
        for lr, deadline in product(asked.lrs.split(","), given if what.tunes == "deadline" else [what.deadline]):
            print(json.dumps(line(asked.problem, scheme, delays, asked.seeds, float(lr), deadline)), flush=True)


if __name__ == "__main__":
    main()
