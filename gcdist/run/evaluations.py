"""Evaluations of the master's model while the workers wait."""

from __future__ import annotations

from collections.abc import Callable

from gcdist.master.driver import MasterDriver
from gcdist.model.evaluation import evaluated
from gcdist.observe import RunFolder
from gcdist.run.accounts import Accounts
from gcdist.run.model_watch import ModelWatch
from gcdist.run.session import Session
from gcdist.tasks.task import Evaluate


class Evaluations:
    """Runs the user's evaluation and writes what it gave; the accounts keep the newest metrics.

    Args:
        session: the run's parts.
        driver: its port has the clock.
        folder: takes a line an evaluation.
        accounts: of the run.
        watch: knows the model as the workers have it; the evaluation may leave traces in it.
    """

    def __init__(
        self, session: Session, driver: MasterDriver, folder: RunFolder, accounts: Accounts, watch: ModelWatch
    ) -> None:
        self._session = session
        self._driver = driver
        self._folder = folder
        self._accounts = accounts
        self._watch = watch

    def evaluate(self, fn: Evaluate | None = None) -> dict[str, float]:
        """The metrics of ``fn(model)``, None: the task's own; ValueError as `Cluster.evaluate` says."""
        fn = fn or self._session.task.evaluate
        if fn is None:
            raise ValueError("evaluate: the task has no evaluate function; give one")
        accounts, port = self._accounts, self._driver.port
        at, begun = accounts.ledger.seconds, port.now()
        if (line := self._watch.changed()) is not None:
            self._driver.say("warning", line)
        with accounts.ledger.pause("evaluation"):
            accounts.evaluation = evaluated(self._session.task.model, fn)
            self._watch.accept()
            spent = port.now() - begun
        accounts.evaluated_at = accounts.next
        self._folder.evaluation(accounts.next, at, spent, accounts.evaluation)
        self._folder.event("evaluation", f"after {accounts.next} steps, in {spent:.3g} s")
        return dict(accounts.evaluation)

    def due(self) -> bool:
        """Whether the settings ask for one after so many steps, and there is none yet."""
        every, at = self._session.config.evaluation.every, self._accounts.next
        wanted = every > 0 and at % every == 0 and self._session.task.evaluate is not None
        return wanted and self._accounts.evaluated_at != at

    def final(self, evaluate: Callable[[], dict[str, float]]) -> dict[str, float]:
        """The metrics after the last step: those there are, or ``evaluate()``; empty if the task has no evaluation."""
        if self._session.task.evaluate is None:
            return {}
        accounts = self._accounts
        return dict(accounts.evaluation) if accounts.evaluated_at == accounts.next else evaluate()

    def recall(self) -> None:
        """Take up what was evaluated at the checkpoint's step after the checkpoint was written."""
        accounts = self._accounts
        for line in self._folder.evaluations():
            if line["step"] == accounts.next != accounts.evaluated_at:
                accounts.evaluated_at, accounts.evaluation = line["step"], dict(line["metrics"])
                paused = accounts.ledger.paused
                paused["evaluation"] = paused.get("evaluation", 0.0) + line["evaluation_seconds"]
