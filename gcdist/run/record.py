"""What a run writes of its plans and steps into its folder."""

from __future__ import annotations

from typing import Any

from gcdist.master.driver import MasterDriver
from gcdist.master.round_result import RoundResult
from gcdist.master.scheme import Scheme
from gcdist.observe import RunFolder
from gcdist.planning import PlanReport
from gcdist.run.accounts import Accounts
from gcdist.run.session import Session
from gcdist.run.step import StepInfo
from gcdist.types import Plan


class RunRecord:
    """Writes each plan with what is new about it, each step with its rounds, and what led to a halt.

    Args:
        session: the run's parts.
        driver: says lines, and has the times of the rounds.
        folder: takes it all.
        accounts: of the run.
    """

    def __init__(self, session: Session, driver: MasterDriver, folder: RunFolder, accounts: Accounts) -> None:
        self._session = session
        self._driver = driver
        self._folder = folder
        self._accounts = accounts
        self.scheme: Scheme | None = None  # that is trained with: knows how much partitions differ, and why it chose
        self._deadline: float | None = None  # of the plan before
        self._noticed: frozenset[str] = frozenset()  # what its lines were about

    def planned(self, plan: Plan, report: PlanReport, deadline: float) -> None:
        """A plan, and a line for each notice that the plan before did not have."""
        learned: dict[str, float] = {"coordinates": self._session.state.layout.d}
        scheme = self.scheme
        if scheme is not None:
            learned["disagreement"] = scheme.maker.disagreement
            if scheme.maker.known_spread:
                learned["spread"] = scheme.maker.spread
        step = self._accounts.next
        self._folder.write_plan(plan, report=report, deadline=deadline, step=step, **learned)
        if scheme is not None and scheme.why:
            self._folder.event("auto", f"from step {step} on: {scheme.why}")
            scheme.why, self._deadline = "", deadline
        if deadline != self._deadline:
            was = "" if self._deadline is None else f" (was {self._deadline:.3g} s)"
            self._deadline = deadline
            self._folder.event("deadline", f"{deadline:.3g} s from step {step} on{was}")
        for about, line in report["notices"].items():
            if about not in self._noticed:
                self._driver.say("plan", line)
        self._noticed = frozenset(report["notices"])
        if report["uncovered"]:
            text = f"nobody here holds partitions {report['uncovered']}: the estimate leaves them out"
            self._driver.say("plan", text)

    def step(self, info: StepInfo, result: RoundResult) -> None:
        """A finished step: its figures, the rounds that ended with it, and its place in the trace."""
        rounds = self._driver.times.take(self._driver.port.now() - info.seconds)
        self._accounts.seconds = info.seconds
        values: dict[str, Any] = {name: getattr(info, name) for name in StepInfo.__slots__}
        if self.scheme is not None and self.scheme.maker.known_spread:
            values["spread"] = self.scheme.maker.spread
        self._folder.step(values.pop("step"), rounds, **values)
        mine = [seen for seen in result.seen if seen.step == result.step]
        in_time = {seen.worker + 1: seen.seconds for seen in mine if not seen.censored}
        missing = tuple(seen.worker + 1 for seen in mine if seen.censored)
        opened = info.seconds - result.seconds
        self._folder.trace.step(result.step, opened, result.seconds, in_time, missing, result.why, rounds)

    def halted(self) -> None:
        """The last events of the master, once a halt or a bug has ended the run."""
        self._folder.write_last_events(self._driver.last.lines())
