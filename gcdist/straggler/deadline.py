"""Stop rules: the deadline of each step and the chances to miss it, from the past alone (math section 8).

A rule is told outcomes (`observe`: `Seen` in) and promises each step (`terms`: `StepTerms` out). Where its chances come from
is an object of `gcdist.straggler.chances`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

import numpy as np

from gcdist.straggler.arrivals import Arrivals
from gcdist.straggler.chances import WAIT_P, Source, make_chances
from gcdist.straggler.surprise import Surprise
from gcdist.types import F64, DelayModel, Mask, Plan, Seen, StepTerms

_GRID = 64  # candidate deadlines: quantiles of the arrivals seen
_EXPLORE_EVERY = 25  # one step in 25 has twice the learned deadline: without it the deadline could only shrink
_LONGER = 2.0  # choose again when an arrival takes twice as long as the longest one before the choice to wait
_RELEARN_WAIT = 16.0  # a warm-up after a change waits at most 16 of the old deadlines: a worker may hang
_ROUNDING = 1e-9  # seconds: rounding may make a step this much shorter than its deadline
_HUGE = 1e12  # noise of a plan that does not exist
_KEEP = 1.05  # the learned deadline stays while its cost is at most 1.05 times the best


# the least sum of c_i Y_i^2 over a plan's shares Y, which sum to 1, by the costs c_i = (p_i+omega_i)/(1-p_i) of the live
Noise: TypeAlias = Callable[[F64], float]


def _one_over_F(cost_N: F64) -> float:
    """`Noise` of shares without bounds."""
    return 1 / float(np.sum(1 / cost_N)) if np.isfinite(cost_N).any() else math.inf


class ArrivalRule:
    """What all stop rules share: arrival statistics, the warm-up, the promise, and noticing that the laws have changed.

    While ``warming``, and for a rule that waits, the deadline is ``max_wait`` and p is `WAIT_P` for every live worker that
    was never seen to miss it. p of an absent worker is 1. Measured laws that no longer hold (`Surprise`) are forgotten, and
    the warm-up begins anew; it then waits for at most 16 of the deadlines before.
    """

    _lenient = False  # whether `Surprise` takes in how many outcomes a chance was estimated from

    def __init__(
        self,
        arrivals: Arrivals,
        max_wait: float,
        warmup_steps: int,
        p: Source = "measured",
        delays: DelayModel | None = None,
    ) -> None:
        self.arrivals = arrivals
        self.max_wait = max_wait
        self.chances = make_chances(p, arrivals, delays)
        self._warmup_steps = warmup_steps
        self._steps = 0  # closed steps with an outcome that was not cold
        self._last = -1
        self._most_load: float | None = None  # of a worker in the plans to come; None: the usual load
        self._wait = max_wait  # of a step of the warm-up
        self._surprise = Surprise()
        self._promised_N: F64 | None = None  # p of the step that is open; None: it waits
        self._outcomes_N = np.zeros(arrivals.workers)  # that these were estimated from
        self._ready_N: Mask = np.ones(arrivals.workers, bool)  # who was as the step opened
        self._promised_deadline = max_wait

    @property
    def deadline(self) -> float:
        """The intended deadline, for planning; that of a step is in its terms."""
        raise NotImplementedError

    @property
    def waits(self) -> bool:
        """Whether the rule waits for all (up to ``max_wait``)."""
        return False

    @property
    def longest_wait(self) -> float:
        """Seconds that a step lasts at most for a rule that waits."""
        return self.max_wait

    @property
    def warming(self) -> bool:
        """Whether the next step still belongs to the warm-up: not ``warmup_steps`` steps with warm outcomes yet."""
        return self._steps < self._warmup_steps

    @property
    def surprised(self) -> bool:
        """Whether the deadline should be chosen anew at once. Only `AutoDeadline`'s ever should."""
        return False

    def state_dict(self) -> dict[str, Any]:
        """What was learned, for a checkpoint."""
        return {
            "arrivals": self.arrivals.state_dict(),
            "steps": self._steps,
            "last": self._last,
            "wait": self._wait,
            "most_load": self._most_load,
            "recent": self._surprise.state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what another rule's `state_dict` gave, of any kind; ValueError as `Arrivals.load_state_dict`."""
        self.arrivals.load_state_dict(state["arrivals"])
        self._steps, self._last = state["steps"], state["last"]
        self._wait, self._most_load = min(state["wait"], self.max_wait), state["most_load"]
        self._surprise.load_state(state["recent"])

    def observe(self, seen: Seen) -> None:
        """Take in one outcome."""
        if seen.step > self._last and not seen.cold:
            self._last = seen.step
            self._steps += 1
        self.arrivals.observe(seen)
        # a step that closed early says nothing of who was still out
        tells = not seen.censored or seen.seconds >= self._promised_deadline * (1 - _ROUNDING)
        if self._promised_N is not None and seen.step == self._last and not seen.cold and tells:
            p, outcomes = float(self._promised_N[seen.worker]), float(self._outcomes_N[seen.worker])
            outcomes = outcomes if self._lenient else math.inf
            self._surprise.add(seen.step, p, not seen.censored, outcomes)

    def review(self) -> None:
        """Before a step opens: forget measured laws that the last steps contradict."""
        if self.chances.measured and (since := self._surprise.found()) is not None:
            self._relearn(since)

    def _relearn(self, since: int) -> None:
        """The laws have changed, not after step ``since``: forget the past, and wait for all again to learn the new ones."""
        self._wait = min(self.max_wait, _RELEARN_WAIT * self._promised_deadline)
        self.arrivals.forget()
        self._surprise.forget()
        self._promised_N = None
        self._steps = 0

    def p_long_run(self, worker: int, load: F64, deadline: float) -> F64:
        """P(not in by ``deadline``) at each load, ready or busy, for plans; measured and given p are constant in load."""
        load = np.asarray(load, np.float64)
        if self.waits:
            return np.full(load.shape, self._waiting_N(self.max_wait)[worker])
        return self.chances.p_long_run(worker, load, deadline, self._most_load)

    def retune(
        self,
        live_N: Mask | None = None,
        omega_N: F64 | None = None,
        disagreement: float = 1.0,
        most_load: float | None = None,
        noise: Noise | None = None,
    ) -> bool:
        """Choose the deadline anew, for plans that give a worker at most ``most_load`` partitions; True if it changed.

        Between two calls it stays. Only `AutoDeadline` ever changes it.
        """
        self._most_load = most_load
        return False

    def terms(self, plan: Plan, live_N: Mask, ready_N: Mask) -> StepTerms:
        """The promise for the next step."""
        self.review()
        owner_R, self._ready_N = plan.worker_R, ready_N
        if self.warming or self.waits:
            deadline = self._wait if self.warming else self.longest_wait
            p_N = self._waiting_N(deadline)
            self.arrivals.promise_nothing()
            self._promised_N = None
        else:
            deadline = self._deadline_now()
            load_N = np.ones(self.arrivals.workers)
            if not plan.partial:  # of a partial row one partition is enough, whatever its load
                load_N[owner_R] = np.maximum(np.diff(plan.A_RK.indptr), 1)
            p_N = self._promised_N = self.chances.p_given_ready(deadline, load_N, ready_N)
            self._outcomes_N = self.arrivals.count_N()
        self._promised_deadline = deadline
        return StepTerms(deadline, np.where(live_N[owner_R], p_N[owner_R], 1.0))

    def _deadline_now(self) -> float:
        return self.deadline

    def _waiting_N(self, wait: float) -> F64:
        missed_N = self.arrivals.missed_N(wait)
        if not missed_N.any():
            return np.full(self.arrivals.workers, WAIT_P)
        return np.where(missed_N, self.arrivals.p_waited_N(wait), WAIT_P)


class FixedDeadline(ArrivalRule):
    """The same deadline for every step after the warm-up; with p given or from a model there is no warm-up."""

    def __init__(
        self,
        deadline: float,
        arrivals: Arrivals,
        max_wait: float,
        warmup_steps: int,
        p: Source = "measured",
        delays: DelayModel | None = None,
    ) -> None:
        super().__init__(arrivals, max_wait, warmup_steps if p == "measured" else 0, p, delays)
        self._deadline = deadline

    @property
    def deadline(self) -> float:
        """The deadline."""
        return self._deadline


class WaitForAll(ArrivalRule):
    """A step lasts until all are in, at most ``max_wait``."""

    def __init__(self, arrivals: Arrivals, max_wait: float) -> None:
        super().__init__(arrivals, max_wait, 0)

    @property
    def deadline(self) -> float:
        """``max_wait``."""
        return self.max_wait

    @property
    def waits(self) -> bool:
        """True."""
        return True


class AutoDeadline(ArrivalRule):
    """The deadline that minimises ``E[min(tau, time until all are in)] (1 + D/F(tau))`` (math section 8, for D = 1).

    That is the wall clock to a given accuracy if the step size follows the noise, with ``F = sum (1-p_i)/(p_i+omega_i)`` and
    independent arrivals. D is how many times larger the noise is than for partitions that agree, as it was observed (ours:
    with D = 1 the deadline is far too short where partitions differ). Seconds are those of the largest load that a plan may
    give, ``most_load`` of `retune`: a deadline that reliable workers miss with the loads that they get would cost them all.
    Plans bound what a worker has: ``noise`` tells the least noise that they reach, in place of 1/F (ours: few fast workers
    cannot stand for all). The user's step size is fixed, so ``noise_most`` bounds how much larger than for waiting the noise
    may become. Candidates are quantiles of the arrivals seen, the present deadline, and waiting for all. It is chosen only
    in `retune`, first after the warm-up, during which the rule waits for all. Beyond it nothing would be seen any more, so
    one step in 25 has twice the deadline, with its own p. A rule that waits for all by choice is `surprised`, and to be
    retuned at once, when an arrival takes twice as long as any before: a slow spell would be waited for until the next plan.
    """

    _LEARNED = ("deadline", "longest", "surprised")

    def __init__(
        self,
        arrivals: Arrivals,
        max_wait: float,
        warmup_steps: int,
        p: Literal["measured", "model"],
        delays: DelayModel | None,
        noise_most: float,
        noise: Noise | None = None,
    ) -> None:
        super().__init__(arrivals, max_wait, max(warmup_steps, 1), p, delays)
        self._noise_most = noise_most
        self._noise = noise or _one_over_F
        self._deadline = max_wait
        self._longest = math.inf  # arrival at the last choice
        self._surprised = False

    @property
    def deadline(self) -> float:
        """The deadline chosen last; ``max_wait`` before the first choice, and when waiting for all is best."""
        return self._deadline

    @property
    def waits(self) -> bool:
        """Whether the present choice is to wait for all."""
        return self._deadline >= self.max_wait

    @property
    def surprised(self) -> bool:
        """Whether it waits for all, and an arrival took `_LONGER` times as long as those that this was chosen by."""
        return self._surprised and self.waits

    def state_dict(self) -> dict[str, Any]:
        """The outcomes and the deadline, for a checkpoint."""
        return {**super().state_dict(), **{name: getattr(self, f"_{name}") for name in self._LEARNED}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what another rule's `state_dict` gave; of another kind: its outcomes."""
        super().load_state_dict(state)
        if "deadline" in state:
            for name in self._LEARNED:
                setattr(self, f"_{name}", state.get(name, getattr(self, f"_{name}")))
            self._deadline = min(self._deadline, self.max_wait)

    def observe(self, seen: Seen) -> None:
        """Take in one outcome."""
        super().observe(seen)
        self._surprised |= not (seen.censored or seen.cold) and seen.seconds > _LONGER * self._longest

    def _relearn(self, since: int) -> None:
        super()._relearn(since)
        self._deadline = self.max_wait

    def retune(
        self,
        live_N: Mask | None = None,
        omega_N: F64 | None = None,
        disagreement: float = 1.0,
        most_load: float | None = None,
        noise: Noise | None = None,
    ) -> bool:
        """Choose the deadline anew from the arrivals so far; True if it changed.

        ``live_N``: who is there (None: all); ``omega_N``: quantization noise of each worker's messages (None: 0);
        ``disagreement``: how many times larger the noise is than for partitions that agree; ``most_load``: partitions that
        a plan gives one worker at most (None: what they usually had); ``noise``: the least noise of a plan for those who are
        there, where they cannot read all partitions (None: the rule's own).
        """
        super().retune(live_N, omega_N, disagreement, most_load)
        noise = noise or self._noise
        arrived = self.arrivals.arrived(most_load)
        live = np.ones(self.arrivals.workers, bool) if live_N is None else live_N
        if self.warming or len(arrived) == 0 or not live.any():
            return False
        self._longest, self._surprised = self.arrivals.longest(), False
        quantiles = np.quantile(arrived, np.linspace(0, 1, _GRID), method="inverted_cdf")
        grid = np.unique(np.minimum(np.append(quantiles, self._deadline), self.max_wait))
        grid = np.unique(np.append(grid, self.max_wait))
        cost = self.cost(grid, live, np.zeros(len(live)) if omega_N is None else omega_N, disagreement, noise)
        present = cost[np.searchsorted(grid, self._deadline)]
        best = float(grid[np.argmin(cost)])
        if present <= _KEEP * cost.min() or best == self._deadline:
            return False
        self._deadline = best
        return True

    def adopt(self, deadline: float) -> None:
        """Take a deadline that was chosen elsewhere (of partial rows: `planning.choose_cut`); inf: wait for all."""
        arrived = self.arrivals.arrived()
        if not self.warming and len(arrived):
            self._longest, self._surprised = float(arrived[-1]), False
            self._deadline = min(deadline, self.max_wait)

    def cost(
        self, tau_G: F64, live_N: Mask, omega_N: F64, disagreement: float = 1.0, noise: Noise | None = None
    ) -> F64:
        """``E[min(tau, time until all are in)] (1 + disagreement/F(tau))`` of each of the ascending ``tau_G``, seconds.

        A tau of ``max_wait`` stands for waiting for all, with its p. A tau that less than one arrival is expected by costs
        inf (without a least delay the formula would take it to 0, where every step is overhead), and so does one whose noise
        is too large.
        """
        out_NG = self.arrivals.survival(tau_G, self._most_load)
        open_G = 1.0 - np.prod(1.0 - out_NG[live_N], axis=0)  # P(somebody is still out)
        # a trapezoid between quantiles; from the last arrival on the curve is level
        steps_G = np.diff(tau_G, prepend=0.0)
        before_G = np.concatenate([[1.0], open_G[:-1]])
        level_G = tau_G > self.arrivals.arrived(self._most_load)[-1]
        seconds_G = np.cumsum(steps_G * np.where(level_G, before_G, (before_G + open_G) / 2))
        p_NG = self.chances.p_by_deadline(tau_G, self._most_load)[live_N]
        p_wait_N = self._waiting_N(self.max_wait)[live_N]
        p_NG[:, tau_G >= self.max_wait] = p_wait_N[:, None]
        noise_G = disagreement * self._noise_G(p_NG, omega_N[live_N], noise)
        noise_wait = disagreement * float(self._noise_G(p_wait_N[:, None], omega_N[live_N], noise)[0])
        allowed_G = (np.sum(1 - p_NG, axis=0) >= 1) & (noise_G - noise_wait <= self._noise_most)
        return np.where(allowed_G | (tau_G >= self.max_wait), seconds_G * (1 + noise_G), math.inf)

    def _noise_G(self, p_NG: F64, omega_N: F64, noise: Noise | None) -> F64:
        """The least noise of a plan at each column's p, for partitions that agree; at most `_HUGE`."""
        with np.errstate(divide="ignore"):
            cost_NG = (p_NG + omega_N[:, None]) / (1 - p_NG)  # coding.row_costs, which this room cannot import
        return np.minimum([(noise or self._noise)(cost_N) for cost_N in cost_NG.T], _HUGE)

    def _deadline_now(self) -> float:
        explores = self._steps % _EXPLORE_EVERY == _EXPLORE_EVERY - 1
        return min(2 * self._deadline, self.max_wait) if explores else self._deadline


def make_stop_rule(
    workers: int,
    *,
    deadline: float | Literal["auto", "wait"],
    max_wait: float,
    warmup_steps: int,
    p: Source,
    prior_p: float,
    prior_weight: float,
    window: int,
    noise_most: float,
    delays: DelayModel | None = None,
    noise: Noise | None = None,
) -> ArrivalRule:
    """The stop rule of these settings, the keys of the config's straggler section, which checks them.

    ``delays``: for ``p = "model"``; ``noise``: the least noise of a plan, where loads are bounded.
    """
    arrivals = Arrivals(workers, window, prior_p, prior_weight)
    if deadline == "wait":
        return WaitForAll(arrivals, max_wait)
    if deadline == "auto":
        assert isinstance(p, str)  # the settings take a list with a deadline in seconds only
        return AutoDeadline(arrivals, max_wait, warmup_steps, p, delays, noise_most, noise)
    return FixedDeadline(deadline, arrivals, max_wait, warmup_steps, p, delays)
