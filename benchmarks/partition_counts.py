"""How many partitions a worker: virtual seconds of `auto` to a training loss of 0.1 on digits, 8 workers, in the simulator.

``--samples batch``: every partition has a batch of 2 samples, so that twice the partitions are twice the global batch and
twice the work of a step: what a default does to somebody who leaves the batch size as it is. Step sizes 0.2, 0.4 and 0.8 are
tried. ``--samples step``: a worker's even share is 16 samples a step, in 1, 2, 4 or 8 partitions: the same batch and work,
cut finer; step size 0.8. Each partition costs 0.3 ms beside its share of the pace, 50 ms for 16 samples. Each line is JSON:
the mean over seeds at the best step size, null if a seed did not reach the loss.

python benchmarks/partition_counts.py --samples step --delays none,exponential,spells --seeds 2
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import replace
from itertools import product
from statistics import fmean
from unittest.mock import patch

from gcdist.bench import cells, loop
from gcdist.bench.cells import Cell
from gcdist.bench.machine import Machine
from gcdist.bench.problems import Problem, get_problem

FIXED = 0.0003  # seconds of one more partition, beside its samples
MACHINE = Machine(0.001, FIXED, 0.0, 0.004, 0, math.nan)
WORKERS, PACE, BUDGET, SAMPLES, BATCH = 8, 0.05, 60.0, 16, 2
FIRST_SEED = 3001


def mean_seconds(problem: Problem, share: int, delays: str, seeds: int, lr: float) -> float | None:
    """To the target; None: a seed did not reach it."""
    found = []
    with (
        patch.object(cells, "get_problem", lambda name: problem),
        patch.object(loop, "get_problem", lambda name: problem),
    ):
        for seed in range(FIRST_SEED, FIRST_SEED + seeds):
            cell = Cell("digits", delays, "auto", WORKERS, seed, lr, "auto", PACE, problem.target, BUDGET, share)
            outcome = loop.simulated(cell, MACHINE)
            if outcome.status != "reached":
                return None
            found.append(outcome.seconds)
    return fmean(found)


def main() -> None:
    """Print a line for every number of partitions and kind of delays."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", choices=("batch", "step"), default="step")
    parser.add_argument("--delays", default="none,exponential,spells")
    parser.add_argument("--shares", default="1,2,4,8")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--lrs", help="step sizes to try")
    options = parser.parse_args()
    lrs = options.lrs or ("0.8" if options.samples == "step" else "0.2,0.4,0.8")
    own = get_problem("digits")
    for delays, share in product(options.delays.split(","), map(int, options.shares.split(","))):
        problem = replace(own, share=share, batch_size=SAMPLES // share) if options.samples == "step" else own
        by_lr = {lr: mean_seconds(problem, share, delays, options.seeds, float(lr)) for lr in lrs.split(",")}
        reached = {lr: seconds for lr, seconds in by_lr.items() if seconds is not None}
        best = min(reached, key=lambda lr: reached[lr], default=None)
        row = {"samples": options.samples, "delays": delays, "partitions": share, "lr": best}
        print(json.dumps({**row, "seconds": None if best is None else round(reached[best], 3)}), flush=True)


if __name__ == "__main__":
    main()
