"""Shifted coding (DIANA): rows send ``Q(y_i - h_i)``, and both ends move h_i towards y_i (math section 6)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from gcdist.coding.decoders import inverse_weights
from gcdist.coding.joint import Joint
from gcdist.types import F64, Closing, Decoder, Mask, Plan, Problem, StepTerms, Use, Weighting

_PLANS = 16  # whose noise is remembered


class Shifting:
    """``ghat = H + sum I_i w_i Q(y_i - h_i)`` with H as at the opening; accepted messages move h_i by beta_i, late ones
    too.
    """

    def __init__(self, weight_R: F64, beta_R: F64, counted_R: Mask, sends_R: Mask) -> None:
        self._weight, self._beta = weight_R, beta_R
        self._counted, self._sends = counted_R, sends_R
        self._missing = int(counted_R.sum())
        self._any = self._missing > 0

    def arrive(self, row: int) -> Use:
        """Weight 1/(1-p) and beta; a row with p = 1 moves its h only."""
        if not self._sends[row]:
            return Use(0.0)
        if self._counted[row]:
            self._missing -= 1
        return Use(float(self._weight[row]), float(self._beta[row]))

    def late(self, row: int, age: int) -> Use:
        """Weight 0; the shift may still follow."""
        return Use(0.0, float(self._beta[row]) if self._sends[row] else 0.0)

    def complete(self) -> bool:
        """All rows that can change the estimate are in."""
        return self._any and self._missing == 0

    def close(self) -> Closing:
        """H plus the plain sum."""
        return Closing()


@dataclass(frozen=True)
class Shifted(Joint):
    """The plan of `joint`, sent as differences: straggler and quantization noise vanish as gradients settle.

    Unbiased for every h. ``beta_i = 1/(1 + omega_i)`` by the noise law of the plan's problem, or ``beta`` for all rows,
    which must not be above that (math section 6, theorem).
    """

    beta: float | None = None
    _omega: dict[int, F64] = field(default_factory=dict, init=False, repr=False, compare=False)

    name: ClassVar[str] = "shifted"
    shifted: ClassVar[bool] = True
    partial: ClassVar[bool | None] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weighting is not Weighting.INVERSE:
            raise ValueError(f"decoding {self.decoding!r} is not for shifted messages: allowed is inverse")
        if self.beta is not None and not 0 < self.beta <= 1:
            raise ValueError(f"beta is {self.beta}: it must be above 0 and at most 1")

    def design(self, problem: Problem, plan_id: int) -> Plan:
        """As `joint`; remembers the noise of each row for beta."""
        plan = super().design(problem, plan_id)
        while len(self._omega) >= _PLANS:
            del self._omega[next(iter(self._omega))]
        omega_R = np.asarray(problem.noise[plan.bits_RS].max(axis=1), np.float64)
        if self.beta is not None and np.any(self.beta * (1 + omega_R[plan.weighted_R()]) > 1 + 1e-12):
            worst = float(omega_R[plan.weighted_R()].max())
            raise ValueError(
                f"beta {self.beta} is above 1/(1 + omega) = {1 / (1 + worst):.3g}: the shift would not settle"
            )
        self._omega[plan_id] = omega_R
        return plan

    def open(self, plan: Plan, terms: StepTerms) -> Decoder:
        """Weights by this step's promise. ValueError for a plan of another code object, unless ``beta`` is given."""
        weight_R, counted_R = inverse_weights(plan, terms)
        return Shifting(weight_R, self.beta_of(plan), counted_R, plan.weighted_R())

    def beta_of(self, plan: Plan) -> F64:
        """beta (R,), the step of each row's shift towards its message; ValueError as `open`."""
        if self.beta is not None:
            return np.full(plan.rows, self.beta)
        if plan.plan_id not in self._omega:
            raise ValueError(f"plan {plan.plan_id} was not designed here: its noise, and so beta, is not known")
        return np.asarray(1 / (1 + self._omega[plan.plan_id]), np.float64)
