"""From who is here and how they arrive to the next plan: the master's use of the planning room."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from scipy.sparse import csr_array

from gcdist.coding.auto import Auto
from gcdist.coding.base import BaseCode
from gcdist.coding.held_loads import Held, readable
from gcdist.coding.partial_memory import PartialMemory
from gcdist.coding.structured import Structured
from gcdist.exchange.shift import segments_of
from gcdist.exchange.sidecar import Sidecar
from gcdist.master.change_estimates import ChangeEstimates
from gcdist.memory import size_text
from gcdist.model.vector_format import Shape
from gcdist.planning import PlanReport, cap_for, describe, plan_within_load
from gcdist.planning.bits_choice import choose_bits
from gcdist.planning.cut_choice import CutChoice, choose_cut
from gcdist.planning.load_cap import LoadedPlan
from gcdist.planning.objective import Prospect
from gcdist.planning.probes import with_probes
from gcdist.straggler import ArrivalRule, WorkLaws
from gcdist.straggler.cuts import SURE
from gcdist.types import F64, I64, U8, GradientCode, Mask, Plan, Problem, Quantizer

P_FLOOR = 0.05  # plans treat a measured p below 0.05 as 0.05: an even plan loses almost nothing, and loads stay even
NEARLY = 1.1  # partitions whose sizes differ by less than this factor count as equal
Holds: TypeAlias = Mapping[int, Sequence[int]]  # partitions of each worker that cannot read all of them
ALL: Holds = {}
FORGET = 0.98  # factor, for each step, of the older errors in the calibration of the noise law
SORTED = 2.0  # rows differ so many times more than partitions within them say: the data is sorted
SMALL = 0.25  # an estimate of |g|^2 below a quarter of the usual one is raised to it
REMEMBER = 1.1  # a memory of partitions must promise 10% less time to begin ...
PLAIN = 1.03  # ... and to go on, that rows without it are at most 3% faster
FORGET_SPREAD = 0.9  # the same factor for S^2/|g|^2, which changes fast while a run is young


@dataclass(slots=True)
class PlanIds:
    """The numbers of a run's plans; ``next`` is the one that comes next."""

    next: int = 0

    def __iter__(self) -> PlanIds:
        return self

    def __next__(self) -> int:
        self.next += 1
        return self.next - 1


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """What was chosen: a deadline (inf: wait for all), loads and bits, and what is expected of it."""

    deadline: float
    load_N: I64
    bits: int
    prospect: Prospect
    waiting: Prospect  # of waiting for all, with the loads and bits that are best for it
    remember_N: Mask | None = None  # who sends differences to a memory of each partition; None: nobody
    plain: Prospect | None = None  # where somebody does: of the best choice without it

    def same_as(self, other: Choice) -> bool:
        """Whether nothing would change."""
        mine, others = self.remembering, other.remembering
        same = (self.deadline, self.bits, mine) == (other.deadline, other.bits, others)
        return same and np.array_equal(self.load_N, other.load_N)

    @property
    def remembering(self) -> tuple[int, ...]:
        """Numbers of the workers that remember partitions."""
        return () if self.remember_N is None else tuple((np.flatnonzero(self.remember_N) + 1).tolist())

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        expected = [[each.seconds, each.stragglers, each.rounding] for each in (self.prospect, self.waiting)]
        told = {"deadline": self.deadline, "load": self.load_N.tolist(), "bits": self.bits, "expected": expected}
        return {**told, "remembering": list(self.remembering)}

    @staticmethod
    def of(state: Mapping[str, Any]) -> Choice:
        """What `state_dict` gave."""
        prospect, waiting = (Prospect(*each) for each in state["expected"])
        load_N, remembering = np.array(state["load"], np.int64), state.get("remembering")
        remember_N = np.isin(np.arange(len(load_N)) + 1, remembering) if remembering else None
        return Choice(state["deadline"], load_N, state["bits"], prospect, waiting, remember_N=remember_N)

    def line(self, before: Choice | None) -> str:
        """What it is, beside what was, for the log."""
        mine, least, most = self._what, int(self.load_N.min()), int(self.load_N.max())
        was = "" if before is None or before._what == mine else f" (was: {before._what})"
        loads = f"{least if least == most else f'{least} to {most}'} partitions a worker"
        gain = self.prospect.gain_over(self.waiting)
        expected = f"{self.prospect.seconds:.3g} s a step and noise {self.prospect.noise:.2g} expected"
        than = f", {gain:.2f} times as fast as waiting for all" if np.isfinite(self.deadline) else ""
        if self.plain is not None:
            than += f" and {self.prospect.gain_over(self.plain):.2f} times as fast as without a memory"
        return f"{mine}{was}, {loads}: {expected}{than}"

    @property
    def _what(self) -> str:
        cut = f"rows are cut after {self.deadline:.3g} s" if np.isfinite(self.deadline) else "wait for all"
        ranks = self.remembering
        if not ranks:
            return f"{cut}, {self.bits} bits"
        who = "all workers" if len(ranks) == len(self.load_N) else f"workers {', '.join(str(rank) for rank in ranks)}"
        return f"{cut}, {self.bits} bits, a memory of each partition at {who}"


