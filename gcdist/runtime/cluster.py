"""What a training script holds: steps, each with a coded backward pass; the run's folder; the summary."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from types import TracebackType
from typing import Any

import numpy as np

from gcdist.config import ConfigError, dump_config
from gcdist.observe import RunFolder, Summary, WorkerArrivals
from gcdist.planning import PlanReport
from gcdist.runtime.accounts import ArrivalTally, WaitForAllClock, noise_observed, noise_planned
from gcdist.runtime.data_account import DataAccount
from gcdist.runtime.driver import MasterDriver, RoundResult
from gcdist.runtime.session import Session
from gcdist.straggler import ArrivalRule
from gcdist.types import U8, Plan, RunHaltedError


@dataclass(frozen=True, slots=True)
class StepInfo:
    """What one coded backward pass did.

    Ranks are 1..n (the master is rank 0). ``loss`` is the mean over the partitions that arrived, by samples; None if none
    did. Noise is error over |g|^2: as planned from the step's promises for partitions that agree, and as estimated from
    what arrived (None where it cannot be told).
    """

    step: int
    seconds: float  # since the run began
    step_seconds: float  # from the opening to the close of the round
    loss: float | None
    arrived: tuple[int, ...]
    live: int
    bytes_up: int
    bytes_down: int
    deadline: float
    why: str  # complete, deadline, count
    plan_id: int
    noise_planned: float
    noise_observed: float | None
    estimated: bool  # False: nothing is known of the gradient, every .grad is None
    data_seconds: float | None  # mean over the arrived workers: waiting for batches; None if none arrived
    compute_seconds: float | None  # the same: forward and backward


class Step:
    """One step of training."""

    def __init__(self, cluster: Cluster, number: int) -> None:
        self.number = number
        self._cluster = cluster

    @property
    def epoch(self) -> int:
        """Epochs that are over before this step."""
        return self.number // self._cluster.steps_per_epoch

    def backward(self) -> StepInfo:
        """One coded round with the model's parameters as they are: fills ``.grad`` of every trainable parameter.

        A parameter that no arrived partition's loss depends on gets None, as after PyTorch's own backward; so do all of
        them when nobody arrived (optimizers then leave them alone).

        Raises:
            RunHaltedError: the run cannot go on (too few workers, a user's error that keeps coming back).
            RunStoppedError: the run was asked to end.
        """
        try:
            return self._cluster.round(self.number)
        except RunHaltedError as error:
            # its text says everything, the frames between here and there nothing
            raise error.with_traceback(None) from None


def new_folder(session: Session, folder: Path | None) -> RunFolder:
    """The run's folder with its config: named by the settings, or by task, scheme and time."""
    config = session.config
    name = config.name or f"{Path(config.task.name).stem}-{session.code.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    path = folder or config.out / name
    stem, number = path, 2
    while config.name is None and folder is None and (path / "metrics.jsonl").exists():
        path, number = stem.with_name(f"{stem.name}-{number}"), number + 1
    try:
        run = RunFolder(path)
    except ValueError as error:
        raise ConfigError(f"name: {error}") from None
    run.write_config(dump_config(config))
    return run


class Cluster:
    """The master's end of a run. A context manager: leaving it releases the workers.

    Args:
        session: the run's parts.
        driver: the round loop, in processes or simulated.
        folder: where the run is written.
        on_step: called with every StepInfo.
        on_close: ends what the driver's port owns.
    """

    def __init__(
        self,
        session: Session,
        driver: MasterDriver,
        folder: RunFolder,
        on_step: Callable[[StepInfo], None] | None = None,
        on_close: Callable[[], None] | None = None,
    ) -> None:
        self.session = session
        self.config = session.config
        self.folder = folder
        self.driver = driver
        self.on_step = on_step
        self.arrivals = ArrivalTally(session.workers)
        self.waiting = WaitForAllClock(session.delays, self.config.seed, session.workers, len(session.sizes_K))
        self.data = DataAccount(self.config.data.prefetch)
        self.finished = False
        self._scheme = session.scheme(self._planned)
        self._on_close = on_close
        self._began: float | None = None
        self._step_seconds = 0.0
        self._next = 0
        self._traffic = (0, 0)  # bytes up and down when the last step had ended
        self._bytes_up = self._bytes_down = 0  # in the steps, without the check of waiting
        self._saved_bytes = 0  # float32 payloads minus the packed ones
        self._last: StepInfo | None = None
        self._sync_check: tuple[float, float] | None = None

    @property
    def plan(self) -> Plan | None:
        """The plan of the last step; None before the first."""
        return self._scheme.plan

    @property
    def plan_report(self) -> PlanReport | None:
        """The figures of that plan."""
        return self._scheme.report

    @property
    def rule(self) -> ArrivalRule:
        """The stop rule with its arrival statistics."""
        return self._scheme.rule

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which the largest partition gives as many samples as it has."""
        return self.session.gradients.batches.steps_per_epoch

    def steps(self, count: int) -> Iterator[Step]:
        """The next ``count`` steps."""
        if count < 0:
            raise ValueError(f"steps: found {count}; should be 0 or more")
        for _ in range(count):
            yield Step(self, self._next)

    def round(self, number: int) -> StepInfo:
        """Run the round of step ``number`` and take its result into the model; `Step.backward` calls this."""
        if number != self._next:
            raise RuntimeError(f"step {number}: backward() was called out of turn; the next step is {self._next}")
        state = self.session.state
        port = self.driver.port
        if self._began is None:
            self.driver.gather()
            self._began = port.now()
            self._traffic = port.bytes_up, port.bytes_down
        result = self.driver.run_round(number, self._snapshot(), self._scheme)
        self._next += 1
        used = np.zeros(len(state.parameters), bool)
        for counted in result.counted:
            used |= counted.sidecar.used
        if result.gradient is None:
            state.set_grad(np.zeros(state.layout.d, np.float32), np.zeros(len(state.parameters), bool))
        else:
            # what is remembered knows of parameters that no arrived partition used
            state.set_grad(result.gradient, None if self.driver.aggregator.remembers else used)
        sidecars = [counted.sidecar for counted in result.counted]
        state.merge_buffers([(s.share, s.float_buffers, s.int_buffers) for s in sidecars if s.share > 0])
        self._account(result)
        before, self._traffic = self._traffic, (port.bytes_up, port.bytes_down)
        up, down = (now - then for now, then in zip(self._traffic, before, strict=True))
        info = self._info(result, port.now() - self._began, up, down)
        self._write(info)
        in_time = {seen.worker + 1: seen.seconds for seen in result.seen if seen.step == number and not seen.censored}
        missing = tuple(seen.worker + 1 for seen in result.seen if seen.step == number and seen.censored)
        self.folder.trace.step(number, info.seconds - result.seconds, result.seconds, in_time, missing)
        return info

    def check_waiting(self, steps: int, on_step: Callable[[int], None] | None = None) -> tuple[float, float] | None:
        """Run ``steps`` real rounds of `sync` (the model stays as it is) and compare with the estimate.

        Returns:
            Seconds taken and seconds estimated, without what happens between rounds; None if there is no estimate.
        """
        if self.data.local:  # who would compute how much depends on who is here
            self.driver.say("check", "waiting for all is not checked: not every worker can read every partition")
            return None
        scheme = self.session.wait_for_all(self._planned)
        taken = floors = 0.0
        first = self._next + 1  # the round before it brings the new plan, and is not timed
        for number in range(self._next, first + steps):
            result = self.driver.run_round(number, self._snapshot(), scheme)
            if number >= first:
                taken += result.seconds
                floors += self.waiting.floor(number)
            elif self.waiting.overhead is None:  # no step of the run had everybody: the untimed one tells
                self.waiting.measure(result)
            if on_step is not None:
                on_step(number - first + 1)
        self._next = first + steps
        expected = self.waiting.of(floors, steps)
        self._sync_check = None if expected is None else (taken, expected)
        return self._sync_check

    def summary(self, metrics: dict[str, float] | None = None) -> Summary:
        """The run so far, for people and for ``summary.json``."""
        tally, last = self.arrivals, self._last
        wall = last.seconds if last else 0.0
        known = self.config.inject.model != "none" and not self.data.local
        total = self.waiting.total() if known else None
        workers = [
            WorkerArrivals(
                rank=i + 1,
                steps=int(tally.steps_N[i]),
                planned=float(tally.planned_N[i] / max(1.0, tally.steps_N[i])),
                observed=float(tally.observed_N[i] / max(1.0, tally.steps_N[i])),
                sigmas=float(tally.sigmas()[i]),
            )
            for i in range(self.session.workers)
        ]
        return Summary(
            scheme=self.session.code.name,
            quantizer=f"{self.session.quantizer.name}, {self.config.quantizer.bits} bits",
            workers=self.session.workers,
            steps=last.step + 1 if last else 0,
            metrics=dict(metrics or {}),
            wall_seconds=wall,
            waiting_seconds=None if total is None else total + max(0.0, wall - self._step_seconds),
            waiting_check=self._sync_check,
            arrivals=workers,
            bytes_up=self._bytes_up,
            bytes_up_float32=self._bytes_up + self._saved_bytes,
            bytes_down=self._bytes_down,
            folder=self.folder.path,
            notes=self.data.notes(),
        )

    def close(self, reason: str = "the run is over") -> None:
        """Release the workers, close the folder; idempotent."""
        if self.finished:
            return
        self.finished = True
        for line in self.data.notes():
            self.driver.say("data", line)
        self.driver.stop(reason)
        if self._on_close is not None:
            self._on_close()
        self.folder.close()

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close("the run is over" if error is None else f"the master ended with {type(error).__name__}: {error}")

    # --- accounts ---

    def _snapshot(self) -> U8:
        self.session.state.grow()  # parameters that were unfrozen since the last step
        return self.session.state.snapshot()

    def _planned(self, plan: Plan, report: PlanReport, deadline: float) -> None:
        self.folder.write_plan(plan, report=report, deadline=deadline, step=self._next)
        if report["uncovered"]:
            self.driver.say("plan", f"nobody here holds partitions {report['uncovered']}: the estimate leaves them out")

    def _account(self, result: RoundResult) -> None:
        self.arrivals.add(result)
        self.data.add(result, local=bool(self.driver.machine.holds()))
        self._scheme.maker.calibrate([(c.sidecar, result.plan.bits_RS[c.row]) for c in result.counted])
        self.waiting.add(result)
        self._step_seconds += result.seconds
        self._saved_bytes += 4 * self.session.state.layout.d * result.messages - result.payload_bytes

    def _info(self, result: RoundResult, seconds: float, up: int, down: int) -> StepInfo:
        omega_by_bits = self._scheme.maker.noise
        parts = {int(j): (loss, share) for c in result.counted for j, loss, share in c.sidecar.loss_P3}
        weight = sum(share for _, share in parts.values())
        sidecars = [c.sidecar for c in result.counted]
        self._bytes_up += up
        self._bytes_down += down
        return StepInfo(
            step=result.step,
            seconds=seconds,
            step_seconds=result.seconds,
            loss=sum(loss * share for loss, share in parts.values()) / weight if weight else None,
            arrived=tuple(sorted({int(result.plan.worker_R[c.row]) + 1 for c in result.counted})),
            live=int(result.live_N.sum()),
            bytes_up=up,
            bytes_down=down,
            deadline=result.terms.deadline,
            why=result.why,
            plan_id=result.plan.plan_id,
            noise_planned=noise_planned(result.plan, result.terms.p_R, omega_by_bits, self.session.sizes_K),
            noise_observed=noise_observed(result, omega_by_bits),
            estimated=result.gradient is not None,
            data_seconds=fmean(s.data_seconds for s in sidecars) if sidecars else None,
            compute_seconds=fmean(s.compute_seconds for s in sidecars) if sidecars else None,
        )

    def _write(self, info: StepInfo) -> None:
        self._last = info
        values: dict[str, Any] = {name: getattr(info, name) for name in StepInfo.__slots__}
        self.folder.step(values.pop("step"), **values)
        if self.on_step is not None:
            self.on_step(info)
