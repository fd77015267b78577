"""Cut rows with a memory of each partition: no sampling noise in the limit, where gradients are exact (math section 10)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gcdist.coding.decoders import inverse_weights
from gcdist.coding.shifted import Shifted, Shifting
from gcdist.types import Decoder, Plan, StepTerms, Use


class Remembering(Shifting):
    """As `Shifting`; a message of m of l partitions moves h_row by ``beta m/l``."""

    def arrive(self, row: int) -> Use:
        """Weight 1/(1-p), and beta times the computed share m/l."""
        use = super().arrive(row)
        return Use(use.weight, use.beta, by_done=True)

    def late(self, row: int, age: int) -> Use:
        """Weight 0; the shift may still follow."""
        use = super().late(row, age)
        return Use(use.weight, use.beta, by_done=True)


@dataclass(frozen=True)
class PartialMemory(Shifted):
    """VR-DIANA on cut rows (Horvath et al. 2019): the worker remembers ``h_j``, its last gradient of each partition.

    It sends ``Q(x)``, ``x = (l/m) sum_done a_j (g_j - h_j) + sum_j a_j h_j - H_i``, then ``h_j := g_j`` for the
    computed; the estimate is ``sum_i H_i + I_i/(1-p_i) Q(x_i)``, unbiased for every h, and ``H_i += beta (m/l) Q(x_i)``
    at both ends. The worker stores ``l d`` floats beside H_i. This pays if the gradients of partitions are exact, or
    nearly.
    """

    name: ClassVar[str] = "partial-memory"
    partial: ClassVar[bool | None] = True

    def open(self, plan: Plan, terms: StepTerms) -> Decoder:
        """Weights by this step's promise; ValueError as `Shifted.open`."""
        weight_R, counted_R = inverse_weights(plan, terms)
        return Remembering(weight_R, self.beta_of(plan), counted_R, plan.weighted_R())
