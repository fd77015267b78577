"""What a training script holds: steps, each with a coded backward pass; checkpoints, evaluation, the summary."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from gcdist.config import ConfigError, FaultConfig, checked
from gcdist.exchange.injected_faults import drill
from gcdist.master.arrival_tally import ArrivalTally
from gcdist.master.coverage import Coverage
from gcdist.master.data_account import DataAccount
from gcdist.master.driver import MasterDriver, RoundResult, RunStoppedError
from gcdist.master.ledger import Ledger
from gcdist.master.noise_estimates import signal_and_energy
from gcdist.master.wait_for_all import WaitForAllClock
from gcdist.model.evaluation import evaluated
from gcdist.observe import RunFolder, Summary
from gcdist.planning import PlanReport
from gcdist.run.checkpoint import Checkpoint, write_checkpoint
from gcdist.run.nested_state import StateError
from gcdist.run.session import Session
from gcdist.run.step import Step as Step
from gcdist.run.step import StepInfo as StepInfo
from gcdist.run.step import step_info
from gcdist.run.user_state import Parts, Stateful, generators_now, load_model, model_state, set_generators
from gcdist.simulator.quiescence import Quiescence
from gcdist.straggler import ArrivalRule, pick
from gcdist.tasks.task import Evaluate
from gcdist.types import U8, Plan, RunHaltedError


class Cluster:
    """The master's end of a run. A context manager: leaving it releases the workers.

    Args:
        session: the run's parts.
        driver: the round loop, in processes or simulated.
        folder: where the run is written.
        on_step: called with every StepInfo.
        on_close: ends what the driver's port owns.
        resumed: the checkpoint that the run goes on from.
        standstill: brings a simulated run to rest for checkpoints; None: in processes, which a checkpoint never waits for.

    Raises:
        ConfigError: the checkpoint does not fit the model.
    """

    def __init__(
        self,
        session: Session,
        driver: MasterDriver,
        folder: RunFolder,
        on_step: Callable[[StepInfo], None] | None = None,
        on_close: Callable[[], None] | None = None,
        resumed: Checkpoint | None = None,
        standstill: Quiescence | None = None,
    ) -> None:
        self.session = session
        self.config = session.config
        self.folder = folder
        self.driver = driver
        self.on_step = on_step
        self.arrivals = ArrivalTally(session.workers)
        self.waiting = WaitForAllClock(session.delays, self.config.seed, session.workers, len(session.sizes_K))
        self.ledger = Ledger(driver.port)
        self.data = DataAccount(self.config.data.prefetch)
        self.coverage = Coverage(session.sizes_K)
        self.finished = False
        self.evaluation: dict[str, float] = {}  # the newest metrics
        self._evaluated_at = -1
        self._scheme = session.scheme(self._planned)
        self._on_close = on_close
        self._standstill = standstill
        self._resumed = resumed
        self._parts = Parts(None if resumed is None else resumed.state["parts"])
        self._next = 0
        self._trained = 0  # steps run, without the check of waiting
        self._already = 0  # of them, in the checkpoint, and not yet asked for again
        self._saved_at = -1  # step of the last checkpoint
        self._warned = False
        self._noticed: frozenset[str] = frozenset()  # what the last plan's lines were about
        self._over = False
        self._seconds = 0.0  # when the last step had ended
        self._generators: dict[str, Any] | None = None  # when the open step's loop body began
        self._sync_check: tuple[float, float] | None = None
        if resumed is not None:
            self._restore(resumed)
            driver.faults.spare_master()

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
        """The next ``count`` steps.

        In a resumed run the steps that its checkpoint holds count as well: the same script, which asks for the run's total,
        gets those that are left. After each loop body come the evaluation and the checkpoint that are due; one is also
        written after the last step.
        """
        if count < 0:
            raise ValueError(f"steps: found {count}; should be 0 or more")
        done = min(count, self._already)
        self._already -= done
        if 0 < count == done and not self.ledger.running:
            with suppress(RunHaltedError):  # nothing is left to do: welcome the workers, so that they can be released
                self._begin()
        for left in range(count - done, 0, -1):
            if self._resumed is not None and not self.ledger.running:
                set_generators(self._resumed.state["generators"])
            before, self._generators = self._next, generators_now()
            yield Step(self, self._next)
            self._generators = None
            if self._next > before:
                self._after_step(last=left == 1)

    def track(self, **parts: Stateful | dict[Any, Any]) -> None:
        """Keep these in every checkpoint: ``cluster.track(optimizer=opt, scheduler=sched, mine=obj)``.

        A part has ``state_dict`` and ``load_state_dict``, or is a dict, which is updated in place. If the run is resumed,
        its state is loaded in this call. State is tensors, numpy arrays, numbers, text, booleans, None, and lists, tuples
        and dictionaries of them; it is never pickled.

        Raises:
            ValueError: not a part, a name in use, state of another type, or state that does not fit.
        """
        for name, part in parts.items():
            line = self._parts.add(name, part)
            if line is not None:
                self.driver.say("warning", line)

    def save(self) -> Path:
        """Write a checkpoint now, ``checkpoints/step-...`` in the run's folder; to be called at the end of a loop body.

        It holds the model (``model.safetensors``: what plain ``load_state_dict`` takes), the tracked parts, the global
        generators of this process, and what gcdist has learned. In the simulator all work comes to rest first, so that a
        resumed run gives the same numbers. In processes nobody is waited for: shift vectors (`memory`, `shifted`) then begin
        at zero again at both ends, which costs a few noisier steps and no bias.

        Returns:
            The checkpoint's folder.

        Raises:
            ValueError: a part's state cannot be kept; the line names it.
            OSError: the disk does not take it.
        """
        return self._save(generators_now())

    def evaluate(self, fn: Evaluate | None = None) -> dict[str, float]:
        """The metrics of ``fn(model)`` (None: the task's own ``evaluate``) on the master's model; the workers wait.

        In eval mode and without gradients; modes and global generators are as before. A line in ``evaluations.jsonl``. The
        time is not the run's: it is in the summary as ``evaluation_seconds``.

        Raises:
            ValueError: there is neither, or it gave something other than numbers by name.
        """
        fn = fn or self.session.task.evaluate
        if fn is None:
            raise ValueError("evaluate: the task has no evaluate function; give one")
        at, port = self.ledger.seconds, self.driver.port
        begun = port.now()
        with self.ledger.pause("evaluation"):
            self.evaluation = evaluated(self.session.task.model, fn)
            spent = port.now() - begun
        self._evaluated_at = self._next
        self.folder.evaluation(self._next, at, spent, self.evaluation)
        return dict(self.evaluation)

    def final_evaluation(self) -> dict[str, float]:
        """The metrics after the last step: those there are, or `evaluate`; empty if the task has none."""
        if self.session.task.evaluate is None:
            return {}
        return dict(self.evaluation) if self._evaluated_at == self._next else self.evaluate()

    def round(self, number: int) -> StepInfo:
        """Run the round of step ``number`` and take its result into the model; `Step.backward` calls this."""
        if number != self._next:
            raise RuntimeError(f"step {number}: backward() was called out of turn; the next step is {self._next}")
        state = self.session.state
        try:
            if not self.ledger.running:
                self._begin()
            result = self.driver.run_round(number, self._snapshot(), self._scheme)
        except (RunStoppedError, RunHaltedError):
            self._over = True
            if self._trained and self._saved_at != self._next:
                self._save_if_possible(self._generators)
            raise
        self._next += 1
        self._trained += 1
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
        seconds, traffic = self.ledger.seconds, self.ledger.traffic()
        info = step_info(result, seconds, traffic, self._scheme.maker.noise, self.session.sizes_K)
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

    def inject(self, fault: FaultConfig | Mapping[str, Any]) -> None:
        """Make a fault happen now, for a drill: a table as in ``[[faults]]``, without ``step`` and ``every``.

        Workers obey the kinds that ``[[faults]]`` of their own settings name; a table without step and every only names one.

        Raises:
            ConfigError: no such fault, or its worker is not here.
        """
        what, rank = drill(self.config, fault)
        here = sorted(peer.rank for peer in self.driver.machine.peers())
        if rank is None and here:
            rank = pick(self.config.seed, -1, self._next, here)
        if rank is None or rank not in (0, *here):
            raise ConfigError(
                f"inject: worker {'' if rank is None else rank} is not here; here are ranks {here or 'none'}"
            )
        self.driver.inject(self._next, what, rank)

    def summary(self, metrics: dict[str, float] | None = None) -> Summary:
        """The run so far, for people and for ``summary.json``."""
        ledger, wall = self.ledger, self._seconds
        known = self.config.inject.model != "none" and not self.data.local
        total = self.waiting.total() if known else None
        return Summary(
            scheme=self.session.code.name,
            quantizer=f"{self.session.quantizer.name}, {self.config.quantizer.bits} bits",
            workers=self.session.workers,
            steps=self._trained,
            metrics=dict(metrics or {}),
            wall_seconds=wall,
            waiting_seconds=None if total is None else total + max(0.0, wall - ledger.step_seconds),
            waiting_check=self._sync_check,
            arrivals=self.arrivals.rates(),
            bytes_up=ledger.bytes_up,
            bytes_up_float32=ledger.bytes_up + ledger.saved_bytes,
            bytes_down=ledger.bytes_down,
            folder=self.folder.path,
            evaluation_seconds=ledger.paused.get("evaluation", 0.0),
            checkpoint_seconds=ledger.paused.get("checkpoint", 0.0),
            notes=self.data.notes(),
            samples_counted=self.coverage.share,
            steps_without_gradient=self.coverage.without_gradient,
            partitions_missed=self.coverage.incomplete,
            partitions=self.coverage.partitions(),
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

    # --- checkpoints ---

    def _begin(self) -> None:
        """The first round is near: wait for the workers, then let the run's clock go (on)."""
        self.driver.gather()
        told = self._resumed.state if self._resumed is not None else None
        rest = None if told is None or told["scheme"] != self.session.code.name else told["standstill"]
        exact = self._standstill is not None and rest is not None and told is not None
        if self._standstill is not None and rest is not None:
            self._standstill.load_state_dict(rest, self._next)
        self.ledger.begin(same_clock=exact)
        if self._parts.forgotten:
            self.driver.say("warning", f"in the checkpoint and not tracked: {', '.join(self._parts.forgotten)}")

    def _after_step(self, last: bool) -> None:
        """The loop body is over: do what is due."""
        config = self.config
        if config.evaluation.every and self._next % config.evaluation.every == 0 and self.session.task.evaluate:
            self.evaluate()
        due = config.checkpoint.every and self._next % config.checkpoint.every == 0
        if config.checkpoint.keep and (due or last):
            self._save_if_possible(generators_now())

    def _save_if_possible(self, generators: dict[str, Any] | None) -> None:
        """A run does not end because its checkpoint cannot be written; the log says so."""
        if not self.config.checkpoint.keep:
            return
        try:
            self._save(generators or generators_now())
        except (OSError, StateError) as error:
            self.driver.say("warning", f"no checkpoint was written: {error}")

    def _save(self, generators: dict[str, Any]) -> Path:
        if not self._parts.has_optimizer and not self._warned:
            self._warned = True
            text = "no optimizer is tracked (cluster.track(optimizer=...)): a resumed run begins with a new one"
            self.driver.say("warning", text)
        with self.ledger.pause("checkpoint"):
            if self._standstill is not None and self.ledger.running and not self._over:
                self._count_saved(*self._standstill.settle(self._next))
                self._scheme.outdated = True  # a resumed run needs a plan as well
        with self.ledger.pause("checkpoint"):  # another one: the first has its place in the state
            tensors, besides = model_state(self.session.task.model)
            state = {**self._state(), "model": besides, "generators": generators}
            keep = max(1, self.config.checkpoint.keep)
            path = write_checkpoint(self.folder.path / "checkpoints", self._next, tensors, state, keep)
        self._saved_at = self._next
        return path

    def _state(self) -> dict[str, Any]:
        """Everything but the model and the generators."""
        session, scheme = self.session, self._scheme
        at_rest = self._standstill is not None and self.ledger.running and not self._over
        return {
            "samples": len(session.task.dataset),
            "workers": session.workers,
            "scheme": session.code.name,
            "names": list(session.state.names),
            "trained": self._trained,
            "seconds": self._seconds,
            "plan_id": session.plan_ids.next,
            "parts": self._parts.state_dict(),
            "rule": scheme.rule.state_dict(),
            "maker": scheme.maker.state_dict(),
            "arrivals": self.arrivals.state_dict(),
            "waiting": self.waiting.state_dict(),
            "ledger": self.ledger.state_dict(),
            "data": self.data.state_dict(),
            "coverage": self.coverage.state_dict(),
            "predictor": self.driver.aggregator.predictor(),
            "standstill": self._standstill.state_dict() if self._standstill is not None and at_rest else None,
            "evaluation": {"step": self._evaluated_at, "metrics": self.evaluation},
        }

    def _restore(self, found: Checkpoint) -> None:
        state, session, scheme = found.state, self.session, self._scheme
        model = session.task.model
        checked("resume", lambda: load_model(model, found.model, state["model"], frozenset(state["names"])))
        session.state.grow(state["names"])
        self._next = self._saved_at = found.step
        self._trained = self._already = state["trained"]
        self._seconds = state["seconds"]
        session.plan_ids.next = state["plan_id"]
        scheme.maker.load_state_dict(state["maker"])
        self.ledger.load_state_dict(state["ledger"])
        self.data.load_state_dict(state["data"])
        if "coverage" in state:  # not in checkpoints before it was kept
            self.coverage.load_state_dict(state["coverage"])
        self._evaluated_at, self.evaluation = state["evaluation"]["step"], state["evaluation"]["metrics"]
        if state["scheme"] == session.code.name:
            self.driver.aggregator.reshape(session.state.shape)
            self.driver.aggregator.restore({}, state["predictor"])
        try:
            scheme.rule.load_state_dict(state["rule"])
            self.arrivals.load_state_dict(state["arrivals"])
            self.waiting.load_state_dict(state["waiting"])
        except ValueError as error:
            self.driver.say("settings", f"arrivals are learned anew: the checkpoint has {error}")

    # --- accounts ---

    def _snapshot(self) -> U8:
        self.session.state.grow()  # parameters that were unfrozen since the last step
        return self.session.state.snapshot()

    def _planned(self, plan: Plan, report: PlanReport, deadline: float) -> None:
        self.folder.write_plan(plan, report=report, deadline=deadline, step=self._next)
        for about, line in report["notices"].items():
            if about not in self._noticed:
                self.driver.say("plan", line)
        self._noticed = frozenset(report["notices"])
        if report["uncovered"]:
            self.driver.say("plan", f"nobody here holds partitions {report['uncovered']}: the estimate leaves them out")

    def _account(self, result: RoundResult) -> None:
        self.arrivals.add(result)
        self.data.add(result, local=bool(self.driver.machine.holds()))
        if (line := self.coverage.add(result)) is not None:
            self.driver.say("warning", line)
        maker, bits_RS = self._scheme.maker, result.plan.bits_RS
        messages = [(c.sidecar, bits_RS[c.row]) for c in result.counted]
        maker.calibrate(result.plan, messages, *signal_and_energy(result, maker.noise))
        self.waiting.add(result)
        self.ledger.step_seconds += result.seconds
        self._count_saved(result.messages, result.payload_bytes)

    def _count_saved(self, messages: int, payload_bytes: int) -> None:
        self.ledger.saved_bytes += 4 * self.session.state.layout.d * messages - payload_bytes

    def _write(self, info: StepInfo) -> None:
        self._seconds = info.seconds
        values: dict[str, Any] = {name: getattr(info, name) for name in StepInfo.__slots__}
        self.folder.step(values.pop("step"), **values)
        if self.on_step is not None:
            self.on_step(info)
