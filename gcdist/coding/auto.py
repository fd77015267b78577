"""The code of the automatic scheme: whole partitions at the chosen loads, otherwise as `joint`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gcdist.coding.decoders import inverse_weights
from gcdist.coding.joint import Joint
from gcdist.coding.partial_memory import Remembering
from gcdist.types import Decoder, Plan, StepTerms, Weighting


@dataclass(frozen=True)
class Auto(Joint):
    """`joint` with cut rows; the master chooses deadline, loads and bits again during the training.

    The choices are those of `gcdist.planning.cut_choice` and `bits_choice`; loads come to the design in ``Problem.load_N``.
    Every choice is unbiased: the wait for all workers, and cut rows with Horvitz-Thompson weights 1/(1-p). Rows with a step
    ``Plan.beta_R`` above 0 are sent as differences to a shift and to a memory of each partition, as in `PartialMemory`.
    """

    name: ClassVar[str] = "auto"

    @property
    def may_remember(self) -> bool:
        """Differences take inverse weights."""
        return self.weighting is Weighting.INVERSE

    def open(self, plan: Plan, terms: StepTerms) -> Decoder:
        """As `joint`; where rows are shifted, as `partial-memory`."""
        if plan.beta_R is None or not np.any(plan.beta_R):
            return super().open(plan, terms)
        weight_R, counted_R = inverse_weights(plan, terms)
        return Remembering(weight_R, plan.beta_R, counted_R, plan.weighted_R())
