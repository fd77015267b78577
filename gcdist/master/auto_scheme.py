"""The scheme that chooses by itself: deadline, loads and bits anew while the run goes on, by one objective."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gcdist.master.plan_maker import ALL, Choice, Holds
from gcdist.master.scheme import Scheme
from gcdist.planning.cut_choice import patience
from gcdist.straggler.chosen_deadline import ChosenDeadline
from gcdist.types import Mask, Plan

# choose anew once partitions differ, over the gradient, so many times more or less than at the last choice
MOVED = 1.25
CHANGED = 1.5  # ... and once they change so many times faster or more slowly
# where memories are to be filled, a step is cut after so many times what waiting for all takes, or by when who fills them
# is done with this chance: nobody waits for others, nor for who is in a slow spell
FILL, SURELY = 1.5, 0.95


@dataclass(slots=True, eq=False)
class AutoScheme(Scheme):
    """Chooses after steps 1, 2, 4, 7, 11, .. and then every ``replan_every`` steps; at once when members, workers' laws or
    the gradient's size have changed. The first step waits for all: nothing is known before it.

    What is chosen stays while it costs at most 3% more than the best (`planning.cut_choice`, `planning.bits_choice`).
    """

    choice: Choice | None = None
    _spread: float = field(default=0.0, init=False)
    _slowness: float = field(default=0.0, init=False)
    _live: bytes = field(default=b"", init=False)
    _remembered: set[tuple[int, int]] = field(default_factory=set, init=False)  # (worker, partition) of the plan
    _filling: bool = field(default=False, init=False)

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
        if why is not None:
            self._choose(live_N, holds, why)
        return self._made(live_N, holds)

    def _why(self, live_N: Mask) -> str | None:
        """Why a choice is due; None: none is."""
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
        if self._age >= min(self.replan_every, max(1, self.choices)):
            return "what was measured since"
        if self._spread > 0 and not 1 / MOVED <= self.maker.spread / self._spread <= MOVED:
            return "gradients of partitions differ " + ("more" if self.maker.spread > self._spread else "less")
        slow = self.maker.changes.slowness
        if self._slowness > 0 and not 1 / CHANGED <= slow / self._slowness <= CHANGED:
            return "gradients change " + ("faster" if slow > self._slowness else "more slowly")
        return None

    def _choose(self, live_N: Mask, holds: Holds, why: str) -> None:
        rule = self.rule
        assert isinstance(rule, ChosenDeadline)
        self._live, self._age = live_N.tobytes(), 0
        before = self.choice
        found = self.maker.choose(live_N, holds, self.noise_most, before, self.between)
        if found is None:  # nothing is known of anybody: wait for all
            if before is not None:
                self.choice = None
                rule.adopt(np.inf)
                self.outdated = True
            return
        self.choices += 1
        self._spread, self._slowness = self.maker.spread, self.maker.changes.slowness
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
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what `state_dict` gave; a choice for another number of workers is made anew."""
        super(AutoScheme, self).load_state_dict(state)
        found = state.get("choice")
        workers = self.maker.laws.workers if self.maker.laws is not None else 0
        if found is not None and len(found["load"]) == workers:
            self.choice, self.choices, self._spread = Choice.of(found), state["choices"], state["spread"]
            self._slowness = state.get("slowness", 0.0)

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
