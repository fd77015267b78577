"""The automatic deadline of partial rows, and the loads that go with it (math sections 8 and 10)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gcdist.coding.cut_loads import cheapest_loads, cut_costs
from gcdist.planning.changes import Changes
from gcdist.planning.objective import Prospect
from gcdist.straggler import WorkLaws
from gcdist.straggler.cuts import SURE
from gcdist.types import F64, I64, Mask

GRID = 32  # candidate deadlines
_LIKELY = 0.98  # candidates end at this quantile of a worker's times at an even share
_KEEP = 1.03  # present deadline and loads stay while their cost is at most 1.03 times the best
LOADS_STAY = 1.15  # where partitions are remembered, loads stay while they cost at most 15% more: a moved one is new
_SEEN = 8  # at most 8 rows of all workers stand in for a worker's own rows in its least p
_LEAVE, _STAY = 1.15, 1.05  # least gains over waiting for all to cut rows, and to go on with it ...
# ... with the user's batch, and with one as small as what is done by some cut (`_Rows.lateness`)
_BALANCED = (0.5, 0.9)  # quantiles of workers' times that loads are balanced by where all are waited for
_TIMES = 24  # points of the integral over a step's time


@dataclass(frozen=True, slots=True, eq=False)
class CutChoice:
    """A deadline with its loads, and the prospects of this deadline, of the one before, and of waiting for all."""

    deadline: float  # seconds; inf: wait for all
    load_N: I64
    prospect: Prospect
    present: Prospect
    waiting: Prospect

    @property
    def gain(self) -> float:
        """How many times less wall clock to the same progress than with the deadline before."""
        return self.prospect.gain_over(self.present)


def choose_cut(
    laws: WorkLaws,
    live_N: Mask,
    k: int,
    omega_N: F64,
    spread: float,
    noise_most: float,
    present: float,
    between: float = 0.0,
    cap_N: F64 | None = None,
    present_load_N: I64 | None = None,
    changes: Changes | None = None,
) -> CutChoice:
    """The deadline with the least `Prospect.cost`, and the loads at it.

    A step ends when all rows are complete, or at the deadline. The noise is that of section 10 at the best loads. The user's
    step size is fixed: the noise may exceed that of waiting for all by ``noise_most`` of ``|g|^2``.

    Args:
        laws: times of the workers.
        live_N: who is here, (N,).
        k: partitions.
        omega_N: quantization noise of each worker's message.
        spread: ``S^2/|g|^2`` of one partition.
        noise_most: see above.
        present: the deadline now; inf: waiting for all.
        between: seconds between two steps that are not the workers'.
        cap_N: most partitions of each worker; None: any.
        present_load_N: loads now, which stay at the present deadline while they cost next to nothing; None: none.
        changes: what a memory of each partition leaves of both noises; None: there is none.
    """
    rows = _Rows.of(laws, live_N, k, present, cap_N, changes)
    who, tau_G = rows.who, rows.tau_G
    found: list[tuple[Prospect, I64]] = []
    for g in range(len(tau_G)):
        cost_NL = rows.costs(g, omega_N[who], spread, k)
        try:
            load_n = cheapest_loads(cost_NL, k, rows.cap_n)
        except ValueError:
            found.append((Prospect(np.inf, np.inf), np.zeros(len(who), np.int64)))
            continue
        best_loads = rows.prospect(g, load_n, omega_N[who], spread, k, between), load_n
        if changes is not None and present_load_N is not None and rows.fits(present_load_N, k):
            as_now = rows.prospect(g, present_load_N[who], omega_N[who], spread, k, between)
            if as_now.cost <= LOADS_STAY * best_loads[0].cost:
                best_loads = as_now, present_load_N[who]
        found.append(best_loads)
    bound = found[-1][0].noise + noise_most  # above waiting for all: the last candidate
    waits = [(rows.prospect(-1, load_n, omega_N[who], spread, k, between), load_n) for load_n in rows.balanced(k)]
    found[-1] = min([found[-1], *(waits if changes is None else ())], key=lambda each: each[0].cost)
    allowed = [g for g, (each, _) in enumerate(found) if each.noise <= bound or g == len(found) - 1]
    best = min(allowed, key=lambda g: found[g][0].cost)
    now = min(int(np.searchsorted(tau_G, present)), len(found) - 1)
    chosen = now if now in allowed and found[now][0].cost <= _KEEP * found[best][0].cost else best
    least = _STAY if np.isfinite(present) else _LEAVE
    waiting = found[-1][0]
    late = max((rows.lateness(g, *found[g], waiting, between) for g in allowed), default=1.0)
    if chosen != len(found) - 1 and min(late, found[chosen][0].gain_over(waiting)) < least:
        chosen = len(found) - 1
    prospect, load_n = found[chosen]
    if chosen == now and present_load_N is not None and rows.fits(present_load_N, k):
        as_it_is = rows.prospect(now, present_load_N[who], omega_N[who], spread, k, between)
        if as_it_is.noise <= bound and as_it_is.cost <= _KEEP * prospect.cost:
            prospect, load_n = as_it_is, present_load_N[who]
    load_N = np.zeros(len(live_N), np.int64)
    load_N[who] = load_n
    return CutChoice(float(tau_G[chosen]), load_N, prospect, found[now][0], found[-1][0])


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """Outcomes of rows at each candidate deadline."""

    who: I64  # workers (n,) that are here and known
    table_n: list[tuple[F64, F64, F64]]  # start, pace and weight (T,) of each
    overhead_n: F64
    cap_n: F64
    tau_G: F64
    p_NG: F64  # P(nothing is sent), (n, G)
    excess_NGL: F64  # E[l^2/m - l | m >= 1], (n, G, L)
    left_2NGL: tuple[F64, F64] | None  # factors of both noises where partitions are remembered

    @staticmethod
    def of(laws: WorkLaws, live_N: Mask, k: int, present: float, cap_N: F64 | None, changes: Changes | None) -> _Rows:
        who = np.flatnonzero(live_N & laws.known_N)
        even = max(1, int(np.ceil(k / max(1, len(who)))))
        most = int(min(k, max(4 * even, even + 8)))
        cap_n = np.full(len(who), float(most)) if cap_N is None else np.minimum(cap_N[who], most)
        if cap_n.sum() < k:  # who can read so many has to take them
            most = k
            cap_n = np.full(len(who), float(k)) if cap_N is None else np.minimum(cap_N[who], k)
        load_L = np.arange(1, most + 1)
        table_n = [laws.table(int(i)) for i in who]
        overhead_n, margin_n = laws.overhead_N()[who], laws.overhead_N(SURE)[who]
        tau_G = _candidates(table_n, overhead_n, even, present)
        p_NG = np.zeros((len(who), len(tau_G)))
        excess_NGL = np.zeros((len(who), len(tau_G), len(load_L)))
        seen = sum(laws.count(int(i)) for i in who)
        for n, i in enumerate(who):
            p_NG[n], excess_NGL[n] = laws.outcomes(int(i), load_L, np.maximum(0.0, tau_G - margin_n[n]))
            p_NG[n] = np.maximum(p_NG[n], 0.5 / (max(laws.count(int(i)), min(seen, _SEEN)) + 1))
            p_NG[n, np.isinf(tau_G)] = 0.0
        left = None
        if changes is not None:
            each = [changes.left(int(i), excess_NGL[n]) for n, i in enumerate(who)]
            left = np.stack([spread for spread, _ in each]), np.stack([row for _, row in each])
        return _Rows(who, table_n, overhead_n, cap_n, tau_G, p_NG, excess_NGL, left)

    def costs(self, g: int, omega_n: F64, spread: float, k: int) -> F64:
        """`cut_costs` (n, L+1) at a candidate deadline."""
        excess_NL = self.excess_NGL[:, g]
        if self.left_2NGL is None:
            return cut_costs(self.p_NG[:, g], omega_n, excess_NL, spread, k)
        left_NGL, row_NGL = self.left_2NGL
        return cut_costs(self.p_NG[:, g], omega_n, excess_NL * left_NGL[:, g], spread, k, row_NGL[:, g])

    def fits(self, load_N: I64, k: int) -> bool:
        """Whether these loads (N,) are those of workers present, and within their caps."""
        return bool(load_N.sum() == k == load_N[self.who].sum() and np.all(load_N[self.who] <= self.cap_n))

    def balanced(self, k: int) -> list[I64]:
        """Loads (n,) with which all workers are done at about the same time, by quantiles of their times."""
        load_L = np.arange(self.excess_NGL.shape[2] + 1)
        found = []
        for quantile in _BALANCED:
            pace_n = np.array([np.quantile(start_T + 3 * pace_T, quantile) for start_T, pace_T, _ in self.table_n])
            cost_NL = (
                np.maximum(pace_n, 1e-9)[:, None] / pace_n.max(initial=1e-9) * load_L
            ) ** 8.0  # its sum: the longest
            try:
                found.append(cheapest_loads(cost_NL, k, self.cap_n))
            except ValueError:
                continue
        return found

    def lateness(self, g: int, prospect: Prospect, load_n: I64, waiting: Prospect, between: float) -> float:
        """How many times shorter a step is than waiting for all with a batch as small as what is done by this cut.

        Where nobody is late this is 1 at every cut: a cut is then nothing but a smaller batch, and that is the user's to
        choose.
        """
        if not load_n.any():
            return 1.0
        excess_n = np.where(load_n > 0, self.excess_NGL[np.arange(len(load_n)), g, np.maximum(load_n, 1) - 1], 0.0)
        share = float(load_n.sum() / (load_n + excess_n).sum())
        fixed = between + float(self.overhead_n.max(initial=0.0))
        smaller = fixed + max(0.0, waiting.seconds - fixed) * share
        return smaller / prospect.seconds

    def prospect(self, g: int, load_n: I64, omega_n: F64, spread: float, k: int, between: float) -> Prospect:
        """Seconds and noise at a candidate deadline with these loads."""
        each = np.arange(len(load_n)), load_n
        noise = float(self.costs(g, omega_n, spread, k)[each].sum())
        exact = float(self.costs(g, np.zeros(len(load_n)), spread, k)[each].sum())
        return Prospect(self._seconds(load_n, float(self.tau_G[g])) + between, exact, noise - exact)

    def _seconds(self, load_n: I64, tau: float) -> float:
        """``E[min(tau, time until all rows are complete)]``."""
        time_nT = [
            (self.overhead_n[n] + start_T + pace_T * (load_n[n] - 1), weight_T)
            for n, (start_T, pace_T, weight_T) in enumerate(self.table_n)
            if load_n[n]
        ]
        end = tau if np.isfinite(tau) else max((float(time_T.max()) for time_T, _ in time_nT), default=0.0)
        time_S = np.linspace(0.0, end, _TIMES)
        all_S = np.ones(_TIMES)
        for time_T, weight_T in time_nT:
            order = np.argsort(time_T)
            share_T = np.concatenate([[0.0], np.cumsum(weight_T[order])])
            all_S *= share_T[np.searchsorted(time_T[order], time_S + 1e-12, side="right")]
        return float(np.trapezoid(1.0 - all_S, time_S))


def _candidates(table_n: list[tuple[F64, F64, F64]], overhead_n: F64, even: int, present: float) -> F64:
    """Deadlines to compare (G,), ascending; the last is inf."""
    first, last = [], []
    for (start_T, pace_T, _), overhead in zip(table_n, overhead_n, strict=True):
        first.append(overhead + np.quantile(start_T, 0.5))
        last.append(overhead + np.quantile(start_T + pace_T * (even - 1), _LIKELY))
    lo, hi = max(1e-4, min(first)), max(1e-3, max(last))
    grid = np.geomspace(lo, max(hi, 1.01 * lo), GRID)
    return np.unique(np.concatenate([grid, [present] if np.isfinite(present) else [], [np.inf]]))
