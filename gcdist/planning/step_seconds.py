"""Mean seconds of a step that ends when all rows are complete, or at its deadline."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gcdist.types import F64, I64

POINTS = 96  # of the integral over a step's time, up to the longest deadline


class StepSeconds:
    """``E[min(tau, time until all rows are complete)]`` for loads and deadlines: the integral of ``1 - prod F_n``.

    A worker's distribution at a load is worked out once: a choice asks for the same few loads at every deadline. Without a
    deadline the sum over the rows seen is exact, as one that took very long may decide.

    Args:
        table_n: start, pace and weight (T,) of the rows seen of each worker.
        overhead_n: seconds of a round outside its row, of each worker.
        tau_G: deadlines, ascending; inf: all rows are waited for.
    """

    def __init__(self, table_n: Sequence[tuple[F64, F64, F64]], overhead_n: F64, tau_G: F64) -> None:
        self._table_n, self._overhead_n, self._tau_G = table_n, overhead_n, tau_G
        finite = tau_G[np.isfinite(tau_G)]
        self._time_S = np.unique(np.concatenate([np.linspace(0.0, finite.max(initial=0.0), POINTS), finite]))
        self._width_S = np.diff(self._time_S)
        self._at_G = np.searchsorted(self._time_S, tau_G)
        self._done: dict[tuple[int, int], F64] = {}

    def mean(self, load_n: I64, g: int) -> float:
        """At these loads (n,) and the g-th deadline."""
        if not np.isfinite(self._tau_G[g]):
            return self._until_all(load_n)
        all_S = np.ones(len(self._time_S))
        for n in np.flatnonzero(load_n).tolist():
            key = n, int(load_n[n])
            if key not in self._done:
                self._done[key] = _by(*self._rows(*key), self._time_S + 1e-12)
            all_S *= self._done[key]
        open_S = 1.0 - all_S
        area_S = 0.5 * (open_S[1:] + open_S[:-1]) * self._width_S
        return float(area_S[: self._at_G[g]].sum())

    def _until_all(self, load_n: I64) -> float:
        rows = [self._rows(n, int(load_n[n])) for n in np.flatnonzero(load_n).tolist()]
        if not rows:
            return 0.0
        time_S = np.unique(np.concatenate([time_T for time_T, _ in rows]))
        all_S = np.ones(len(time_S))
        for time_T, weight_T in rows:
            all_S *= _by(time_T, weight_T, time_S)
        return float(np.sum(time_S * np.diff(all_S, prepend=0.0)))

    def _rows(self, n: int, load: int) -> tuple[F64, F64]:
        """Times of complete rows of so many partitions and their chances, (T,)."""
        start_T, pace_T, weight_T = self._table_n[n]
        return self._overhead_n[n] + start_T + pace_T * (load - 1), weight_T


def _by(time_T: F64, weight_T: F64, at_S: F64) -> F64:
    """P(time <= at), (S,)."""
    order = np.argsort(time_T)
    share_T = np.concatenate([[0.0], np.cumsum(weight_T[order])])
    return share_T[np.searchsorted(time_T[order], at_S, side="right")]
