"""Whether this machine can compute at a benchmark's pace: all workers share its cores.

A delay is a floor: if the cores need longer than the floor for all shares, the benchmark measures the machine.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

from gcdist.bench.machine import Machine, machines_in
from gcdist.bench.problems import get_problem

MOST_BUSY = 0.5  # of the pace: above it, computing lengthens the times of the fastest workers


def busy_share(problem: str, machine: Machine, workers: int, pace: float) -> float:
    """Seconds that the cores need for a step of even shares and its messages, over the pace."""
    return machine.busy_seconds(workers, get_problem(problem).share) / pace


def pace_line(problem: str, machine: Machine, workers: int, pace: float) -> str:
    """One line for a log or a page: the share of the pace, and a sufficient pace if the share is too large.

    >>> pace_line("digits", Machine(0.001, 0.0007, 0.0005, 0.004, 2, 0.0007), 8, 0.05)
    'digits: a step of even shares takes 24.4 ms of the 2 cores, 49% of the pace of 0.05 s'
    """
    busy = busy_share(problem, machine, workers, pace)
    text = f"{problem}: a step of even shares takes {busy * pace * 1e3:.1f} ms of the {machine.cores} cores, "
    text += f"{busy:.0%} of the pace of {pace:g} s"
    if busy <= MOST_BUSY:
        return text
    enough = math.ceil(100 * busy * pace / MOST_BUSY) / 100
    return f"{text}: above {MOST_BUSY:.0%}, so that the machine is measured, too; --pace {enough:g} would do"


def pace_lines(folder: Path) -> list[str]:
    """The lines of every measured problem in a benchmark's folder."""
    path = folder / "bench.json"
    if not path.exists():
        return []
    bench = json.loads(path.read_text(encoding="utf-8"))
    return [pace_line(name, machine, bench["workers"], bench["pace"]) for name, machine in machines_in(folder).items()]
