"""Arrival statistics: each worker's chance to miss a deadline, from its censored past (math sections 5 and 8).

Two estimates, for two uses. `Arrivals.p_long_run_N` is for plans: the share of steps that a worker misses, ready or busy.
`Arrivals.p_given_ready` is for weights: the chance to miss the step that opens now, given the worker's load and whether it
is ready or still busy with an older step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

from gcdist.types import F64, Mask, Seen

_ROUNDING = 1e-9  # seconds: rounding may make a step this much shorter than its deadline
EXPONENTS = (0.0, 0.5, 1.0)  # seconds grow as load**exponent: not at all, half, in proportion
_OTHERS = 1.0  # weight, in outcomes, of the other workers' law at times for which this worker was never waited for
# weight, in outcomes, of the other workers' share of misses in plans; with less, a lucky worker gets a large share
_OTHERS_IN_PLANS = 5.0
_LUCK = 0.5  # arrivals that plans subtract: the largest shares go to workers whose past was lucky
# misses that a worker has at least: 0 would make it certain, 1/2 keeps its weight 3% too large for long
_LEAST = 0.25
_EXPONENT_PRIOR = (0.1, 0.2, 0.7)  # before the first outcome: seconds are probably proportional to the load
_PERSISTENCE_PRIOR = 1.0  # weight, in arrivals of busy workers, of the assumption that busy workers arrive as expected
_PERSISTENCE_SHRINK = 4.0  # weight, in arrivals, of the other busy workers in one worker's own persistence
_LASTING_PRIOR = 1.0  # weight, in misses, of the assumption that a miss leaves a worker busy
_LASTING_SHRINK = 4.0  # weight, in misses, of all workers in the share of one worker's misses that left it busy
_TELLING = 4.0  # outcomes from which a chance was estimated, before it tells anything of persistence
_CALIBRATION = 4.0  # weight, in arrivals, of the assumption that chances were foretold rightly on average
_IMPLAUSIBLE = 0.05  # plans ignore an exponent below this probability
_QUANTILES = (0.2, 0.4, 0.6, 0.8)  # edges of the bins of a worker's times in which exponents are compared
_WITNESSES = 64  # workers whose outcomes decide between exponents
_SCORE_FORGET = 0.999  # factor, for each outcome, of the older evidence for an exponent
_BINS = 12  # bins of the other workers' law at times for which this worker was never waited for
_PLAUSIBLE = 0.02  # least distance of a chance from 0 and 1 where models are compared: no single outcome decides

_Array: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[Any]]


class Arrivals:
    """The last ``window`` outcomes of each worker, and estimates of missing a deadline from them.

    **Long run.** Kaplan and Meier's (1958) on a worker's m outcomes plus pseudo-outcomes: one that arrives at time zero, and
    ``w = v^3/(v + m)^2`` with ``v = prior_weight`` that follow the share of misses of all workers (``prior_p`` while nothing
    is known). With A arrivals in m uncensored outcomes

        1/(1-p) = (m + 1 + w) / (A + 1 - u + w (1-prior)),    u = A/(A + 1) (m - A)/(m - A + 1) / 2,

    as w vanishes the weight from counts of math section 5, for which ``E[1/(1-p)] q = 1 - (1-q)^(m+1)`` at the true
    chance q to arrive, with up to half an arrival less: plans give the largest shares to workers whom luck favoured. Beyond
    the times that a worker was waited for, few of its outcomes tell anything; there one more outcome follows the hazard of
    all workers (Hjort's 1990 beta process with weight 1). p is at least a quarter of a miss in the outcomes seen and at most
    1 - 1/(m+1): never 0 or 1, and no weight is above the outcomes seen plus one. For plans, 8 pseudo-outcomes follow all
    workers.

    **Load.** An outcome of another load stands for ``seconds (load/then)^e``. The exponents e of `EXPONENTS` are weighed by
    how well each foretold the outcomes of all workers.

    **Given readiness.** A busy worker missed the step before, and a share f of misses leaves a worker busy: all where a late
    one goes on with its work, hardly any where it is free once its row is cut. A busy worker arrives with ``k q``, where
    k = 1 if misses are independent; then a ready one arrives with ``q (1 - k f p)/(1 - f p)``, as q is that of the long run
    (``1 - k p`` for f = 1). k is the arrivals of busy workers over those foretold with k = 1, shrunk to that of all workers,
    and weighed against k = 1 by how well either foretold the outcomes.
    """

    def __init__(self, workers: int, window: int, prior_p: float, prior_weight: float) -> None:
        self.workers = workers
        self.window = window
        self.prior_p = prior_p
        self.prior_weight = prior_weight
        self.forget()

    def forget(self) -> None:
        """Start without outcomes again."""
        workers, window = self.workers, self.window
        self._seconds_NW = np.full((workers, window), math.inf)
        self._in_NW = np.zeros((workers, window), bool)  # arrived; else censored or an empty slot
        self._out_NW = np.zeros((workers, window), bool)  # censored
        self._ready_NW = np.zeros((workers, window), bool)
        self._load_NW = np.ones((workers, window))
        self._kept_NW = np.zeros((workers, window), bool)  # arrived before its step closed
        # chance to arrive as foretold when the step opened, were misses independent; NaN: nothing was
        self._expected_NW = np.full((workers, window), math.nan)
        self._score_E = np.zeros(len(EXPONENTS))  # log-likelihood
        self._open_bins: tuple[F64, F64] | None = None  # of the step that is open
        self._open_N: F64 | None = None
        self._key_NW: list[list[tuple[int, int] | None]] = [[None] * window for _ in range(workers)]
        self._slot: list[dict[tuple[int, int], int]] = [{} for _ in range(workers)]  # (row, step) -> slot
        self._next = [0] * workers
        self._count = 0  # of outcomes taken in
        self._long_run: tuple[tuple[float, float, int], F64] | None = None

    def forget_worker(self, worker: int) -> None:
        """Start without outcomes of one worker again."""
        self._in_NW[worker] = self._out_NW[worker] = self._ready_NW[worker] = self._kept_NW[worker] = False
        self._seconds_NW[worker], self._load_NW[worker], self._expected_NW[worker] = math.inf, 1.0, math.nan
        self._key_NW[worker] = [None] * self.window
        self._slot[worker] = {}
        self._long_run = None

    def forget_before(self, step: int) -> None:
        """Forget the outcomes of older steps."""
        for i, keys in enumerate(self._key_NW):
            old = [slot for slot, key in enumerate(keys) if key is not None and key[1] < step]
            self._slot[i] = {key: slot for key, slot in self._slot[i].items() if key[1] >= step}
            for slot in old:
                keys[slot] = None
            self._in_NW[i, old] = self._out_NW[i, old] = self._ready_NW[i, old] = self._kept_NW[i, old] = False
            self._seconds_NW[i, old], self._load_NW[i, old], self._expected_NW[i, old] = math.inf, 1.0, math.nan
        self._long_run = None

    def state_dict(self) -> dict[str, Any]:
        """Copies of the remembered outcomes, for a checkpoint. ``key`` (N, window, 2) is (row, step), -1 where none is."""
        key = [[(-1, -1) if each is None else each for each in keys] for keys in self._key_NW]
        return {
            "seconds": self._seconds_NW.copy(),
            "in": self._in_NW.copy(),
            "out": self._out_NW.copy(),
            "ready": self._ready_NW.copy(),
            "load": self._load_NW.copy(),
            "kept": self._kept_NW.copy(),
            "expected": self._expected_NW.copy(),
            "score": self._score_E.copy(),
            "key": np.array(key, np.int64).reshape(self.workers, self.window, 2),
            "next": list(self._next),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what `state_dict` gave; ValueError if it is of other workers, another window or an older gcdist."""
        found = state["key"].shape[:2]
        if found != (self.workers, self.window):
            raise ValueError(f"arrivals of {found[0]} workers and a window of {found[1]}")
        if "expected" not in state:
            raise ValueError("arrivals without their loads, as an older gcdist wrote them")
        self._seconds_NW[:], self._in_NW[:] = state["seconds"], state["in"]
        self._out_NW[:], self._ready_NW[:] = state["out"], state["ready"]
        self._load_NW[:], self._kept_NW[:] = state["load"], state["kept"]
        self._expected_NW[:], self._score_E[:] = state["expected"], state["score"]
        for i, keys in enumerate(state["key"].tolist()):
            self._key_NW[i] = [None if row < 0 else (row, step) for row, step in keys]
            self._slot[i] = {key: slot for slot, key in enumerate(self._key_NW[i]) if key is not None}
        self._next = list(state["next"])
        self._long_run = None  # of what was held before

    def observe(self, seen: Seen) -> None:
        """Take in one outcome; O(1). Cold rounds are left out; an outcome of a (row, step) seen before replaces it."""
        if seen.cold:
            return
        self._count += 1
        i, key = seen.worker, (seen.row, seen.step)
        slot = self._slot[i].get(key)
        if slot is None:
            slot = self._next[i]
            self._next[i] = (slot + 1) % self.window
            old = self._key_NW[i][slot]
            if old is not None:
                del self._slot[i][old]
            self._key_NW[i][slot] = key
            self._slot[i][key] = slot
            self._kept_NW[i, slot] = not seen.censored
            self._expected_NW[i, slot] = math.nan if self._open_N is None else self._open_N[i]
            self._score(seen)
        self._seconds_NW[i, slot] = seen.seconds
        self._in_NW[i, slot] = not seen.censored
        self._out_NW[i, slot] = seen.censored
        self._ready_NW[i, slot] = seen.ready
        self._load_NW[i, slot] = max(seen.load, 1.0)

    def p_given_ready(self, deadline: float, load_N: F64, ready_N: Mask) -> F64:
        """P(not in by ``deadline`` | readiness at the opening), (N,), at these loads; for the weights of the next step."""
        self._open_bins = self._foretell(deadline, load_N)
        p_N, m_N = self._estimate(deadline, self._at(load_N))
        # the plain share of arrivals, without the pseudo-arrival: what persistence is measured against
        q_N = np.clip(1 - p_N - p_N / np.maximum(m_N, 1.0), 0.0, 1.0)
        self._open_N = np.where(m_N >= _TELLING, q_N, math.nan)
        p_N = self.p_if_ready(p_N, ready_N)
        least_N = np.where(m_N > 0, _LEAST / (m_N + 1), 0.0)
        return np.clip(p_N, least_N, 1 - 1 / (2 * self.window))

    def p_if_ready(self, p_N: F64, ready_N: Mask) -> F64:
        """P(not in | readiness), (N,), where ``p_N`` is that of the long run, from whatever source."""
        k_N = self._persistence()
        return 1 - np.where(ready_N, _of_ready(1 - p_N, k_N, self._lasting()), k_N * (1 - p_N))

    def p_of_busy(self, p_N: F64, busy_N: Mask) -> F64:
        """P(a busy worker is not in), (N,), where ``p_N`` is known of the long run; for the weights of the next step.

        It is right for those of ``busy_N`` alone.
        """
        self._open_bins, self._open_N = None, 1 - p_N
        if not busy_N.any():
            return p_N
        return 1 - self._persistence() * (1 - p_N)

    def promise_nothing(self) -> None:
        """The step that opens now waits for all: its outcomes do not test the estimates."""
        self._open_bins = self._open_N = None

    def p_long_run_N(self, deadline: float, load: float | None = None) -> F64:
        """P(not in by ``deadline``) in the long run, ready or busy, (N,); for plans. ``load``: None is the `usual_load`.

        Seconds are taken to grow with the load as fast as is plausible: a plan must not hand out loads that nobody finishes.
        """
        load = self.usual_load if load is None else load
        key = (deadline, load, self._count)
        if self._long_run is None or self._long_run[0] != key:
            self._long_run = key, self._estimate(deadline, self._for_plans(load), _OTHERS_IN_PLANS)[0]
        return self._long_run[1]

    def p_waited_N(self, wait: float) -> F64:
        """P(not in by ``wait``), (N,), of a step that waits for all: for plans and weights alike."""
        return self._estimate(wait, self._at(np.full(self.workers, self.usual_load)))[0]

    @property
    def usual_load(self) -> float:
        """The median of the remembered loads, in partitions; 1 before the first outcome."""
        held = self._in_NW | self._out_NW
        return float(np.median(self._load_NW[held])) if held.any() else 1.0

    def count_N(self) -> F64:
        """Number of remembered outcomes of each worker, (N,)."""
        counts: F64 = (self._in_NW | self._out_NW).sum(axis=1, dtype=np.float64)
        return counts

    def arrived(self, load: float | None = None) -> F64:
        """Seconds of all held arrivals of all workers, at that load (None: the `usual_load`), ascending."""
        return np.sort(self._for_plans(self.usual_load if load is None else load)[self._in_NW])

    def longest(self) -> float:
        """Seconds of the longest remembered arrival, at its own load."""
        return float(self._seconds_NW[self._in_NW].max())

    def missed_N(self, deadline: float) -> Mask:
        """Workers with an outcome that is known to have missed ``deadline``, (N,)."""
        censored_NW = self._out_NW & (self._seconds_NW >= deadline * (1 - _ROUNDING))
        missed: Mask = np.any(censored_NW | (self._in_NW & (self._seconds_NW > deadline)), axis=1)
        return missed

    def survival(self, times_G: F64, load: float | None = None) -> F64:
        """Plain Kaplan-Meier, without pseudo-outcomes and bounds: P(not in by each time) in the long run, (N, G).

        At that load (None: the `usual_load`). It is 0 from a last outcome that arrived, and level beyond one that was
        censored. A worker without outcomes has ``prior_p`` throughout.
        """
        held = self._in_NW | self._out_NW
        seconds_NW = self._for_plans(self.usual_load if load is None else load)
        order, events, at_risk = _ordered(seconds_NW, self._in_NW, held)
        factor = _factor(events, at_risk)
        curve_NW = np.concatenate([np.ones((self.workers, 1)), np.cumprod(factor, axis=1)], axis=1)
        times_NW = np.take_along_axis(np.where(held, seconds_NW, math.inf), order, axis=1)
        result = np.empty((self.workers, len(times_G)))
        for i in range(self.workers):
            result[i] = curve_NW[i, np.searchsorted(times_NW[i], times_G, side="right")]
        return np.where(held.any(axis=1, keepdims=True), result, self.prior_p)

    # --- the long run ---

    def _estimate(self, deadline: float, seconds_NW: F64, others: float | None = None) -> tuple[F64, F64]:
        """Kaplan-Meier with the pseudo-outcomes on these times, (N,), and the number of outcomes, (N,).

        ``others``: pseudo-outcomes that follow the prior, in place of those that fade.
        """
        arrived, censored = self._in_NW, self._out_NW
        m = (arrived | censored).sum(axis=1).astype(np.float64)
        w = self.prior_weight**3 / (self.prior_weight + m) ** 2 if others is None else np.full(self.workers, others)
        inside = arrived & (seconds_NW <= deadline)
        missed = m - inside.sum(axis=1)
        prior = float((missed.sum() + self.prior_weight * self.prior_p) / (m.sum() + self.prior_weight))
        inside_N = m - missed
        luck = _LUCK * inside_N / (inside_N + 1) * missed / (missed + 1) if others is None else 0.0
        p = (missed + w * prior + luck) / (m + 1 + w)
        # censored before the deadline (an early closing, a longer deadline now): their fate up to it is open
        open_NW = censored & (seconds_NW < deadline * (1 - _ROUNDING))
        open_N: Mask = np.asarray(open_NW.any(axis=1))
        if open_N.any():
            seconds = seconds_NW[open_N]
            since = np.where(open_NW[open_N], seconds, math.inf).min(axis=1)
            held = arrived[open_N] | censored[open_N]
            never = (w * prior)[open_N]
            order, events, at_risk = _ordered(seconds, inside[open_N], held)
            beyond = np.take_along_axis(seconds, order, axis=1) > since[:, None]
            factor = _factor(events, at_risk + never[:, None] + _OTHERS * beyond)
            luck_N = np.broadcast_to(luck, m.shape)
            start = (m + w * prior + luck_N)[open_N] / (m + 1 + w)[open_N]
            p[open_N] = start * factor.prod(axis=1) * self._others(deadline, seconds_NW, open_N, since)
        p = np.clip(p, _LEAST / (m + 1), m / (m + 1))
        return np.where(m > 0, p, prior), m

    def _others(self, deadline: float, seconds_NW: F64, open_N: Mask, since: F64) -> F64:
        """Factor of the survival from ``since`` to ``deadline`` for the outcome that follows the hazard of all workers.

        Nobody having been seen there counts as one outcome of which half arrives in each doubling of the time.
        """
        first = float(since.min())
        if first <= 0:
            return np.ones(len(since))
        edges = np.geomspace(first, deadline, _BINS + 1)
        edges[-1] = deadline
        held_NW = self._in_NW | self._out_NW
        # the number of outcomes at or below each edge, of each worker: all held, and arrivals alone
        bins_NW = np.searchsorted(edges, np.where(held_NW, seconds_NW, 0.0), side="left")  # 0: at most the first edge
        rows = np.arange(self.workers)[:, None] * (_BINS + 2) + bins_NW
        shape = self.workers, _BINS + 2
        in_NB = np.bincount(rows[self._in_NW], minlength=shape[0] * shape[1]).reshape(shape)
        out_NB = np.bincount(rows[self._out_NW], minlength=shape[0] * shape[1]).reshape(shape)
        all_NB = in_NB + out_NB
        risk_NB = (
            all_NB.sum(axis=1, keepdims=True) - np.cumsum(all_NB, axis=1)[:, :-1]
        )  # above the lower edge of bin 1..
        risk_NB, in_NB, out_NB = risk_NB[:, :_BINS], in_NB[:, 1 : _BINS + 1], out_NB[:, 1 : _BINS + 1]
        through_B = risk_NB.sum(axis=0) - 0.5 * out_NB.sum(axis=0)
        hazard_B = (in_NB.sum(axis=0) + np.log(edges[1:] / edges[:-1])) / (through_B + 1)
        beyond = edges[1:] > since[:, None]
        return np.asarray(
            np.exp(-np.sum(beyond * _OTHERS * np.minimum(hazard_B, 1.0) / (risk_NB[open_N] + _OTHERS), axis=1))
        )

    # --- load ---

    def _at(self, load_N: F64) -> F64:
        """The remembered seconds, scaled to these loads, (N, W)."""
        ratio_NW = np.maximum(load_N, 1.0)[:, None] / self._load_NW
        return self._seconds_NW * ratio_NW ** float(self._exponents() @ EXPONENTS)

    def _for_plans(self, load: float) -> F64:
        """Seconds at that load, (N, W), by the largest exponent that is plausible."""
        exponent = max(e for e, chance in zip(EXPONENTS, self._exponents(), strict=True) if chance >= _IMPLAUSIBLE)
        return np.asarray(self._seconds_NW * (max(load, 1.0) / self._load_NW) ** exponent)

    def _foretell(self, deadline: float, load_N: F64) -> tuple[F64, F64] | None:
        """What each exponent says of the next outcomes: bounds of times (N, B-1), chances of the B bins between (N, E, B).

        Bounds are quantiles of a worker's own times, the last is the deadline. None if no outcome held had another load: all
        exponents say the same.
        """
        few = slice(0, _WITNESSES)
        held_NW = (self._in_NW | self._out_NW)[few]
        ratio_NW = np.maximum(load_N[few], 1.0)[:, None] / self._load_NW[few]
        if np.all(ratio_NW[held_NW] == 1.0):
            return None
        seconds_NW, in_NW = self._seconds_NW[few], self._in_NW[few]
        now_NW = np.where(in_NW, seconds_NW * ratio_NW ** float(self._exponents() @ EXPONENTS), math.nan)
        bound_NB = np.full((len(now_NW), len(_QUANTILES) + 1), deadline)
        some_N = in_NW.any(axis=1)
        bound_NB[some_N, :-1] = np.minimum(np.nanquantile(now_NW[some_N], _QUANTILES, axis=1).T, deadline)
        chance_NEB = np.empty((len(now_NW), len(EXPONENTS), len(_QUANTILES) + 2))
        for j, e in enumerate(EXPONENTS):
            scaled_NW = seconds_NW * ratio_NW**e
            known_NW = held_NW & (in_NW | (scaled_NW >= deadline * (1 - _ROUNDING)))
            below_NB = (known_NW & in_NW)[:, None, :] & (scaled_NW[:, None, :] <= bound_NB[:, :, None])
            count_NB = np.diff(below_NB.sum(axis=2), prepend=0, axis=1)
            count_NB = np.concatenate([count_NB, (known_NW.sum(axis=1) - below_NB[:, -1].sum(axis=1))[:, None]], axis=1)
            chance_NEB[:, j] = (count_NB + 1 / count_NB.shape[1]) / (known_NW.sum(axis=1, keepdims=True) + 1)
        return bound_NB, chance_NEB

    def _score(self, seen: Seen) -> None:
        """Update the evidence for each exponent by an outcome of the open step."""
        if self._open_bins is None or seen.worker >= _WITNESSES:
            return
        bound_B, chance_EB = self._open_bins[0][seen.worker], self._open_bins[1][seen.worker]
        if seen.censored and seen.seconds < bound_B[-1] * (1 - _ROUNDING):
            return
        b = len(bound_B) if seen.censored else int(np.searchsorted(bound_B, seen.seconds))
        self._score_E = _SCORE_FORGET * self._score_E + np.log(chance_EB[:, b])

    def _exponents(self) -> F64:
        """Probability of each exponent, (E,), by how well it predicted the outcomes."""
        weight_E = np.asarray(_EXPONENT_PRIOR) * np.exp(self._score_E - self._score_E.max())
        return np.asarray(weight_E / weight_E.sum())

    # --- persistence ---

    def _persistence(self) -> F64:
        """k of each worker, (N,)."""
        told = ~np.isnan(self._expected_NW) & (self._in_NW | self._out_NW)
        busy = told & ~self._ready_NW
        # what was foretold too high or too low for everybody is no sign of persistence
        expected, arrived = float(self._expected_NW[told].sum()), float(self._kept_NW[told].sum())
        right = (arrived + _CALIBRATION) / (expected + _CALIBRATION)
        foretold_NW = np.minimum(right * self._expected_NW, 1.0)
        expected_NW = np.where(busy, foretold_NW, 0.0)
        expected_N, arrived_N = expected_NW.sum(axis=1), (busy & self._kept_NW).sum(axis=1)
        k_all = float((arrived_N.sum() + _PERSISTENCE_PRIOR) / (expected_N.sum() + _PERSISTENCE_PRIOR))
        k_N = (arrived_N + _PERSISTENCE_SHRINK * k_all) / (expected_N + _PERSISTENCE_SHRINK)
        k_N = np.minimum(k_N, 1.0)
        # evidence: log-likelihood of all outcomes against k = 1, less what one parameter gains by chance
        q_NW = np.clip(np.where(told, foretold_NW, 0.5), _PLAUSIBLE, 1 - _PLAUSIBLE)
        k = k_N[:, None]
        ready_NW = _of_ready(q_NW, k, self._lasting()[:, None])
        with_NW = np.clip(np.where(self._ready_NW, ready_NW, k * q_NW), 1e-3, 1 - 1e-3)
        gain_NW = np.where(self._kept_NW, np.log(with_NW / q_NW), np.log((1 - with_NW) / (1 - q_NW)))
        gain = float(gain_NW[told].sum()) - 0.5 * math.log(1 + float(busy.sum()))
        trust = 1 / (1 + math.exp(-min(max(gain, -30.0), 30.0)))
        return np.asarray(trust * k_N + (1 - trust))

    def _lasting(self) -> F64:
        """f of each worker, (N,): the share of misses that left it busy."""
        held_NW = self._in_NW | self._out_NW
        missed_N = (held_NW & ~self._kept_NW).sum(axis=1)
        busy_N = np.minimum((held_NW & ~self._ready_NW).sum(axis=1), missed_N)
        f_all = float((busy_N.sum() + _LASTING_PRIOR) / (missed_N.sum() + _LASTING_PRIOR))
        return np.asarray((busy_N + _LASTING_SHRINK * f_all) / (missed_N + _LASTING_SHRINK))


def _of_ready(q: F64, k: F64, f: F64) -> F64:
    """A ready worker's chance to arrive, where q is that of the long run and busy ones arrive with ``k q``."""
    busy = f * (1 - q)
    return np.asarray(np.minimum(q * (1 - k * busy) / (1 - busy), 1.0))


def _ordered(seconds: F64, inside: Mask, held: Mask) -> tuple[_Array, Mask, F64]:
    """Order of the slots in time, which of them are arrivals, and how many are at risk at each.

    Arrivals come before censorings of the same time.
    """
    order = np.lexsort((~inside, np.where(held, seconds, math.inf)), axis=1)
    events: Mask = np.take_along_axis(inside, order, axis=1)
    at_risk: F64 = held.sum(axis=1, keepdims=True) - np.arange(seconds.shape[1], dtype=np.float64)
    return order, events, at_risk


def _factor(events: Mask, at_risk: F64) -> F64:
    """Kaplan and Meier's ``1 - 1/at risk`` of each arrival, 1 elsewhere."""
    factor: F64 = np.where(events, 1 - 1 / np.where(events, at_risk, 1.0), 1.0)
    return factor
