"""What a training script holds: steps, each with a coded backward pass; checkpoints, evaluation, the summary."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from gcdist.config import ConfigError, FaultConfig
from gcdist.exchange.injected_faults import drill
from gcdist.last_words import leave
from gcdist.master.arrival_tally import ArrivalTally
from gcdist.master.driver import MasterDriver
from gcdist.master.round_result import RoundResult
from gcdist.master.scheme import Scheme
from gcdist.observe import Observer, RunFolder, ScriptProgress, Summary
from gcdist.planning import PlanReport
from gcdist.run.accounts import Accounts
from gcdist.run.as_run import settings_text
from gcdist.run.body_watch import BodyWatch
from gcdist.run.checkpoint import Checkpoint
from gcdist.run.checkpoints import Checkpoints
from gcdist.run.evaluations import Evaluations
from gcdist.run.loop import StepLoop
from gcdist.run.model_watch import ModelWatch
from gcdist.run.observing import configured
from gcdist.run.record import RunRecord
from gcdist.run.session import Session
from gcdist.run.step import Step as Step
from gcdist.run.step import StepInfo as StepInfo
from gcdist.run.step import step_info, take_into_model
from gcdist.run.user_state import Stateful, generators_now
from gcdist.simulator.quiescence import Quiescence
from gcdist.straggler import ArrivalRule, pick
from gcdist.tasks.task import Evaluate
from gcdist.types import Plan, RunHaltedError, RunStoppedError


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
        self.finished = False
        self.on_closed: Callable[[], None] = lambda: None
        self.progress: ScriptProgress | None = None  # of a script that has not asked for silence
        self._asked = 0  # steps, by `steps`
        self._optimizer: torch.optim.Optimizer | None = None  # that the script tracks
        self.again = ""  # how a run that ended early goes on, for its last line
        self.accounts = Accounts(session, driver)
        self._record = RunRecord(session, driver, folder, self.accounts)
        self._scheme = session.scheme(self._record.planned)
        self._record.scheme = self._scheme
        self.checkpoints = Checkpoints(
            session,
            driver,
            self._scheme,
            self.accounts,
            folder.path,
            standstill,
            resumed,
            folder.event,
            must_be_ours=folder.must_be_ours,
        )
        self._watch = ModelWatch(session.task.model)
        body = BodyWatch(lambda: self.checkpoints.parts.tracked, self._warn)
        self.virtual = standstill is not None  # time is that of the simulator
        if self.virtual:
            folder.event("clock", "all seconds are those of a virtual clock", virtual=True)
        self._evaluations = Evaluations(session, driver, folder, self.accounts, self._watch)
        self._on_close = on_close
        self._loop = StepLoop(self, body, self._begin, self._evaluate_if_due)
        if resumed is not None:
            self._evaluations.recall()
            driver.faults.spare_master()
        for observer in configured(self.config, folder.path, driver.say):
            self.observe(observer)

    @property
    def evaluation(self) -> dict[str, float]:
        """The newest metrics; empty before the first evaluation."""
        return self.accounts.evaluation

    @property
    def arrivals(self) -> ArrivalTally:
        """How often each worker arrived, and how often plans expected it to."""
        return self.accounts.arrivals

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
        """Steps that one epoch takes: samples of the largest partition over the batch size, rounded up."""
        return self.session.gradients.batches.steps_per_epoch

    def steps(self, count: int) -> Iterator[Step]:
        """The next ``count`` steps.

        In a resumed run the steps that its checkpoint holds count as well: the same script, which asks for the run's total,
        gets those that are left. After each loop body come the checkpoint and the evaluation that are due. A checkpoint is
        also written after the last step, at ``break``, and as the run is closed, whatever ended it.

        Raises:
            RunHaltedError: no step so far gave a gradient, at the end; what `Step.backward` and `evaluate` raise.
        """
        if count < 0:
            raise ValueError(f"steps: found {count}; should be 0 or more")
        self._must_be_open("steps")
        self._asked += count
        self._write_config()
        if self.progress is not None:
            self.progress.expect(self._asked)
        return self._loop.steps(count)

    def epochs(self, count: int) -> Iterator[tuple[int, Iterator[Step]]]:
        """The epochs that are left of ``count``, each with its steps: ``for epoch, steps in cluster.epochs(10)``.

        In a resumed run those that the checkpoint holds whole are left out, so that what the script does after an epoch
        (validating, saving) is not done again; one that was begun has the steps that are left of it.
        """
        return self._loop.epochs(count, self.steps)

    def begin_at(self, step: int) -> None:
        """Give the first step this number: for a loop that goes on from a checkpoint of its own (`gcdist.integrations`).

        Batches, and everything else that is random in step t, follow its number; what is known of the workers' times
        begins anew.

        Raises:
            ValueError: a negative number, or there were steps already.
        """
        self._must_be_open("begin_at")
        if step < 0:
            raise ValueError(f"begin_at: found {step}; should be 0 or more")
        if self.accounts.next or self.accounts.ledger.running:
            raise ValueError(f"begin_at: the run is at step {self.accounts.next} already")
        self.accounts.next = step

    def track(self, **parts: Stateful | dict[Any, Any]) -> None:
        """Keep these in every checkpoint: ``cluster.track(optimizer=opt, scheduler=sched, mine=obj)``.

        A part has ``state_dict`` and ``load_state_dict``, or is a dict, which is updated in place. If the run is resumed,
        its state is loaded in this call. State is tensors, numpy arrays, numbers, text, bytes, booleans, None, and lists,
        tuples and dictionaries of them; it is never pickled.

        Raises:
            ValueError: not a part, a name in use, state of another type, or state that does not fit.
        """
        self._must_be_open("track")
        for name, part in parts.items():
            self._warn(self.checkpoints.parts.add(name, part))
            if isinstance(part, torch.optim.Optimizer) and self._optimizer is None:
                self._optimizer = part
        self._write_config()

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
        self._must_be_open("save")
        return self.checkpoints.save(generators_now())

    def evaluate(self, fn: Evaluate | None = None) -> dict[str, float]:
        """The metrics of ``fn(model)`` (None: the task's own ``evaluate``) on the master's model; the workers wait.

        In eval mode and without gradients; modes and global generators are as before. A line in ``evaluations.jsonl``. The
        time is not the run's: it is in the summary as ``evaluation_seconds``.

        Raises:
            ValueError: there is neither, or it gave something other than numbers by name.
        """
        self._must_be_open("evaluate")
        return self._evaluations.evaluate(fn)

    def final_evaluation(self) -> dict[str, float]:
        """The metrics after the last step. They are evaluated if that has not happened; empty if the task has none."""
        return self._evaluations.final(self.evaluate)

    def round(self, number: int) -> StepInfo:
        """Run the round of step ``number`` and take its result into the model; `Step.backward` calls this."""
        self._must_be_open("backward")
        accounts = self.accounts
        if number != accounts.next:
            raise RuntimeError(f"step {number}: backward() was called out of turn; the next step is {accounts.next}")
        self._warn(self._watch.changed())
        try:
            if not accounts.ledger.running:
                self._warn(self._watch.standing())
                self._begin()
            self.checkpoints.at_rest = False
            result = self._run_round(number, self._scheme)
            self.checkpoints.at_rest = True
        except RunStoppedError:
            self.checkpoints.save_what_is_new(self._loop.body_generators)
            raise
        except Exception as error:  # a halt, or a bug: what led to it
            self._record.halted()
            if isinstance(error, RunHaltedError):
                self.checkpoints.save_what_is_new(self._loop.body_generators)
            raise
        take_into_model(result, self.session.state, self.driver.aggregator.remembers)
        accounts.add(result, self._scheme)
        seconds, traffic = accounts.ledger.seconds, accounts.ledger.traffic()
        maker, sizes_K = self._scheme.maker, self.session.sizes_K
        left, apart = maker.left(result.plan), maker.rows_spread
        info = step_info(result, seconds, traffic, maker.noise, sizes_K, maker.spread, left, apart)
        self._record.step(info, result)
        if self.on_step is not None:
            self.on_step(info)
        return info

    def check_waiting(self, steps: int, on_step: Callable[[int], None] | None = None) -> tuple[float, float] | None:
        """Run ``steps`` real rounds of `sync` (the model stays as it is) and compare with the estimate.

        Returns:
            Seconds taken and seconds estimated, without what happens between rounds; None if there is no estimate.
        """
        if self.accounts.data.local:  # who would compute how much depends on who is here
            self.driver.say("check", "waiting for all is not checked: not every worker can read every partition")
            return None
        scheme = self.session.wait_for_all(self._record.planned)
        return self.accounts.check_waiting(steps, partial(self._run_round, scheme=scheme), on_step)

    def inject(self, fault: FaultConfig | Mapping[str, Any]) -> None:
        """Make a fault happen now, for a drill: a table as in ``[[faults]]``, without ``step`` and ``every``.

        Workers obey the kinds that ``[[faults]]`` of their own settings name; a table without step and every only names one.

        Raises:
            ConfigError: no such fault, or its worker is not here.
        """
        what, rank = drill(self.config, fault)
        here = sorted(peer.rank for peer in self.driver.machine.members.peers())
        if rank is None and here:
            rank = pick(self.config.seed, -1, self.accounts.next, here)
        if rank is None or rank not in (0, *here):
            raise ConfigError(f"inject: worker {'' if rank is None else rank} is not here; here are {here or 'none'}")
        self.driver.inject(self.accounts.next, what, rank)

    def summary(self, metrics: dict[str, float] | None = None) -> Summary:
        """The run so far, for people and for ``summary.json``."""
        return replace(self.accounts.summary(metrics, self.folder.path), virtual=self.virtual)

    def observe(self, observer: Observer) -> None:
        """Tell an observer of every step, event and evaluation from now on; it is closed with the run.

        It is called by a thread of its own: training never waits for it (`gcdist.observe.Observer`).
        """
        self.folder.stream.add(observer)

    def close(self, reason: str = "the run is over", finished: bool = True) -> None:
        """Write what no checkpoint has yet, release the workers, close the folder; idempotent.

        ``finished``: the run came to its own end.
        """
        if self.finished:
            return
        self.finished = True
        with ExitStack() as always:  # whatever fails on the way, no thread and no port stays
            always.callback(self.on_closed)
            always.callback(self.folder.close)
            try:
                self.checkpoints.save_what_is_new()
                for line in self.accounts.data.notes():
                    self.driver.say("data", line)
                self.driver.stop(reason)
            finally:
                if self._on_close is not None:
                    self._on_close()
            self._say_the_end(reason, finished)

    def _say_the_end(self, reason: str, finished: bool) -> None:
        if finished:
            leave("end", "")
            self._sum_up()
        else:
            line = self.where_it_stands()
            self.driver.say("checkpoint", line)
            leave(
                "end",
                f"{reason.splitlines()[0] if reason else 'no reason'}, after {self.accounts.trained} steps; {line}",
            )
        self.folder.event("end", reason, finished=finished)

    def _write_config(self) -> None:
        """A script's ``config.toml`` says what its run really is."""
        if self.session.task.origin is None:
            self.folder.write_config(settings_text(self.session, self._optimizer, self._asked))

    def _sum_up(self) -> None:
        """``summary.json`` and the table of a script's run, where it has not been written since the last step."""
        if not self.accounts.trained:
            return
        summary = self.summary(self.accounts.evaluation)
        if self.folder.summed_up is None or self.progress is not None:
            self.folder.write_summary(summary.as_dict())
        if self.progress is not None:
            self.folder.stream.remove(self.progress)  # all steps are shown before
            self.progress.end(summary)

    def where_it_stands(self) -> str:
        """The newest checkpoint and how the run goes on from it, in one line."""
        newest = self.checkpoints.newest or (self.checkpoints.resumed and self.checkpoints.resumed.path)
        if newest is None:
            return f"there is no checkpoint in {self.folder.path}"
        return f"the newest checkpoint is {newest}" + (f"; {self.again}" if self.again else "")

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        told = isinstance(error, RunHaltedError | RunStoppedError)  # the text says all
        name = "" if told or error is None else f"the master ended with {type(error).__name__}: "
        self.close("the run is over" if error is None else f"{name}{error}", finished=error is None)

    def _must_be_open(self, what: str) -> None:
        if self.finished:
            raise RuntimeError(
                f"{what}: this run is over, its cluster is closed; connect or simulate begins another one"
            )

    def _begin(self) -> None:
        """Before the first round: wait for the workers, then start the run's clock, or let it go on."""
        self.driver.gather()
        self.checkpoints.begin()

    def _evaluate_if_due(self) -> None:
        if self._evaluations.due():
            self.evaluate()

    def _warn(self, line: str | None) -> None:
        if line is not None:
            self.driver.say("warning", line)

    def _run_round(self, number: int, scheme: Scheme) -> RoundResult:
        self.session.state.grow()  # parameters that were unfrozen since the last step
        return self.driver.run_round(number, scheme)
