"""The scheme that chooses by itself: deadline, loads and bits anew while the run goes on, by one objective."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import ceil
from typing import Any

import numpy as np

from gcdist.master.plan_maker import ALL, Choice, Holds
from gcdist.master.scheme import Scheme
from gcdist.planning.cut_choice import patience
from gcdist.straggler.chosen_deadline import ChosenDeadline
from gcdist.types import Mask, Plan, StepTerms

# choose anew once partitions differ, over the gradient, so many times more or less than at the last choice
MOVED = 1.25
CHANGED = 1.5  # ... and once they change so many times faster or more slowly
# so many choices are made before a step opens, because every step teaches much; later ones while a round is under way
EARLY = 3
CHOOSING = 0.03  # most of the time that choosing may take, where nothing but time has passed
# where memories are to be filled, a step is cut after so many times what waiting for all takes, or by when who fills them
# is done with this chance: nobody waits for others, nor for who is in a slow spell
FILL, SURELY = 1.5, 0.95


@dataclass(slots=True, eq=False)
class AutoScheme(Scheme):
    """Chooses after steps 1, 2, 4, 7, 11, .. and then every ``replan_every`` steps, less often where that took more than 3%
    of the time, and when the gradient's size has changed; at once when members or workers' laws have. The first step waits
    for all: nothing is known before it. All but the first few choices are made while the master waits for a round.

    What is chosen stays while it costs at most 3% more than the best (`planning.cut_choice`, `planning.bits_choice`).
    """

    choice: Choice | None = None
    _spread: float = field(default=0.0, init=False)
    _slowness: float = field(default=0.0, init=False)
    _live: bytes = field(default=b"", init=False)
    _remembered: set[tuple[int, int]] = field(default_factory=set, init=False)  # (worker, partition) of the plan
    _filling: bool = field(default=False, init=False)
    _thought: tuple[Choice, str] | None = field(default=None, init=False)  # chosen meanwhile, and why
    _seconds: float = field(default=0.0, init=False)  # that a choice takes, median of the last ones
    _took: deque[float] = field(default_factory=lambda: deque(maxlen=5), init=False)

    def plan_for(self, live_N: Mask, holds: Holds = ALL) -> Plan:
        """The plan of the next step, after a choice if one is due."""
        rule, laws = self.rule, self.maker.laws
        assert isinstance(rule, ChosenDeadline)
        assert laws is not None
        rule.review()
        laws.follow()
        if rule.contradicted:
            laws.doubt()
        why = self._why(live_N)
        if laws.changed:
            rule.forget(laws.changed)
            laws.changed.clear()
        laws.spells.moved.clear()
        if why is None and self.choices < EARLY:
            why = self._why_later()
        if why is not None:
            self._choose(live_N, holds, why)
        elif self._thought is not None:
            self._take(*self._thought)
        self._thought = None
        return self._made(live_N, holds)

    def terms(self, plan: Plan, live_N: Mask, ready_N: Mask) -> StepTerms:
        """The promise of the next step, by the workers' laws too where outcomes are few."""
        terms, rule, laws = super(AutoScheme, self).terms(plan, live_N, ready_N), self.rule, self.maker.laws
        assert isinstance(rule, ChosenDeadline)
        if laws is None or self.known_p or not self.promises:
            return terms
        return rule.with_laws(terms, plan.worker_R, laws.nothing)

    def meanwhile(self, live_N: Mask, holds: Holds = ALL) -> None:
        """While the workers compute: the choice for the next step, if one is due and does not depend on this step."""
        if self.choices < EARLY or live_N.tobytes() != self._live:
            return
        why = self._why_later()
        found = None if why is None else self._found(live_N, holds)
        if found is not None and why is not None:
            self._thought = found, why

    def chose(self, seconds: float) -> None:
        """A choice has taken so long."""
        self._took.append(seconds)
        self._seconds = float(np.median(self._took))

    def _why(self, live_N: Mask) -> str | None:
        """Why a choice is due at once; None: none is."""
        rule, laws = self.rule, self.maker.laws
        assert isinstance(rule, ChosenDeadline)
        assert laws is not None
        if live_N.tobytes() != self._live or self.outdated:
            return "who is here has changed"
        if laws.changed:
            ranks = ", ".join(str(worker + 1) for worker in sorted(laws.changed))
            return f"the speed of worker{'s' if len(laws.changed) > 1 else ''} {ranks} has changed"
        if laws.spells.moved:
            moved = sorted(laws.spells.moved)
            each = [f"worker {i + 1} is {'slow' if laws.spells.slow(i) else 'no longer slow'}" for i in moved]
            return ", ".join(each)
        if rule.contradicted:
            return "arrivals contradict what was known"
        return None

    def _why_later(self) -> str | None:
        """Why a choice is due soon; None: none is."""
        rest = self._rest
        if self._age < rest:
            return None
        if self._age >= min(self.replan_every, max(rest, self.choices)):
            return "what was measured since"
        if self._spread > 0 and not 1 / MOVED <= self.maker.rows_spread / self._spread <= MOVED:
            return "gradients of partitions differ " + ("more" if self.maker.rows_spread > self._spread else "less")
        slow = self.maker.changes.slowness
        if self._slowness > 0 and not 1 / CHANGED <= slow / self._slowness <= CHANGED:
            return "gradients change " + ("faster" if slow > self._slowness else "more slowly")
        return None

    @property
    def _rest(self) -> int:
        """Steps from a choice to the next one, so that choosing takes `CHOOSING` of the time at most."""
        if self.choices < EARLY or self.choice is None:
            return 1
        share = CHOOSING * (self.choice.prospect.seconds + self.between)
        return min(self.replan_every, max(1, ceil(self._seconds / max(share, 1e-9))))

    def _choose(self, live_N: Mask, holds: Holds, why: str) -> None:
        rule = self.rule
        assert isinstance(rule, ChosenDeadline)
        found = self._found(live_N, holds)
        if found is not None:
            self._take(found, why)
        elif self.choice is not None:  # nothing is known of anybody: wait for all
            self.choice = None
            rule.adopt(np.inf)
            self.outdated = True

    def _found(self, live_N: Mask, holds: Holds) -> Choice | None:
        """The best choice by what is known now; None: nothing is."""
        self._live, self._age = live_N.tobytes(), 0
        found = self.maker.choose(live_N, holds, self.noise_most, self.choice, self.between)
        if found is not None:
            self.choices += 1
            self._spread, self._slowness = self.maker.rows_spread, self.maker.changes.slowness
        return found

    def _take(self, found: Choice, why: str) -> None:
        """This choice from the next step on."""
        before = self.choice
        self._adopt(found.deadline, found)
        if before is None or not found.same_as(before):
            self.outdated, self.choice = True, found
            self.why = f"{found.line(before)}, as {why}"

    def state_dict(self) -> dict[str, Any]:
        """What it has seen and chosen, for a checkpoint."""
        return {
            **super(AutoScheme, self).state_dict(),
            "choice": None if self.choice is None else self.choice.state_dict(),
            "choices": self.choices,
            "spread": self._spread,
            "slowness": self._slowness,
            "remembered": sorted(self._remembered),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what `state_dict` gave; a choice for another number of workers is made anew."""
        super(AutoScheme, self).load_state_dict(state)
        found = state.get("choice")
        workers = self.maker.laws.workers if self.maker.laws is not None else 0
        if found is not None and len(found["load"]) == workers:
            self.choice, self.choices, self._spread = Choice.of(found), state["choices"], state["spread"]
            self._slowness = state.get("slowness", 0.0)

    def workers_remember(self, state: Mapping[str, Any]) -> None:
        """See `Scheme.workers_remember`."""
        self._remembered = {(int(worker), int(partition)) for worker, partition in state.get("remembered", ())}

    def _made(self, live_N: Mask, holds: Holds) -> Plan:
        """The present plan, or a new one where the choice, the members or the vector have changed."""
        grown = self.plan is not None and self.plan.trained != self.maker.shape.trained
        if self.plan is None or self.outdated or grown:
            self._plan_anew(live_N, holds)
            self._fill()
        elif self._filling and self.choice is not None:
            self._filling = False
            self._adopt(self.choice.deadline, self.choice)
        self._age += 1
        assert self.plan is not None
        return self.plan

    def _fill(self) -> None:
        """A worker that is new to a partition remembers nothing of it: one step takes longer, so that it is computed."""
        plan, choice = self.plan, self.choice
        assert plan is not None
        held: set[tuple[int, int]] = set()
        if choice is not None and plan.beta_R is not None:
            held = {
                (int(plan.worker_R[row]), j) for row in np.flatnonzero(plan.beta_R) for j, _ in plan.parts(int(row))
            }
        new = {worker for worker, _ in held - self._remembered}
        self._filling = bool(new) and choice is not None
        self._remembered = held
        if choice is not None:
            self._adopt(max(choice.deadline, self._seconds_to_fill(new, choice)), choice)

    def _seconds_to_fill(self, new: Iterable[int], choice: Choice) -> float:
        """By when these workers are done with their rows."""
        laws = self.maker.laws
        assert laws is not None
        ready = [laws.row_seconds(i, int(choice.load_N[i]), SURELY) for i in new if not laws.spells.rows(i)]
        return min(FILL * choice.waiting.seconds, max(ready, default=0.0))

    def _adopt(self, deadline: float, choice: Choice) -> None:
        assert isinstance(self.rule, ChosenDeadline)
        self.rule.adopt(deadline, patience(choice.waiting))
