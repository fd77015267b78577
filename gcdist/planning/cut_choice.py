"""The automatic deadline of partial rows, and the loads that go with it (math.md sections 8 and 10)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gcdist.coding.cut_loads import cheapest_loads, cut_costs
from gcdist.straggler import WorkLaws
from gcdist.straggler.cuts import SURE
from gcdist.types import F64, I64, Mask

GRID = 32  # candidate deadlines
_LIKELY = 0.98  # quantile of a worker's times at an even share up to which candidates go
_KEEP = 1.03  # the present deadline stays while its cost is within this factor of the best
_TIMES = 24  # points of the integral over a step's time


@dataclass(frozen=True, slots=True, eq=False)
class CutChoice:
    """A deadline, and what is expected of it."""

    deadline: float  # seconds; inf: wait for all
    seconds: float  # of a step, with what lies between two steps
    noise: float  # over |g|^2
    load_N: I64
    present_seconds: float  # the same of the deadline before ...
    present_noise: float  # ... which is inf if there was none

    @property
    def gain(self) -> float:
        """How many times less wall clock to the same progress than with the deadline before."""
        return self.present_seconds * (1 + self.present_noise) / (self.seconds * (1 + self.noise))


def choose_cut(
    laws: WorkLaws,
    live_N: Mask,
    k: int,
    omega_N: F64,
    spread: float,
    noise_most: float,
    present: float,
    between: float = 0.0,
) -> CutChoice:
    """The deadline with the least ``E[seconds of a step] (1 + noise/|g|^2)``, and the loads at it.

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
    """
    who = np.flatnonzero(live_N & laws.known_N)
    overhead_N = laws.overhead_N()[who]
    margin_N = laws.overhead_N(SURE)[who]
    even = max(1, int(np.ceil(k / max(1, len(who)))))
    most = int(min(k, max(4 * even, even + 8)))
    load_L = np.arange(1, most + 1)
    tau_G = _candidates(laws, who, overhead_N, even, present)
    p_NG, excess_NGL = _outcomes(laws, who, tau_G, margin_N, load_L)
    best: tuple[float, int] | None = None
    found = []
    for g in range(len(tau_G)):
        cost_NL = cut_costs(p_NG[:, g], omega_N[who], excess_NGL[:, g], spread, k)
        try:
            load_n = cheapest_loads(cost_NL, k, np.full(len(who), float(most)))
        except ValueError:
            found.append((np.inf, np.inf, np.zeros(len(who), np.int64)))
            continue
        noise = float(cost_NL[np.arange(len(who)), load_n].sum())
        found.append((_seconds(laws, who, load_n, overhead_N, float(tau_G[g])) + between, noise, load_n))
    least = found[-1][1]  # of waiting for all: the last candidate
    bound = least + noise_most
    for g, (seconds, noise, _) in enumerate(found):
        cost = seconds * (1 + noise)
        if (noise <= bound or g == len(found) - 1) and np.isfinite(cost) and (best is None or cost < best[0]):
            best = (cost, g)
    assert best is not None
    now = int(np.searchsorted(tau_G, present))
    now_seconds, now_noise, _ = found[min(now, len(found) - 1)]
    keep = now_noise <= bound and now_seconds * (1 + now_noise) <= _KEEP * best[0]
    seconds, noise, load_n = found[now if keep else best[1]]
    load_N = np.zeros(len(live_N), np.int64)
    load_N[who] = load_n
    return CutChoice(float(tau_G[now if keep else best[1]]), seconds, noise, load_N, now_seconds, now_noise)


def _candidates(laws: WorkLaws, who: I64, overhead_N: F64, even: int, present: float) -> F64:
    """Deadlines to compare (G,), ascending; the last is inf."""
    first, last = [], []
    for i, overhead in zip(who, overhead_N, strict=True):
        start_T, pace_T, _ = laws.table(int(i))
        first.append(overhead + np.quantile(start_T, 0.5))
        last.append(overhead + np.quantile(start_T + pace_T * (even - 1), _LIKELY))
    lo, hi = max(1e-4, min(first)), max(1e-3, max(last))
    grid = np.geomspace(lo, max(hi, 1.01 * lo), GRID)
    return np.unique(np.concatenate([grid, [present] if np.isfinite(present) else [], [np.inf]]))


def _outcomes(laws: WorkLaws, who: I64, tau_G: F64, margin_N: F64, load_L: I64) -> tuple[F64, F64]:
    """P(nothing is sent) (N, G), and ``E[l^2/m - l | m >= 1]`` (N, G, L)."""
    p_NG = np.zeros((len(who), len(tau_G)))
    excess_NGL = np.zeros((len(who), len(tau_G), len(load_L)))
    for n, i in enumerate(who):
        cut_G = np.maximum(0.0, tau_G - margin_N[n])
        p_NG[n], excess_NGL[n] = laws.outcomes(int(i), load_L, cut_G)
        p_NG[n] = np.maximum(p_NG[n], 0.5 / (laws.count(int(i)) + 1))
        p_NG[n, np.isinf(tau_G)] = 0.0
    return p_NG, excess_NGL


def _seconds(laws: WorkLaws, who: I64, load_n: I64, overhead_N: F64, tau: float) -> float:
    """``E[min(tau, time until all rows are complete)]``."""
    used = np.flatnonzero(load_n)
    end = tau
    if not np.isfinite(tau):
        worst = [
            overhead_N[n] + (start_T + pace_T * (load_n[n] - 1)).max()
            for n in used
            for start_T, pace_T, _ in [laws.table(int(who[n]))]
        ]
        end = float(max(worst, default=0.0))
    time_S = np.linspace(0.0, end, _TIMES)
    all_S = np.ones(_TIMES)
    for n in used:
        all_S *= laws.complete(int(who[n]), int(load_n[n]), time_S - overhead_N[n])
    return float(np.trapezoid(1.0 - all_S, time_S))
