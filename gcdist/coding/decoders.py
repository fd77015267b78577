"""Decoders that add each message as it arrives (math sections 1, 6 and 9)."""

from __future__ import annotations

import numpy as np

from gcdist.types import F64, Closing, Mask, Plan, StepTerms, Use


class Summing:
    """Adds every message with a weight fixed before the step; complete when all rows that can change the sum are in."""

    def __init__(self, weight_R: F64, counted_R: Mask, beta: float = 0.0, late_beta: float = 0.0) -> None:
        self._weight = weight_R
        self._counted = counted_R
        self._missing = int(counted_R.sum())
        self._none = self._missing == 0  # no row to wait for does not mean that all rows arrived
        self._beta = beta
        self._late_beta = late_beta

    def arrive(self, row: int) -> Use:
        """The row's weight; 0 for a row that this plan does not count."""
        if not self._counted[row]:
            return Use(0.0)
        self._missing -= 1
        return Use(float(self._weight[row]), self._beta)

    def late(self, row: int, age: int) -> Use:
        """Weight 0; moves the shift if this code keeps late messages."""
        return Use(0.0, self._late_beta if self._counted[row] else 0.0)

    def complete(self) -> bool:
        """All counted rows are in."""
        return self._missing == 0 and not self._none

    def close(self) -> Closing:
        """The plain sum."""
        return Closing()


class Rescaled(Summing):
    """The sum of arrivals times (rows counted)/(rows arrived): unbiased only if all p or all partitions are equal."""

    def close(self) -> Closing:
        """Scale by rows over arrivals; 1 if nothing came (the sum is empty then)."""
        rows = int(self._counted.sum())
        arrived = rows - self._missing
        return Closing(scale=rows / arrived if arrived else 1.0)


class SelfNormalised(Summing):
    """Hajek estimator ``k sum I_i a_i Q(v_i) / sum I_i a_i Y_i``: a streamed sum, one scalar more, one scale at the
    close.
    """

    def __init__(self, a_R: F64, Y_R: F64, counted_R: Mask) -> None:
        super().__init__(a_R, counted_R)
        self._term = a_R * Y_R
        self._total = float(Y_R[counted_R].sum())
        self._sum = 0.0

    def arrive(self, row: int) -> Use:
        """The row's weight a_i; remembers a_i Y_i."""
        use = super().arrive(row)
        if use.weight:
            self._sum += float(self._term[row])
        return use

    def close(self) -> Closing:
        """Scale by k over the sum of the arrived a_i Y_i."""
        return Closing(scale=self._total / self._sum if self._sum > 0 else 1.0)


class Predicting(Summing):
    """``sum I_i w_i Q(v_i) + (1 - sum I_i w_i Y_i/k) m`` for any control variate m fixed before the step: unbiased."""

    def __init__(self, weight_R: F64, share_R: F64, counted_R: Mask) -> None:
        super().__init__(weight_R, counted_R)
        self._share = weight_R * share_R
        self._seen = 0.0

    def arrive(self, row: int) -> Use:
        """The row's weight; remembers its share of the gradient."""
        use = super().arrive(row)
        if use.weight:
            self._seen += float(self._share[row])
        return use

    def close(self) -> Closing:
        """The control variate's weight: the missing share, negative if the arrivals exceed 1."""
        return Closing(predicted=1.0 - self._seen)


def inverse_weights(plan: Plan, terms: StepTerms) -> tuple[F64, Mask]:
    """Horvitz-Thompson weights ``w = 1/(1 - p)`` (R,) of this step's p, and the rows where w is finite (section 1)."""
    counted_R = plan.weighted_R() & (terms.p_R < 1)
    weight_R = np.zeros(plan.rows)
    weight_R[counted_R] = 1 / (1 - terms.p_R[counted_R])
    return weight_R, counted_R
