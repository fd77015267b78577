"""The automatic deadline of partial rows, and the loads that go with it (math sections 8 and 10)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gcdist.coding.held_loads import Held
from gcdist.planning.changes import Changes
from gcdist.planning.cut_rows import CutRows
from gcdist.planning.objective import Prospect
from gcdist.straggler import WorkLaws
from gcdist.types import F64, I64, Mask

_KEEP = 1.03  # present deadline and loads stay while their cost is at most 1.03 times the best
LOADS_STAY = 1.15  # where partitions are remembered, loads stay while they cost at most 15% more: a moved one is new
# of the workers with a row so many send something in a step, on average: a weight of 1/(1-p) is the more wrong the larger p
# is, as p is estimated, and what is not sent is not measured
_SENDING = 0.5
_LEAVE, _STAY = 1.15, 1.05  # least gains over waiting for all to cut rows, and to go on with it ...
# ... with the user's batch, and with one as small as what is done by some cut (`CutRows.lateness`)
PATIENCE, MORE_PATIENCE = 2.0, 0.05  # a step that waits for all is cut after twice the expected seconds and 50 ms


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
    rows_spread: float | None = None,
    held: Held | None = None,
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
        rows_spread: ``spread`` by what rows differ by (`coding.cut_loads.cut_costs`); None: the same.
        held: who can read which partitions; None: everybody can read everything.
    """
    rows = CutRows.of(laws, live_N, k, omega_N, spread, present, between, cap_N, changes, rows_spread, held)
    who, tau_G = rows.who, rows.tau_G
    found: list[tuple[Prospect, I64]] = []
    for g in range(len(tau_G)):
        try:
            load_n = rows.cheapest(rows.cost_GNL[g], k)
        except ValueError:
            found.append((Prospect(np.inf, np.inf), np.zeros(len(who), np.int64)))
            continue
        best_loads = rows.prospect(g, load_n), load_n
        if changes is not None and present_load_N is not None and rows.may_stay(present_load_N, k, load_n):
            as_now = rows.prospect(g, present_load_N[who])
            if as_now.cost <= LOADS_STAY * best_loads[0].cost:
                best_loads = as_now, present_load_N[who]
        found.append(best_loads)
    bound = found[-1][0].noise + noise_most  # above waiting for all: the last candidate
    waits = [(rows.prospect(-1, load_n), load_n) for load_n in rows.balanced(k)]
    found[-1] = min([found[-1], *(waits if changes is None else ())], key=lambda each: each[0].cost)
    last = len(found) - 1
    sending = [rows.arriving(g, load_n) >= _SENDING for g, (_, load_n) in enumerate(found)]
    allowed = [g for g, (each, _) in enumerate(found) if (each.noise <= bound and sending[g]) or g == last]
    best = min(allowed, key=lambda g: found[g][0].cost)
    now = min(int(np.searchsorted(tau_G, present)), len(found) - 1)
    chosen = now if now in allowed and found[now][0].cost <= _KEEP * found[best][0].cost else best
    least = _STAY if np.isfinite(present) else _LEAVE
    waiting = found[-1][0]
    late = max((rows.lateness(g, *found[g], waiting) for g in allowed), default=1.0)
    if chosen != last and min(late, found[chosen][0].gain_over(waiting)) < least:
        chosen = last
    prospect, load_n = found[chosen]
    if chosen == now and present_load_N is not None and rows.may_stay(present_load_N, k, load_n):
        as_it_is = rows.prospect(now, present_load_N[who])
        if as_it_is.noise <= bound and as_it_is.cost <= _KEEP * prospect.cost:
            prospect, load_n = as_it_is, present_load_N[who]
    load_N = np.zeros(len(live_N), np.int64)
    load_N[who] = load_n
    return CutChoice(float(tau_G[chosen]), load_N, prospect, found[now][0], found[-1][0])


def patience(waiting: Prospect) -> float:
    """Seconds after which a step is cut that was to wait for all, by what waiting for all was expected to take."""
    return PATIENCE * waiting.seconds + MORE_PATIENCE
