"""Decoding by least squares over what arrived: messages are kept packed and weighted at the close (math section 9)."""

from __future__ import annotations

import numpy as np
from scipy.linalg import lstsq
from scipy.sparse.linalg import lsmr

from gcdist.types import Closing, Mask, Plan, Use

_RANK = 1e-12  # relative size below which a direction counts as missing
_DENSE = 100_000  # entries up to which the solve is dense


class LeastSquares:
    """Weights ``argmin_w |A_S^T w - 1|^2`` over the arrived rows S (least norm: the pseudo-inverse).

    After ``enough`` arrivals no outstanding message changes the result: all rows, or fewer for exact codes.
    """

    def __init__(self, plan: Plan, enough: int | None = None) -> None:
        self._plan = plan
        self._counted: Mask = plan.weighted_R()
        rows = int(self._counted.sum())
        self._exact = enough is not None  # solved dense, because the weights of exact codes are ill-conditioned
        self._enough = rows if enough is None else min(enough, rows)
        self._rows: list[int] = []

    def arrive(self, row: int) -> Use:
        """Keep the message: its weight needs the set of arrivals."""
        if not self._counted[row]:
            return Use(0.0)
        self._rows.append(row)
        return Use(None)

    def late(self, row: int, age: int) -> Use:
        """Nothing."""
        return Use(0.0)

    def complete(self) -> bool:
        """Enough rows are in."""
        return self._enough > 0 and len(self._rows) >= self._enough

    def close(self) -> Closing:
        """One solve of arrivals by covered partitions; large sparse ones by conjugate directions (LSMR)."""
        if not self._rows:
            return Closing()
        arrived = self._plan.A_RK[np.array(self._rows)][:, np.flatnonzero(self._plan.covered_K)]
        target = np.ones(arrived.shape[1])
        if self._exact or arrived.shape[0] * arrived.shape[1] <= _DENSE:
            weights = lstsq(arrived.toarray().T, target, cond=_RANK, lapack_driver="gelsy")[0]
        else:
            weights = lsmr(arrived.T, target, atol=_RANK, btol=_RANK, conlim=0, maxiter=2 * len(self._rows))[0]
        return Closing(kept=tuple((row, float(w)) for row, w in zip(self._rows, weights, strict=True)))
