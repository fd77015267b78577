"""A scheme in use: a code, its stop rule and its current plan."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from gcdist.master.plan_maker import ALL, Holds, PlanMaker
from gcdist.planning import PlanReport
from gcdist.straggler import ArrivalRule, AutoDeadline, WaitForAll, with_cuts
from gcdist.types import F64, GradientCode, Mask, Plan, RunHaltedError, Seen, StepTerms

EXCESS_EVERY = 10  # steps of a plan after which the noise that cuts add is worked out anew


@dataclass(slots=True, eq=False)
class Scheme:
    """What a step is opened with. ``plan_for`` plans anew when who is here has changed, when the vector has grown, when the
    warm-up is over, when the rule is surprised, and every ``replan_every`` steps; between two plans everything stays.
    """

    code: GradientCode
    rule: ArrivalRule
    maker: PlanMaker
    replan_every: int
    on_plan: Callable[[Plan, PlanReport, float], None]
    noise_most: float = 0.2
    known_p: bool = False  # p is given or from a model, and not measured
    between: float = 0.0  # seconds from a step's end to the next one's opening
    outdated: bool = True
    why: str = ""  # the newest automatic choice in a line, until somebody has said it
    plan: Plan | None = None
    report: PlanReport | None = None
    choices: int = field(default=0, init=False)  # automatic ones so far: of a deadline, or of everything
    _age: int = 0
    _warm: bool = True
    _excess: tuple[tuple[int, float | None, int], F64] | None = None
    _idle: deque[float] = field(default_factory=lambda: deque(maxlen=9))

    @property
    def promises(self) -> bool:
        """Whether the next step's p is a promise about a deadline."""
        return not (self.rule.warming or self.rule.waits)

    def terms(self, plan: Plan, live_N: Mask, ready_N: Mask) -> StepTerms:
        """The promise of the next step; rows that may be cut are, once it is one about a deadline or ends before it."""
        terms, laws, rule = self.rule.terms(plan, live_N, ready_N), self.maker.laws, self.rule
        impatient = rule.waits and not rule.warming and rule.longest_wait < rule.max_wait
        if laws is None or not (self.promises or impatient):
            return terms
        terms = with_cuts(terms, laws, self.known_p)
        assert terms.cut_N is not None
        key = plan.plan_id, terms.aim, self._age // EXCESS_EVERY
        if self._excess is None or self._excess[0] != key:
            self._excess = key, laws.excess_R(plan, terms.cut_N)
        return replace(terms, excess_R=self._excess[1])

    def observe(self, seen: Seen) -> None:
        """Take in the outcome of one row."""
        self.rule.observe(seen)
        if self.maker.laws is not None:
            self.maker.laws.observe(seen)

    def plan_for(self, live_N: Mask, holds: Holds = ALL) -> Plan:
        """The plan of the next step, given who is live and holds what; RunHaltedError if there is none."""
        self.rule.review()
        if self.maker.laws is not None:
            self.outdated |= self.maker.laws.follow()
        warming = self.rule.warming
        due = self._age >= self.replan_every and not isinstance(self.rule, WaitForAll)
        grown = self.plan is not None and self.plan.trained != self.maker.shape.trained
        if self.plan is None or self.outdated or due or grown or warming != self._warm or self.rule.surprised:
            if not warming:
                self._choose_deadline(live_N, holds)
            self._plan_anew(live_N, holds)
            self._warm = warming
        self._age += 1
        assert self.plan is not None
        return self.plan

    def meanwhile(self, live_N: Mask, holds: Holds = ALL) -> None:
        """What can be worked out for the next step while the workers compute: nothing, as a rule."""

    def chose(self, seconds: float) -> None:
        """An automatic choice has taken so long."""

    def _plan_anew(self, live_N: Mask, holds: Holds) -> None:
        try:
            self.plan, self.report = self.maker.make(live_N, holds)
        except ValueError as error:
            raise RunHaltedError(f"no plan for {int(live_N.sum())} live workers: {error}") from None
        self.outdated, self._age = False, 0
        self.on_plan(self.plan, self.report, self.rule.deadline)

    def state_dict(self) -> dict[str, Any]:
        """What it has seen and chosen by itself, for a checkpoint."""
        return {"idle": list(self._idle)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what `state_dict` gave, of this scheme or another one; what does not fit begins anew."""
        for seconds in state.get("idle", ()):
            self.idle(float(seconds))

    def workers_remember(self, state: Mapping[str, Any]) -> None:
        """The workers still remember the gradients of partitions that they did when `state_dict` gave this."""

    def idle(self, seconds: float) -> None:
        """So long it took from a step's end to the next one's opening; ``between`` is the median of the last ones."""
        self._idle.append(seconds)
        self.between = float(np.median(self._idle))

    def _choose_deadline(self, live_N: Mask, holds: Holds) -> None:
        """Choose an automatic deadline anew: of partial rows by what is done when, else by arrivals."""
        rule = self.rule
        if isinstance(rule, AutoDeadline):
            present = np.inf if rule.waits else rule.deadline
            choice = self.maker.choose_cut(live_N, holds, self.noise_most, present, self.between)
            self.choices += 1
            if choice is not None:
                rule.adopt(choice.deadline)
                return
        most_load = self.maker.most_load(int(live_N.sum()))
        noise = self.maker.held_noise(live_N, holds)
        rule.retune(live_N, self.maker.omega_N(len(live_N)), self.maker.disagreement, most_load, noise)
