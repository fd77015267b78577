"""Where p comes from: measured arrivals, a delay model, or numbers that the user gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, TypeAlias

import numpy as np

from gcdist.straggler.arrivals import Arrivals
from gcdist.types import F64, DelayModel, Mask

# p of a worker that is waited for and has never missed: not 0, for a code's weights 1/p
WAIT_P = 1e-6

Source: TypeAlias = Literal["measured", "model"] | Sequence[float]


class Chances(Protocol):
    """Chances to miss a deadline; ``measured`` says whether they are estimates that need a warm-up."""

    measured: bool

    def p_long_run(self, worker: int, load: F64, deadline: float, most_load: float | None) -> F64:
        """P(not in by ``deadline``) of one worker at each load, ready or busy, for plans that give at most ``most_load``."""
        ...

    def p_given_ready(self, deadline: float, load_N: F64, ready_N: Mask) -> F64:
        """P(not in by ``deadline`` | readiness at the opening), (N,), at these loads, for the weights of a step."""
        ...

    def p_by_deadline(self, tau_G: F64, most_load: float | None) -> F64:
        """P(not in by each of ``tau_G``) in the long run, (N, G), for the choice of a deadline."""
        ...


class MeasuredChances:
    """Estimates from `Arrivals`; in plans they are constant in the load, at the most that a plan gives."""

    measured = True

    def __init__(self, arrivals: Arrivals) -> None:
        self._arrivals = arrivals

    def p_long_run(self, worker: int, load: F64, deadline: float, most_load: float | None) -> F64:
        """`Arrivals.p_long_run_N` of one worker, the same for each load."""
        return np.full(load.shape, self._arrivals.p_long_run_N(deadline, most_load)[worker])

    def p_given_ready(self, deadline: float, load_N: F64, ready_N: Mask) -> F64:
        """`Arrivals.p_given_ready`."""
        return self._arrivals.p_given_ready(deadline, load_N, ready_N)

    def p_by_deadline(self, tau_G: F64, most_load: float | None) -> F64:
        """Plain Kaplan-Meier: pseudo-arrivals would make a deadline that nobody keeps look possible."""
        out_NG = self._arrivals.survival(tau_G, most_load)
        return np.maximum(out_NG, 0.5 / (self._arrivals.count_N() + 1)[:, None])


class ModelChances:
    """A delay model's survival at the load; a worker that is not ready has the persistence that was measured."""

    measured = False

    def __init__(self, delays: DelayModel, arrivals: Arrivals) -> None:
        self._delays = delays
        self._arrivals = arrivals
        self._ready: tuple[float, F64, F64] | None = None  # the newest deadline and loads (N,), and what came of them

    def p_long_run(self, worker: int, load: F64, deadline: float, most_load: float | None) -> F64:
        """The survival at the deadline, at least `WAIT_P`."""
        return np.clip(self._delays.survival(worker, load, deadline), WAIT_P, 1.0)

    def p_given_ready(self, deadline: float, load_N: F64, ready_N: Mask) -> F64:
        """The survival of ready workers; that of busy ones by how much less than foretold busy workers arrived."""
        if self._ready is None or self._ready[0] != deadline or not np.array_equal(self._ready[1], load_N):
            one = np.ones(1)
            found = [self.p_long_run(i, load * one, deadline, None)[0] for i, load in enumerate(load_N)]
            self._ready = deadline, load_N.copy(), np.array(found)
        p_N = self._ready[2]
        return np.where(ready_N, p_N, self._arrivals.p_of_busy(p_N, ~ready_N))

    def p_by_deadline(self, tau_G: F64, most_load: float | None) -> F64:
        """The survival at load 1 or, where that is said, at the most that a plan gives."""
        load = np.full(1, 1.0 if most_load is None else most_load)
        workers = range(self._arrivals.workers)
        return np.array([[self.p_long_run(i, load, float(t), None)[0] for t in tau_G] for i in workers])


class GivenChances:
    """One number for each worker, taken as it is; ValueError if there are not as many as workers."""

    measured = False

    def __init__(self, p: Sequence[float], workers: int) -> None:
        self._p_N = np.asarray(p, np.float64)
        if len(self._p_N) != workers:
            raise ValueError(f"p: found a list of {len(self._p_N)} for {workers} workers")

    def p_long_run(self, worker: int, load: F64, deadline: float, most_load: float | None) -> F64:
        """The number, for each load."""
        return np.full(load.shape, self._p_N[worker])

    def p_given_ready(self, deadline: float, load_N: F64, ready_N: Mask) -> F64:
        """The numbers."""
        return self._p_N

    def p_by_deadline(self, tau_G: F64, most_load: float | None) -> F64:
        """The numbers, at each deadline."""
        return np.repeat(self._p_N[:, None], len(tau_G), axis=1)


def make_chances(p: Source, arrivals: Arrivals, delays: DelayModel | None = None) -> Chances:
    """The source that the setting ``straggler.p`` names; ValueError: "model" without ``delays``, a list of another length.

    >>> make_chances([0.1, 0.2], Arrivals(2, 200, 0.1, 2.0)).p_given_ready(1.0, np.ones(2), np.ones(2, bool)).tolist()
    [0.1, 0.2]
    """
    if not isinstance(p, str):
        return GivenChances(p, arrivals.workers)
    if p == "measured":
        return MeasuredChances(arrivals)
    if delays is None:
        raise ValueError('p: found "model" without a delay model')
    return ModelChances(delays, arrivals)
