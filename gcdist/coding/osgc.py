"""Optimal structured gradient code (paper 1): row sums from p alone, equal bits, inverse-probability weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gcdist.coding.decoders import Summing, inverse_weights
from gcdist.coding.optimal import row_costs, row_sums
from gcdist.coding.supports import chain
from gcdist.coding.workers import equal_bits, finish, nominal_miss
from gcdist.types import Decoder, Plan, Problem, StepTerms


@dataclass(frozen=True, slots=True)
class Osgc:
    """``Y_i = k (1/c_i)/sum(1/c)`` with ``c = p/(1-p)``, weights ``1/(1-p)``: unbiased for every p promised beforehand."""

    allocation: str = "chain"

    name: ClassVar[str] = "osgc"
    unbiased: ClassVar[bool] = True
    shifted: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.allocation != "chain":
            raise ValueError(f"allocation {self.allocation!r} is not known: allowed are chain")

    def design(self, problem: Problem, plan_id: int) -> Plan:
        """Row sums from p at the load of an equal split, partitions by `chain`, the same bits for every row used."""
        if problem.holds_NK is not None:
            raise ValueError("osgc with allocation chain needs workers that can read every partition")
        p_N = nominal_miss(problem)
        mass_K = problem.size_K * (problem.k / problem.size_K.sum())
        Y_N = row_sums(row_costs(p_N), float(problem.k))
        return finish(problem, plan_id, chain(Y_N, mass_K), equal_bits(problem, Y_N > 0), p_N)

    def open(self, plan: Plan, terms: StepTerms) -> Decoder:
        """Streaming sum with ``w = 1/(1-p)`` of this step's promise; a row with p = 1 counts nothing."""
        weight_R, counted_R = inverse_weights(plan, terms)
        return Summing(weight_R, counted_R)
