"""The cuts of a step's rows (math section 10): a stop rule's promise becomes a cut for each worker."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gcdist.straggler.work_laws import WorkLaws
from gcdist.types import F64, DelayModel, StepTerms

SURE = 3.0  # mean deviations of its overhead that a worker's cut leaves for its message to be in time
GRACE = 0.1  # of the aim: the step waits so much longer for messages that are under way
GRACE_LEAST = 0.02  # seconds: threads of a busy machine wake that late
GRACE_DEVIATIONS = 4.0


def with_cuts(terms: StepTerms, laws: WorkLaws, known_p: bool = False) -> StepTerms:
    """The same promise for partial rows: every worker's cut aims at the deadline, and the step ends a little behind it.

    The step ends when all messages are in, so that the grace costs nothing unless a message is missing. ``known_p``: p is
    that of the worker's own time, which is then cut at the deadline itself; messages come as much later as they travel.
    """
    aim = terms.deadline
    cut_N = np.full(laws.workers, aim) if known_p else np.maximum(0.0, aim - laws.overhead_N(SURE))
    grace = max(GRACE * aim, GRACE_LEAST, GRACE_DEVIATIONS * laws.deviation())
    grace += float(laws.overhead_N(SURE).max()) if known_p else 0.0
    return replace(terms, deadline=aim + grace, aim=aim, cut_N=cut_N)


class FirstPartition:
    """A delay model as a partial row meets it: something can be sent as soon as one of its partitions is done.

    Where an injected delay grows with the load, or is spent inside the partitions (``computing``), the first of l
    partitions is done at 1/l of it.
    """

    def __init__(self, delays: DelayModel, scale_with_load: bool, computing: bool = False) -> None:
        self._delays = delays
        self._scale_with_load = scale_with_load
        self._computing = computing

    def seconds(self, worker: int, step: int, load: float, seed: int) -> float:
        """Seconds until the first partition is done."""
        if self._computing and not self._scale_with_load:
            return self._delays.seconds(worker, step, load, seed) / max(load, 1.0)
        return self._delays.seconds(worker, step, 1.0 if self._scale_with_load else load, seed)

    def survival(self, worker: int, load: F64, t: float) -> F64:
        """P(nothing is done by t)."""
        load = np.asarray(load, np.float64)
        if self._computing and not self._scale_with_load:
            each = [self._delays.survival(worker, np.array([x]), t * max(float(x), 1.0))[0] for x in load.ravel()]
            return np.array(each).reshape(load.shape)
        return self._delays.survival(worker, np.ones_like(load) if self._scale_with_load else load, t)
