"""A forecast of the automatic scheme from recorded times: the same choices by the same code, step by step.

Each choice sees what the steps before it have shown and no more. So the forecast is of what a run can learn, not of what
somebody who knows the times beforehand could do.
"""

from __future__ import annotations

import numpy as np

from gcdist.planning.cut_choice import choose_cut, patience
from gcdist.planning.objective import Prospect
from gcdist.straggler import WorkLaws
from gcdist.types import F64, Seen, WorkTimes

MOST_BETWEEN = 20  # steps between two choices
MOST_MISS, LEAST_MISSES = 0.95, 0.25  # bounds of p, the second one over the rows seen


def foresee(
    seconds_TN: F64,
    partitions: int,
    spread: float,
    noise_most: float,
    outside_N: F64 | float = 0.0,
    between: float = 0.0,
) -> Prospect:
    """Mean seconds and noise of the steps of a run of the automatic scheme on these times; its first step waits for all.

    Args:
        seconds_TN: recorded seconds of each step (T) and worker (N) at an even share of the work. The r-th of l partitions
            of a row is done after r/l of its time, which grows with l.
        partitions: of an even share.
        spread: ``S^2/|g|^2`` of one partition.
        noise_most: see `choose_cut`.
        outside_N: seconds of a worker's round outside its row, which do not grow with the load.
        between: seconds between two steps.
    """
    steps, workers = seconds_TN.shape
    k = partitions * workers
    overhead_N = np.broadcast_to(np.asarray(outside_N, np.float64), (workers,)).tolist()
    laws, live_N = WorkLaws(workers), np.ones(workers, bool)
    deadline, load_N = np.inf, np.full(workers, partitions)
    age, choices, longest, seconds, noise = 0, 0, np.inf, 0.0, 0.0
    for step in range(steps):
        if step > 0 and (laws.changed or laws.spells.moved or age >= min(MOST_BETWEEN, choices)):
            laws.changed.clear()
            laws.spells.moved.clear()
            found = choose_cut(
                laws, live_N, k, np.zeros(workers), spread, noise_most, deadline, between, None, load_N
            )  # fmt: skip
            deadline, load_N = found.deadline, found.load_N
            age, choices, longest = 0, choices + 1, patience(found.waiting)
        age += 1
        aim = min(deadline, longest)
        end = 0.0
        for worker, overhead in enumerate(overhead_N):
            cut = max(0.0, aim - overhead)
            pace, load = seconds_TN[step, worker] / partitions, int(load_N[worker])
            able = (
                int(min(max(load, 1), np.floor(cut / pace * (1 + 1e-12))))
                if np.isfinite(cut) and pace > 0
                else max(load, 1)
            )
            if load:
                p = _miss(laws, worker, cut)
                energy = max(0.0, 1 - k * spread) * (load / k) ** 2 + load * spread
                noise += p / (1 - p) * energy
                noise += (load * load / able - load) * spread / (1 - p) if able else 0.0
                end = max(end, min(load * pace + overhead, aim))
            done = tuple((pace * np.arange(1, able + 1)).tolist())
            times = WorkTimes(done, done[-1] if done else cut)
            at = pace + overhead if done else aim
            laws.observe(Seen(worker, worker, step, 1.0, at, not done, True, False, times, overhead))
        seconds += end + between
    return Prospect(seconds / steps, noise / steps)


def _miss(laws: WorkLaws, worker: int, cut: float) -> float:
    """P(nothing is done by the cut), estimated from the rows seen."""
    if np.isinf(cut):
        return 0.0
    p = float(laws.outcomes(worker, np.ones(1, np.int64), np.array([cut]))[0][0])
    return min(MOST_MISS, max(p, LEAST_MISSES / (laws.count(worker) + 1)))