class PlanMaker:
    """Makes plans of one code, each with a number of its own.

    Args:
        code: the gradient code.
        quantizer: gives the noise law.
        shape: gives the vector as it is now; every segment of it that is not wide gets its row's bits.
        size_K: (K,) shares of the samples.
        bits: packed bits a coordinate, on average over the workers.
        bits_cap_N: (N,) most packed bits of each worker.
        rule: gives ``p_long_run`` and its intended deadline.
        ids: numbers of plans, shared by all that plan for one run.
        load_most: most partitions of a worker, as a multiple of its even share; inf = none.
        exact_p: p is known, not measured: no floor once the rule promises a deadline.
        noise_most: noise of stragglers that a plan may have before ``load_most`` is relaxed, and above which it is said.
        laws: times of the workers, if rows are cut at the deadline; None: rows are whole.
    """

    _LEARNED = ("error", "expected", "energy", "agreeing", "differing", "signal", "weight", "ratio", "ratios")

    def __init__(
        self,
        code: GradientCode,
        quantizer: Quantizer,
        shape: Callable[[], Shape],
        size_K: F64,
        bits: int,
        bits_cap_N: I64,
        rule: ArrivalRule,
        ids: Iterator[int],
        load_most: float = np.inf,
        exact_p: bool = False,
        noise_most: float = np.inf,
        laws: WorkLaws | None = None,
    ) -> None:
        self.code = code
        self._shape = shape
        # nearly equal partitions count as equal: the last few samples would cut a chain into slivers, each a whole partition
        # to compute; columns sum to 1 all the same
        equal = size_K.max() <= NEARLY * size_K.min()
        self._size_K = np.full(len(size_K), 1 / len(size_K)) if equal else size_K
        self._bits = bits
        self._rule = rule
        self._ids = ids
        self._load_most = load_most
        self._exact_p = exact_p
        self._noise_most = noise_most
        self.laws = laws
        self._bits_cap_N = bits_cap_N
        self._quantizer = quantizer
        self._law = segments_of(quantizer, shape().layout).noise()
        self._load_N: I64 | None = None  # loads that were chosen, for those who were here
        self._remember_N: Mask | None = None  # who was chosen to remember partitions; None: nothing was chosen
        self.changes = ChangeEstimates(len(bits_cap_N))
        self._error = self._expected = 0.0
        self._energy = self._agreeing = 0.0  # sums of |v_i|^2: as estimated, and as if partitions agreed
        self._differing = 0.0  # what a spread of 1 would add to the latter
        self._signal = self._weight = 0.0  # sums over steps of |g|^2, and of 1
        self._ratio = self._ratios = 0.0  # sums over steps of S^2/|g|^2 of one partition, and of 1

    @property
    def shape(self) -> Shape:
        """Of the vector as it is now: a plan for another one is outdated."""
        return self._shape()

    @property
    def noise(self) -> F64:
        """omega (33,) by packed bits: the quantizer's law times what its errors on this run's gradients came to."""
        return self._law * (self._error / self._expected if self._error > 0 and self._expected > 0 else 1.0)

    def state_dict(self) -> dict[str, Any]:
        """The calibration of the noise law and the workers' times, for a checkpoint."""
        learned: dict[str, Any] = {name: getattr(self, f"_{name}") for name in self._LEARNED}
        learned["changes"] = self.changes.state_dict()
        return learned if self.laws is None else {**learned, "laws": self.laws.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what `state_dict` gave; times of another number of workers begin anew."""
        for name in self._LEARNED:
            setattr(self, f"_{name}", state.get(name, 0.0))
        if "changes" in state:
            self.changes.load_state_dict(state["changes"])
        laws = state.get("laws")
        if self.laws is not None and laws is not None and len(laws["rows"]) == self.laws.workers:
            self.laws.load_state_dict(laws)

    @property
    def disagreement(self) -> float:
        """What straggler and quantization noise come to against partitions that agree: ``sum |v_i|^2 k^2/(Y_i^2 |g|^2)``.

        1 if all partitions have the same gradient, up to k (where it is cut) if they are orthogonal; below 1 where
        differences are sent that are smaller than the gradient. 1 before anything is known.
        """
        if self._energy <= 0:
            return 1.0
        most = float(len(self._size_K))
        return most if self._agreeing * most <= self._energy else self._energy / self._agreeing

    @property
    def known_spread(self) -> bool:
        """Whether `spread` was measured."""
        return self._ratios > 0

    @property
    def spread(self) -> float:
        """``S^2/|g|^2`` of one partition (math section 10); before anything is known 1/k, as if all were noise.

        An exponential mean of the steps' own ratios within rows: where the step size is at its edge, |g|^2 swings, and a few
        large ones must not stand for all.
        """
        return self._ratio / self._ratios if self._ratios > 0 else 1.0 / len(self._size_K)

    @property
    def rows_spread(self) -> float:
        """The same by what rows differ by, where that is much more: data that is sorted, and neighbours at one worker."""
        rows = (self._energy - self._agreeing) / self._differing if self._differing > 0 and self._ratios > 0 else 0.0
        return rows if rows > SORTED * self.spread else self.spread

    def calibrate(self, plan: Plan, counted: Sequence[tuple[Sidecar, U8]], signal: float, energy: float) -> None:
        """Take in one step: what its messages' errors came to against the law's, and the rows' energies to the gradient's.

        ``counted``: each message and its bits (S,); ``signal`` and ``energy``: estimates of |g|^2 and of ``sum_i |v_i|^2``.
        """
        for name in self._LEARNED:
            forget = FORGET if name in ("error", "expected", "energy", "agreeing", "differing") else FORGET_SPREAD
            setattr(self, f"_{name}", forget * getattr(self, f"_{name}"))
        self._energy += energy
        squares = float(np.sum((plan.A_RK @ self._size_K) ** 2))
        self._agreeing += signal * squares
        self._differing += signal * (float(np.sum(plan.A_RK.data**2)) - len(self._size_K) * squares)
        spreads = [sidecar.plain_spread for sidecar, _ in counted if len(sidecar.parts_P4) > 1]
        spreads = [spread for spread in spreads if math.isfinite(spread)]
        if spreads:
            self._signal += signal
            self._weight += 1.0
            usual = self._signal / self._weight
            if usual > 0:
                self._ratio += float(np.mean(spreads)) / max(signal, SMALL * usual)
                self._ratios += 1.0
        for sidecar, bits_S in counted:
            omega = float(self._law[bits_S[0]])  # of all segments of a row
            if sidecar.energy > 0 and math.isfinite(omega):
                self._error += sidecar.error / sidecar.energy
                self._expected += omega

    def left(self, plan: Plan) -> tuple[float, float]:
        """What the plan's memory of partitions leaves of both noises of cut rows, on average; 1, 1 without."""
        if plan.beta_R is None or not plan.beta_R.any():
            return 1.0, 1.0
        rank_N = np.arange(len(self._bits_cap_N))
        sending_R = plan.worker_R[plan.weighted_R()]
        return self.changes.sent(np.isin(rank_N, plan.worker_R[plan.beta_R > 0]), np.isin(rank_N, sending_R))

    def omega_N(self, workers: int) -> F64:
        """Quantization noise of a message at the average bits, (N,)."""
        return np.full(workers, self.noise[self._bits])

    def most_load(self, live: int) -> float | None:
        """Partitions that a plan gives one of ``live`` workers, as a rule at most; None: nothing bounds them."""
        cap = cap_for(len(self._size_K), live, self._load_most)
        return cap if np.isfinite(cap) else None

    def choose_cut(
        self, live_N: Mask, holds: Holds, noise_most: float, present: float, between: float
    ) -> CutChoice | None:
        """The deadline for partial rows, and its loads; None: rows are whole, or nothing is known of anybody, or of all
        who can read some partition.
        """
        if self.laws is None or not (live_N & self.laws.known_N).any():
            return None
        held = Held.of(len(live_N), holds, len(self._size_K))
        if held is not None and not held.among(np.flatnonzero(live_N & self.laws.known_N)).all_read():
            return None
        omega_N = self.omega_N(len(live_N))
        given = self.laws, live_N, len(self._size_K), omega_N, self.spread, noise_most, present, between
        return choose_cut(*given, rows_spread=self.rows_spread, held=held)

    def held_noise(self, live_N: Mask, holds: Holds) -> Callable[[F64], float] | None:
        """The least noise of a plan for those who are live, where they cannot all read everything; else None."""
        held = Held.of(len(live_N), holds, len(self._size_K))
        return None if held is None else held.among(np.flatnonzero(live_N)).reached().least_noise

    def choose(
        self, live_N: Mask, holds: Holds, noise_most: float, before: Choice | None, between: float
    ) -> Choice | None:
        """Deadline, loads and bits with the least predicted seconds to a given progress, which plans keep to from now on.

        None: nothing is known of the workers (loads are then even), or they cannot read all partitions together.
        """
        laws, k = self.laws, len(self._size_K)
        each, more = divmod(k, max(1, int(live_N.sum())))
        self._load_N = np.where(live_N, each + (np.cumsum(live_N) <= more), 0).astype(np.int64)
        if laws is None or not (live_N & laws.known_N).any():
            return None
        cap_N = np.array([len(set(holds.get(i, range(k)))) for i in range(len(live_N))], np.float64)
        held = Held.of(len(live_N), holds, k)
        known_N = live_N & laws.known_N
        if cap_N[known_N].sum() < k or (held is not None and not held.among(np.flatnonzero(known_N)).all_read()):
            return None
        bits = self._bits if before is None else before.bits
        omega_N = np.full(len(live_N), self.noise[bits])
        present, load_N = (np.inf, None) if before is None else (before.deadline, before.load_N)
        apart = self.rows_spread
        given = laws, live_N, k, omega_N, self.spread, noise_most, present, between, cap_N, load_N
        cut = choose_cut(*given, rows_spread=apart, held=held)
        plain, remember_N = None, None
        if isinstance(self.code, Auto) and self.code.may_remember:
            now_N = None if before is None else before.remember_N
            changes = self.changes.changes(now_N)
            if (changes.able_N & live_N).any():
                other = choose_cut(*given, changes, apart, held)
                if other.prospect.gain_over(cut.prospect) >= (REMEMBER if now_N is None else 1 / PLAIN):
                    plain, remember_N, cut = cut.prospect, changes.able_N & live_N, other
            self._remember_N = np.zeros(len(live_N), bool) if remember_N is None else remember_N
        if self._chooses_bits:
            link = float(laws.overhead_N()[live_N & laws.known_N].max())
            most = int(self._bits_cap_N[live_N].min())
            bits = choose_bits(cut.prospect, bits, self.noise, link, most, noise_most)
        self._bits, self._load_N = bits, cut.load_N
        return Choice(cut.deadline, cut.load_N, bits, cut.prospect, cut.waiting, remember_N, plain)

    @property
    def _chooses_bits(self) -> bool:
        return 1 <= self._bits <= 8

    def make(self, live_N: Mask, holds: Holds = ALL) -> tuple[Plan, PlanReport]:
        """The plan for the workers that are live, and its figures; what nobody of them holds is left out.

        Raises:
            ValueError: nobody is live, or the code has no solution for them.
        """
        shape = self.shape
        self._law = segments_of(self._quantizer, shape.layout).noise()
        problem = self._problem(live_N, holds)
        found = self._within_load(problem, next(self._ids))
        plan = with_probes(found.plan, live_N, holds)
        plan = replace(plan, trained=shape.trained, partial=self.laws is not None, beta_R=self._beta_R(plan))
        return plan, describe(plan, problem, {**found.notices, **self._memory_notice(plan), **self._lacking(live_N)})

    def _within_load(self, problem: Problem, plan_id: int) -> LoadedPlan:
        """The code's plan; one with the allocation "chain" where its own has none for those who are here."""
        given, late_at = (problem, plan_id, self._load_most, self._noise_most), self._late_at
        try:
            return plan_within_load(self.code, *given, late_at=late_at)
        except ValueError as error:
            if not isinstance(self.code, Structured) or self.code.chooses_loads:
                raise
            found = plan_within_load(replace(self.code, allocation="chain"), *given, late_at=late_at)
            line = f'the allocation "{self.code.allocation}" has no plan for these workers, "chain" has: {error}'
            return replace(found, notices={**found.notices, "allocation": line})

    def _lacking(self, live_N: Mask) -> dict[str, str]:
        """What the code goes without, as workers are missing."""
        line = self.code.lacking(int(live_N.sum())) if isinstance(self.code, BaseCode) else None
        return {} if line is None or live_N.all() else {"redundancy": line}

    def _beta_R(self, plan: Plan) -> F64 | None:
        """beta of the rows of who was chosen to remember partitions, ``1/(1+omega)``; of the others 0."""
        if self._remember_N is None:
            return None
        remembers_R = self._remember_N[plan.worker_R] & plan.weighted_R()
        omega_R = self.noise[plan.bits_RS].max(axis=1, initial=0.0)
        return np.where(remembers_R, 1 / (1 + np.where(remembers_R, omega_R, 0.0)), 0.0)

    def _memory_notice(self, plan: Plan) -> dict[str, str]:
        """What a code that remembers gradients of partitions asks of the workers."""
        if not isinstance(self.code, PartialMemory):
            return {}
        load, each = int(np.diff(plan.A_RK.indptr).max(initial=0)), 4 * self.shape.layout.d
        text = f"a worker remembers a gradient of each of its partitions: {size_text(load * each)} for {load}"
        return {"memory": f"{text}, {size_text(each)} each"}

    def try_all(self, holds: Holds = ALL) -> None:
        """ValueError if there is no plan even with everybody here."""
        workers = len(self._bits_cap_N)
        plan_within_load(self.code, self._problem(np.ones(workers, bool), holds), -1, self._load_most)

    @property
    def _late_at(self) -> Callable[[float], F64] | None:
        """p of whole rows of so many partitions; None: what the problem says holds at any load."""
        rule = self._rule
        if self.laws is not None or not rule.chances.measured or rule.warming or rule.waits:
            return None
        return lambda load: np.maximum(rule.arrivals.p_long_run_N(rule.deadline, load), P_FLOOR)

    def _problem(self, live_N: Mask, holds: Holds) -> Problem:
        deadline, rule = self._rule.deadline, self._rule
        floor = 0.0 if self._exact_p and not (rule.warming or rule.waits) else P_FLOOR

        def late(worker: int, load_m: F64) -> F64:
            return (
                np.maximum(rule.p_long_run(worker, load_m, deadline), floor) if live_N[worker] else np.ones(len(load_m))
            )

        excess, laws = None, self.laws
        if laws is not None and not (rule.warming or rule.waits) and laws.known_N[live_N].all():
            cut_N = np.maximum(0.0, deadline - laws.overhead_N(SURE))

            def excess(worker: int, load_L: F64) -> F64:
                excess_GL: F64 = laws.outcomes(worker, load_L.astype(np.int64), cut_N[worker : worker + 1])[1]
                return np.asarray(excess_GL[0])

        return Problem(
            size_K=self._size_K,
            late=late,
            noise=self.noise,
            bits_total=float(self._bits * int(live_N.sum())),
            bits_cap_N=self._bits_cap_N,
            load_cap_N=np.full(len(live_N), np.inf),
            holds_NK=_holders(live_N, holds, len(self._size_K)),
            excess=excess,
            spread=self.spread,
            rows_spread=self.rows_spread,
            load_N=self._load_N if self._load_N is not None and not np.any(self._load_N[~live_N]) else None,
        )


def _holders(live_N: Mask, holds: Holds, k: int) -> csr_array | None:
    """Who of the live workers can read what, (N, K); None if they all can read everything."""
    held_NK = readable(len(live_N), holds, k) & live_N[:, None]
    return None if held_NK[live_N].all() else csr_array(held_NK.astype(np.float64))
