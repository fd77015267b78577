"""Uncoded baselines: each partition on one worker, messages added with weight 1 (math section 9)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gcdist.coding.base import BaseCode
from gcdist.coding.decoders import Rescaled, Summing
from gcdist.coding.workers import deal, equal_bits, finish, loads, miss_at, nominal_miss
from gcdist.types import Decoder, Plan, Problem, StepTerms, Weighting


class _Uncoded(BaseCode):
    def design(self, problem: Problem, plan_id: int) -> Plan:
        """Balanced contiguous blocks with coefficient 1 over the usable workers, and equal bits."""
        A_RK, covered_K = deal(problem, nominal_miss(problem))
        load_R = loads(A_RK)
        p_R = miss_at(problem, np.maximum(load_R, 1).astype(np.float64))
        return finish(problem, plan_id, A_RK, equal_bits(problem, load_R > 0), p_R, covered_K)


@dataclass(frozen=True, slots=True)
class Sync(_Uncoded):
    """Synchronous training: wait for all, sum. Exact up to quantization, as slow as the slowest worker."""

    name: ClassVar[str] = "sync"
    waits: ClassVar[bool] = True
    weighting: ClassVar[Weighting] = Weighting.ONE
    unbiased: ClassVar[bool] = True

    def open(self, plan: Plan, terms: StepTerms) -> Decoder:
        """Weight 1 each; complete when all weighted rows are in."""
        return Summing(np.ones(plan.rows), plan.weighted_R())


@dataclass(frozen=True, slots=True)
class Ignore(_Uncoded):
    """Drop stragglers, sum what arrived: biased to zero, by p_i on the data of worker i."""

    name: ClassVar[str] = "ignore"

    def open(self, plan: Plan, terms: StepTerms) -> Decoder:
        """Weight 1 each."""
        return Summing(np.ones(plan.rows), plan.weighted_R())


@dataclass(frozen=True, slots=True)
class IgnoreRescaled(_Uncoded):
    """Drop stragglers and scale the sum by n/arrived: biased against slow workers' data unless all p are equal."""

    name: ClassVar[str] = "ignore-rescaled"

    def open(self, plan: Plan, terms: StepTerms) -> Decoder:
        """Weight 1 while streaming, one scale at the close."""
        return Rescaled(np.ones(plan.rows), plan.weighted_R())


@dataclass(frozen=True, slots=True)
class Memory(_Uncoded):
    """Last received gradient of each worker (MIFA, SAG): stale and biased, but without a noise floor.

    In the shifted form of math section 6: rows send ``Q(y - h)``, weight 1 and ``beta`` 1, so that the estimate is the sum
    of the h after the update; late messages still move their h.
    """

    name: ClassVar[str] = "memory"
    weighting: ClassVar[Weighting] = Weighting.STALE
    shifted: ClassVar[bool] = True
    partial: ClassVar[bool | None] = None

    def open(self, plan: Plan, terms: StepTerms) -> Decoder:
        """Weight 1, beta 1; late: weight 0, beta 1."""
        return Summing(np.ones(plan.rows), plan.weighted_R(), beta=1.0, late_beta=1.0)
