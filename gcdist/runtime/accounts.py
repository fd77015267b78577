"""The run's accounts: promised against observed arrivals and noise, and what waiting for all would have taken."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any, ClassVar

import numpy as np

from gcdist.observe import WorkerArrivals
from gcdist.quantize.grid import measure
from gcdist.runtime.driver import MasterPort, RoundResult
from gcdist.types import F64, DelayModel, Plan


@dataclass(slots=True, eq=False)
class ArrivalTally:
    """Counted rows of each worker against the promises; only steps with a promise about a deadline.

    A code that ends steps before its promised deadline with rows outstanding (`frc`, `erasurehead`, ...) cannot be compared:
    then nothing is.
    """

    workers: int
    early: bool = False
    _COUNTS: ClassVar = ("planned", "observed", "variance", "steps")

    planned_N: F64 = field(init=False)
    observed_N: F64 = field(init=False)
    variance_N: F64 = field(init=False)
    steps_N: F64 = field(init=False)

    def __post_init__(self) -> None:
        self.planned_N, self.observed_N, self.variance_N, self.steps_N = np.zeros((4, self.workers))

    def add(self, result: RoundResult) -> None:
        """Take in one step."""
        if not result.promised:
            return
        plan, p_R = result.plan, result.terms.p_R
        rows = np.flatnonzero(plan.weighted_R() & result.live_N[plan.worker_R])
        lost = {seen.row for seen in result.seen if seen.step == result.step and seen.seconds >= result.terms.deadline}
        if result.why in ("complete", "count") and len(result.counted) + len(lost) < len(rows):
            self.early = True
        if self.early:
            for array in (self.planned_N, self.observed_N, self.variance_N, self.steps_N):
                array.fill(0.0)
            return
        owner = plan.worker_R[rows]
        np.add.at(self.planned_N, owner, 1 - p_R[rows])
        np.add.at(self.variance_N, owner, p_R[rows] * (1 - p_R[rows]))
        np.add.at(self.steps_N, owner, 1)
        for counted in result.counted:
            self.observed_N[plan.worker_R[counted.row]] += 1

    def state_dict(self) -> dict[str, Any]:
        """The counts so far, for a checkpoint."""
        return {"early": self.early, **{name: getattr(self, f"{name}_N").copy() for name in self._COUNTS}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what `state_dict` gave, of as many workers."""
        self.early = state["early"]
        for name in self._COUNTS:
            getattr(self, f"{name}_N")[:] = state[name]

    def rates(self) -> list[WorkerArrivals]:
        """What each worker was promised to do and did, for the summary."""
        steps_N = np.maximum(1.0, self.steps_N)
        planned_N, observed_N, sigmas_N = self.planned_N / steps_N, self.observed_N / steps_N, self.sigmas()
        return [
            WorkerArrivals(i + 1, int(self.steps_N[i]), float(planned_N[i]), float(observed_N[i]), float(sigmas_N[i]))
            for i in range(self.workers)
        ]

    def sigmas(self) -> F64:
        """(observed - planned) over its standard deviation, (N,); 0 where nothing was promised."""
        with np.errstate(divide="ignore", invalid="ignore"):
            z = (self.observed_N - self.planned_N) / np.sqrt(self.variance_N)
        return np.where(self.variance_N > 0, z, 0.0)


