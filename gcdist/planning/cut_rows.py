"""Seconds and noise of cut rows at each candidate deadline: what `choose_cut` compares."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gcdist.coding.cut_loads import cheapest_loads, cut_costs
from gcdist.coding.held_loads import Held
from gcdist.planning.changes import Changes
from gcdist.planning.objective import Prospect
from gcdist.planning.step_seconds import StepSeconds
from gcdist.straggler import WorkLaws
from gcdist.straggler.cuts import SURE
from gcdist.straggler.order import quantile
from gcdist.types import F64, I64, Mask

GRID = 32  # candidate deadlines
LIKELY = 0.98  # candidates end at this quantile of a worker's times at an even share
RARELY = 0.98  # chances to send nothing count as at most this in the age of what is remembered
# where partitions are remembered, who is heard less often than in one step of ten gets no row: what is remembered was
# measured at those who send, so that an absent worker would look as if its gradient never changed
UNHEARD = 0.9
SEEN = 8  # at most 8 rows of all workers stand in for a worker's own rows in its least p
BALANCED = (0.5, 0.9)  # quantiles of workers' times that loads are balanced by where all are waited for


@dataclass(frozen=True, slots=True, eq=False)
class CutRows:
    """Outcomes of rows at each candidate deadline (G), of the workers (n) that are here and known, at loads 0 to L."""

    who: I64  # numbers of the workers
    table_n: list[tuple[F64, F64, F64]]  # start, pace and weight (T,) of each
    overhead_n: F64
    cap_n: F64
    tau_G: F64  # ascending; the last is inf
    p_NG: F64  # P(nothing is sent)
    excess_NGL: F64  # E[l^2/m - l | m >= 1], of loads 1 to L
    cost_GNL: F64  # `cut_costs`, with what a memory of partitions leaves of them
    exact_GNL: F64  # ... without quantization
    seconds: StepSeconds
    between: float
    held: Held | None = None  # who can read what; None: everybody can read everything

    @staticmethod
    def of(
        laws: WorkLaws,
        live_N: Mask,
        k: int,
        omega_N: F64,
        spread: float,
        present: float,
        between: float,
        cap_N: F64 | None,
        changes: Changes | None,
        rows_spread: float | None = None,
        held: Held | None = None,
    ) -> CutRows:
        """Of these laws; the arguments are those of `choose_cut`."""
        who = np.flatnonzero(live_N & laws.known_N)
        even = max(1, int(np.ceil(k / max(1, len(who)))))
        most = int(min(k, max(4 * even, even + 8)))
        cap_n = np.full(len(who), float(most)) if cap_N is None else np.minimum(cap_N[who], most)
        held = None if held is None else held.among(who)
        narrow = held is not None and most < k and not held.can_share(cap_n, k)
        if cap_n.sum() < k or narrow:  # who can read so many has to take them
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
            p_NG[n] = np.maximum(p_NG[n], 0.5 / (max(laws.count(int(i)), min(seen, SEEN)) + 1))
            p_NG[n, np.isinf(tau_G)] = 0.0
        sums_GNL = excess_NGL.swapaxes(0, 1)
        row_GNL: F64 | float = 1.0
        absent_NG = p_NG
        if changes is not None:
            absent_NG = np.where(changes.able_N[who][:, None] & (p_NG > UNHEARD), 1.0, p_NG)
            left_2NGL = np.stack(
                [changes.left(int(i), excess_NGL[n], np.minimum(p_NG[n], RARELY)) for n, i in enumerate(who)], axis=1
            )
            left_GNL, row_GNL = left_2NGL.swapaxes(1, 2)
            sums_GNL = sums_GNL * left_GNL
        cost_GNL = cut_costs(absent_NG.T, omega_N[who], sums_GNL, spread, k, row_GNL, rows_spread)
        exact_GNL = cut_costs(absent_NG.T, np.zeros(len(who)), sums_GNL, spread, k, row_GNL, rows_spread)
        seconds = StepSeconds(table_n, overhead_n, tau_G)
        return CutRows(
            who, table_n, overhead_n, cap_n, tau_G, p_NG, excess_NGL, cost_GNL, exact_GNL, seconds, between, held
        )  # fmt: skip

    def cheapest(self, cost_NL: F64, k: int) -> I64:
        """`cheapest_loads` within the caps, of loads that every partition can be read with; ValueError: there are none."""
        if self.held is None:
            return cheapest_loads(cost_NL, k, self.cap_n)
        return self.held.loads(cost_NL, k, self.cap_n)

    def arriving(self, g: int, load_n: I64) -> float:
        """Share of the workers with a row that send something, on average."""
        return float(1 - self.p_NG[load_n > 0, g].mean()) if load_n.any() else 0.0

    def may_stay(self, load_N: I64, k: int, best_n: I64) -> bool:
        """Whether these loads (N,) are those of workers present, within their caps, and leave nobody idle who is worth half
        an even share by the best ones: one that has recovered is given work.
        """
        load_n = load_N[self.who]
        idle = np.any((load_n == 0) & (2 * len(best_n) * best_n >= k))
        fits = bool(load_N.sum() == k == load_n.sum() and np.all(load_n <= self.cap_n) and not idle)
        return fits and (self.held is None or self.held.fit(load_n))

    def balanced(self, k: int) -> list[I64]:
        """Loads (n,) with which all workers are done at about the same time, by quantiles of their times."""
        load_L = np.arange(self.excess_NGL.shape[2] + 1)
        found = []
        for share in BALANCED:
            pace_n = np.array([quantile(start_T + 3 * pace_T, share) for start_T, pace_T, _ in self.table_n])
            relative_NL = np.maximum(pace_n, 1e-9)[:, None] / pace_n.max(initial=1e-9) * load_L
            try:
                found.append(self.cheapest(relative_NL**8.0, k))  # a sum of high powers: the longest
            except ValueError:
                continue
        return found

    def lateness(self, g: int, prospect: Prospect, load_n: I64, waiting: Prospect) -> float:
        """How many times shorter a step is than waiting for all with a batch as small as what is done by this cut.

        Where nobody is late this is 1 at every cut: a cut is then nothing but a smaller batch, and that is the user's to
        choose.
        """
        if not load_n.any():
            return 1.0
        excess_n = np.where(load_n > 0, self.excess_NGL[np.arange(len(load_n)), g, np.maximum(load_n, 1) - 1], 0.0)
        share = float(load_n.sum() / (load_n + excess_n).sum())
        fixed = self.between + float(self.overhead_n.max(initial=0.0))
        smaller = fixed + max(0.0, waiting.seconds - fixed) * share
        return smaller / prospect.seconds

    def prospect(self, g: int, load_n: I64) -> Prospect:
        """Seconds and noise at a candidate deadline with these loads."""
        each = np.arange(len(load_n)), load_n
        noise, exact = float(self.cost_GNL[g][each].sum()), float(self.exact_GNL[g][each].sum())
        if not np.isfinite(noise):  # somebody would have a row who is hardly heard
            return Prospect(np.inf, np.inf)
        return Prospect(self.seconds.mean(load_n, g) + self.between, exact, noise - exact)


def _candidates(table_n: list[tuple[F64, F64, F64]], overhead_n: F64, even: int, present: float) -> F64:
    """Deadlines to compare (G,), ascending; the last is inf."""
    first, last = [], []
    for (start_T, pace_T, _), overhead in zip(table_n, overhead_n, strict=True):
        first.append(overhead + quantile(start_T, 0.5))
        last.append(overhead + quantile(start_T + pace_T * (even - 1), LIKELY))
    lo, hi = max(1e-4, min(first)), max(1e-3, max(last))
    grid = np.geomspace(lo, max(hi, 1.01 * lo), GRID)
    return np.unique(np.concatenate([grid, [present] if np.isfinite(present) else [], [np.inf]]))
