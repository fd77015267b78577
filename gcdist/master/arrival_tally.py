"""Arrivals of each worker: the number that plans expected, and the number that came."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from gcdist.master.round_result import RoundResult
from gcdist.observe import WorkerArrivals
from gcdist.types import F64

DISPROVED = 6.0  # sigmas: looked at after every step, for every worker; luck goes beyond 4 now and then
LEAST_STEPS = 20  # with a promise
OFF = 0.1  # share of what was promised: less does not matter


@dataclass(slots=True, eq=False)
class ArrivalTally:
    """Counted rows of each worker against the promises; only steps with a promise about a deadline.

    A code that ends steps before its promised deadline with rows outstanding (`frc`, `erasurehead`, ...) cannot be compared:
    then nothing is.
    """

    workers: int
    early: bool = False
    _COUNTS: ClassVar = ("planned", "observed", "variance", "steps", "done")

    planned_N: F64 = field(init=False)
    observed_N: F64 = field(init=False)
    variance_N: F64 = field(init=False)
    steps_N: F64 = field(init=False)
    done_N: F64 = field(init=False)  # sum over these steps of the share of its partitions that a worker had done

    def __post_init__(self) -> None:
        self.planned_N, self.observed_N, self.variance_N, self.steps_N, self.done_N = np.zeros((5, self.workers))

    def add(self, result: RoundResult) -> None:
        """Take in one step."""
        if not result.promised:
            return
        plan, p_R = result.plan, result.terms.p_R
        rows = np.flatnonzero(plan.weighted_R() & result.live_N[plan.worker_R])
        aim = result.terms.deadline if result.terms.aim is None else result.terms.aim
        lost = {seen.row for seen in result.seen if seen.step == result.step and seen.censored and seen.seconds >= aim}
        if result.why in ("complete", "count") and len(result.counted) + len(lost) < len(rows):
            self.early = True
        if self.early:
            for array in (self.planned_N, self.observed_N, self.variance_N, self.steps_N, self.done_N):
                array.fill(0.0)
            return
        owner = plan.worker_R[rows]
        np.add.at(self.planned_N, owner, 1 - p_R[rows])
        np.add.at(self.variance_N, owner, p_R[rows] * (1 - p_R[rows]))
        np.add.at(self.steps_N, owner, 1)
        counted = np.array([each.row for each in result.counted], np.int64)
        np.add.at(self.observed_N, plan.worker_R[counted], 1)
        for worker, share in shares_done(result).items():
            self.done_N[worker] += share

    def state_dict(self) -> dict[str, Any]:
        """The counts so far, for a checkpoint."""
        return {"early": self.early, **{name: getattr(self, f"{name}_N").copy() for name in self._COUNTS}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what `state_dict` gave, of as many workers."""
        self.early = state["early"]
        for name in self._COUNTS:
            getattr(self, f"{name}_N")[:] = state.get(name, 0.0)  # an older gcdist did not count what was done

    def rates(self) -> list[WorkerArrivals]:
        """What each worker was promised to do and did, for the summary."""
        steps_N = np.maximum(1.0, self.steps_N)
        planned_N, observed_N, sigmas_N = self.planned_N / steps_N, self.observed_N / steps_N, self.sigmas()
        done_N = self.done_N / steps_N
        return [
            WorkerArrivals(
                i + 1,
                int(self.steps_N[i]),
                float(planned_N[i]),
                float(observed_N[i]),
                float(sigmas_N[i]),
                float(done_N[i]),
            )
            for i in range(self.workers)
        ]

    def sigmas(self) -> F64:
        """(observed - planned) over its standard deviation, (N,); 0 where nothing was promised."""
        with np.errstate(divide="ignore", invalid="ignore"):
            z = (self.observed_N - self.planned_N) / np.sqrt(self.variance_N)
        return np.where(self.variance_N > 0, z, 0.0)


class Contradiction:
    """Whether arrivals disprove chances that somebody has given; says so once.

    A measured p follows what is seen; one that is given stays, and a worker's part of the gradient has the wrong length.
    """

    def __init__(self, tally: ArrivalTally) -> None:
        self._tally = tally
        self._told = False

    def line(self) -> str | None:
        """The worker that is furthest from what was promised of it, in a line; None: nobody is far, or it was said."""
        tally = self._tally
        if self._told:
            return None
        planned_N, off_N = tally.planned_N, np.abs(tally.observed_N - tally.planned_N)
        known_N = (tally.steps_N >= LEAST_STEPS) & (off_N > OFF * planned_N)
        wrong_N = np.where(known_N, np.abs(tally.sigmas()), 0.0)
        worst = int(np.argmax(wrong_N))
        if wrong_N[worst] <= DISPROVED:
            return None
        self._told = True
        steps, came = float(tally.steps_N[worst]), float(tally.observed_N[worst])
        many = int((wrong_N > DISPROVED).sum())
        return (
            f"the chances given (straggler.p) are wrong for {many} of {tally.workers} workers, and the gradient is biased: "
            f"worker {worst + 1} was in time in {came / steps:.0%} of {steps:.0f} steps, promised were "
            f"{planned_N[worst] / steps:.0%}; its part of the gradient has {came / max(planned_N[worst], 1e-9):.2g} times "
            "its length. Leave straggler.p out, and it is measured"
        )


def shares_done(result: RoundResult) -> dict[int, float]:
    """Share of its partitions that each worker, by index, had done in time; 1 where rows are not cut."""
    rows = np.array([counted.row for counted in result.counted], np.int64)
    done_C = np.array([len(counted.sidecar.parts_P4) for counted in result.counted], np.float64)
    share_C = np.minimum(1.0, done_C / np.maximum(1, np.diff(result.plan.A_RK.indptr)[rows]))
    owners, shares = result.plan.worker_R[rows].tolist(), share_C.tolist()
    whole = dict(zip(owners, shares, strict=True))
    if len(whole) == len(owners):  # one row each
        return whole
    found = dict[int, list[float]]()
    for worker, share in zip(owners, shares, strict=True):
        found.setdefault(worker, []).append(share)
    return {worker: sum(each) / len(each) for worker, each in found.items()}
