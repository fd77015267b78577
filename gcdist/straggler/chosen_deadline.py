"""The stop rule of the automatic scheme: a deadline that the scheme chooses, and no warm-up."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from gcdist.straggler.arrivals import Arrivals
from gcdist.straggler.deadline import ArrivalRule
from gcdist.types import I64, DelayModel, StepTerms

LAWS, ENOUGH = 10.0, 50.0  # outcomes that the laws count for, until so many have been seen
_SURE = 0.03  # the laws' chances are no closer to 0 and 1


class ChosenDeadline(ArrivalRule):
    """Waits for all until a deadline is adopted; p is that of `ArrivalRule`, for the deadline adopted last.

    Where waiting for all was adopted, a step is cut all the same once it takes longer than ``patience``: a worker that has
    become slow, or stands still, would cost whole steps before anybody could choose anew.

    Where outcomes contradict the promises, all before these outcomes is forgotten, but nobody is waited for:
    ``contradicted`` asks for a new choice at once. Rows that are cut say how fast a worker is however early the cut
    comes, so no step explores.
    """

    _lenient = True  # it promises from the second step on

    def __init__(
        self,
        arrivals: Arrivals,
        max_wait: float,
        p: Literal["measured", "model"] = "measured",
        delays: DelayModel | None = None,
    ) -> None:
        super().__init__(arrivals, max_wait, 0, p, delays)
        self._deadline = math.inf
        self._patience = math.inf
        self.contradicted = False

    @property
    def deadline(self) -> float:
        """The deadline adopted last, at most ``max_wait``."""
        return min(self._deadline, self.max_wait)

    @property
    def waits(self) -> bool:
        """Whether the next step waits for all."""
        return self._deadline >= self.max_wait

    @property
    def longest_wait(self) -> float:
        """Seconds after which a step that waits for all is cut."""
        return min(self._patience, self.max_wait)

    def adopt(self, deadline: float, patience: float = math.inf) -> None:
        """The deadline from now on, seconds; inf: wait for all, for ``patience`` seconds at most."""
        self._deadline, self._patience = deadline, patience
        self.contradicted = False

    def with_laws(self, terms: StepTerms, owner_R: I64, nothing: Callable[[int, float], float]) -> StepTerms:
        """The same promise where outcomes are few: the workers' laws count for `LAWS` outcomes beside them.

        Until m outcomes of one worker have been seen its p is at most ``m/(m+1)``, so that many workers with a small chance
        would all be believed too much. The laws know the time of every partition, and of the other workers' too.

        Args:
            terms: of a step with cuts.
            owner_R: worker of each row, (R,).
            nothing: P(no partition is done by the cut) by the laws, given the worker and its cut.
        """
        if self._promised_N is None or terms.cut_N is None or not self.chances.measured:
            return terms
        here, m_N, p_N = terms.p_R < 1, self._outcomes_N, self._promised_N
        few = np.flatnonzero(m_N < min(ENOUGH, self.arrivals.window))
        few = np.intersect1d(few, owner_R[here])
        if not len(few):
            return terms
        law_N = p_N.copy()
        law_N[few] = np.clip([nothing(i, float(terms.cut_N[i])) for i in few.tolist()], _SURE, 1 - _SURE)
        law_F = np.clip(self.arrivals.p_if_ready(law_N, self._ready_N)[few], _SURE, 1 - _SURE)
        p_N[few] = (LAWS * law_F + m_N[few] * p_N[few]) / (LAWS + m_N[few])
        m_N[few] += LAWS
        return replace(terms, p_R=np.where(here, p_N[owner_R], terms.p_R))

    def forget(self, workers: Iterable[int]) -> None:
        """Forget the outcomes of these workers: their speed has changed."""
        for worker in workers:
            self.arrivals.forget_worker(worker)
        self._surprise.forget()

    def _relearn(self, since: int) -> None:
        self.arrivals.forget_before(since)
        self._surprise.forget()
        self._promised_N = None
        self.contradicted = True

    def state_dict(self) -> dict[str, Any]:
        """What was learned, the deadline too."""
        return {**super().state_dict(), "deadline": self._deadline, "patience": self._patience}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what another rule's `state_dict` gave; of another kind: its outcomes."""
        super().load_state_dict(state)
        self._deadline, self._patience = state.get("deadline", math.inf), state.get("patience", math.inf)