class Ledger:
    """Seconds and bytes of a run so far. Pauses are kept apart, by name: the run's seconds stand still in them."""

    def __init__(self, port: MasterPort) -> None:
        self.paused: dict[str, float] = {}
        self.step_seconds = 0.0  # in rounds
        self.bytes_up = 0  # in the steps, without the check of waiting
        self.bytes_down = 0
        self.saved_bytes = 0  # float32 payloads minus the packed ones
        self._port = port
        self._began: float | None = None  # on the port's clock
        self._resting = False
        self._counted = (0, 0)  # the port's bytes when the last step had ended
        self._resumed: Mapping[str, Any] | None = None

    @property
    def running(self) -> bool:
        """Whether the run has begun."""
        return self._began is not None

    @property
    def seconds(self) -> float:
        """Since the run began."""
        return 0.0 if self._began is None else self._port.now() - self._began

    def begin(self, same_clock: bool = False) -> None:
        """The run begins now, or goes on; ``same_clock``: the port's clock goes on from the checkpoint's time, too."""
        told, port = self._resumed, self._port
        up, down = told["pending"] if told else (0, 0)
        self._counted = port.bytes_up - up, port.bytes_down - down
        self._began = port.now() - (told["seconds"] if told else 0.0)
        if told and same_clock:
            self._began = told["began"]  # to the last bit

    @contextmanager
    def pause(self, name: str) -> Iterator[None]:
        """Time in here is kept under ``name``; a pause within another one is a part of that."""
        if self._resting:
            yield
            return
        self._resting, start = True, self._port.now()
        try:
            yield
        finally:
            spent = self._port.now() - start
            self._resting = False
            self.paused[name] = self.paused.get(name, 0.0) + spent
            if self._began is not None:
                self._began += spent

    def traffic(self) -> tuple[int, int]:
        """Bytes up and down since the last call."""
        before, self._counted = self._counted, (self._port.bytes_up, self._port.bytes_down)
        up, down = self._counted[0] - before[0], self._counted[1] - before[1]
        self.bytes_up += up
        self.bytes_down += down
        return up, down

    def state_dict(self) -> dict[str, Any]:
        """The accounts so far, for a checkpoint."""
        pending = self._port.bytes_up - self._counted[0], self._port.bytes_down - self._counted[1]
        return {
            **{name: getattr(self, name) for name in self._SUMS},
            "paused": dict(self.paused),
            "seconds": self.seconds,
            "began": self._began,
            "pending": pending if self.running else (0, 0),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what `state_dict` gave, before `begin`."""
        for name in self._SUMS:
            setattr(self, name, state[name])
        self.paused = dict(state["paused"])
        self._resumed = state

    _SUMS = ("step_seconds", "bytes_up", "bytes_down", "saved_bytes")


class WaitForAllClock:
    """What `sync` would have taken on the same steps: the slowest worker's injected delay at sync's own load, plus overhead.

    The overhead of a step that waited for everybody is measured: its length minus the largest delay injected into it.
    """

    def __init__(self, delays: DelayModel, seed: int, workers: int, partitions: int) -> None:
        self._delays = delays
        self._seed = seed
        self._workers = workers
        base, more = divmod(partitions, workers)
        self._sync_load = [float(base + (i < more)) for i in range(workers)]
        self._overheads: deque[float] = deque(maxlen=200)
        self._floors = 0.0
        self._steps = 0

    def state_dict(self) -> dict[str, Any]:
        """What was measured so far, for a checkpoint."""
        return {"overheads": list(self._overheads), "floors": self._floors, "steps": self._steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what `state_dict` gave."""
        self._overheads.clear()
        self._overheads.extend(state["overheads"])
        self._floors, self._steps = state["floors"], state["steps"]

    def add(self, result: RoundResult) -> None:
        """Take in one step."""
        self._floors += self.floor(result.step)
        self._steps += 1
        self.measure(result)

    def measure(self, result: RoundResult) -> None:
        """Learn the overhead, if this step had everybody."""
        rows = np.flatnonzero(result.plan.weighted_R())
        if len(result.counted) == len(rows) and not any(seen.cold for seen in result.seen):
            load = np.diff(result.plan.A_RK.indptr)
            owners = result.plan.worker_R
            floors = [
                self._delays.seconds(int(owners[r]), result.step, float(load[owners == owners[r]].sum()), self._seed)
                for r in rows
            ]
            self._overheads.append(max(0.0, result.seconds - max(floors)))

    def floor(self, step: int) -> float:
        """The slowest worker's injected delay at sync's load, seconds."""
        return max(
            self._delays.seconds(i, step, self._sync_load[i], self._seed)
            for i in range(self._workers)
            if self._sync_load[i] > 0
        )

    @property
    def overhead(self) -> float | None:
        """Seconds a step on top of the slowest delay; None: no step had everybody."""
        return median(self._overheads) if self._overheads else None

    def total(self) -> float | None:
        """Seconds that waiting for all would have taken in the steps so far, None if unknown."""
        return self.of(self._floors, self._steps)

    def of(self, floors: float, steps: int) -> float | None:
        """Seconds of so many steps whose largest delays sum to ``floors``."""
        return None if self.overhead is None else floors + self.overhead * steps


def noise_planned(plan: Plan, p_R: F64, omega_by_bits: F64, size_K: F64) -> float:
    """``sum_i c_i (Y_i/k)^2`` under the step's own p: error over |g|^2 if all partitions agree (math section 1)."""
    rows = np.flatnonzero(plan.weighted_R() & (p_R < 1))
    share_R = np.asarray(plan.A_RK @ size_K)
    omega = omega_by_bits[plan.bits_RS[rows]].mean(axis=1)
    return float(np.sum((p_R[rows] + omega) / (1 - p_R[rows]) * share_R[rows] ** 2))


def noise_observed(result: RoundResult, omega_by_bits: F64) -> float | None:
    """``sum_i I_i w_i c_i |y_i|^2`` over |ghat|^2 minus itself: an estimate of error over |g|^2 from what arrived.

    None if nothing arrived, or if the noise hides the signal.
    """
    if result.gradient is None or not result.counted:
        return None
    _, energy, _ = measure(result.gradient)
    signal = signal_and_energy(result, omega_by_bits)[0]
    return (energy - signal) / signal if signal > 0 else None


def signal_and_energy(result: RoundResult, omega_by_bits: F64) -> tuple[float, float]:
    """Estimates, without bias where the promises hold, of |g|^2 (may be negative) and of the rows' ``sum_i |y_i|^2``."""
    if result.gradient is None:
        return 0.0, 0.0
    noise = energy = 0.0
    for counted in result.counted:
        p = float(result.terms.p_R[counted.row])
        omega = float(omega_by_bits[result.plan.bits_RS[counted.row]].mean())
        if p < 1:
            noise += (p + omega) / (1 - p) ** 2 * counted.sidecar.energy
            energy += counted.sidecar.energy / (1 - p)
    return measure(result.gradient)[1] - noise, energy
