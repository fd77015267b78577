"""Random assignments: Bernoulli gradient coding and stochastic gradient coding (math section 9)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.sparse import csr_array

from gcdist.coding.base import BaseCode
from gcdist.coding.blocks import less_than_asked, plan_of, redundancy, usable_workers
from gcdist.coding.decoders import Rescaled, Summing, inverse_weights
from gcdist.types import Decoder, Plan, Problem, StepTerms, Weighting


@dataclass(frozen=True, slots=True)
class Bernoulli(BaseCode):
    """Each worker takes each partition with probability r/n; the sum of what arrives times n/(r arrived).

    Coefficients are 1/r. About e^-r of the partitions are never covered: a bias that no weight removes.
    """

    r: float = 2.0
    seed: int = 0

    name: ClassVar[str] = "bgc"

    def design(self, problem: Problem, plan_id: int) -> Plan:
        """Independent draws over the usable workers."""
        workers = usable_workers(problem, self.name)
        r = min(self.r, len(workers)) if len(workers) < problem.n else self.r
        if not 0 < r <= len(workers):
            raise ValueError(f"bgc needs 0 < r <= {len(workers)} usable workers, not r = {self.r}")
        chance = np.random.default_rng(self.seed).random((len(workers), problem.k))
        A_NK = np.zeros((problem.n, problem.k))
        A_NK[workers] = (chance < r / len(workers)) / r
        if not A_NK.any():
            raise ValueError(f"bgc with seed {self.seed} gave nobody a partition: take a larger r than {self.r}")
        return plan_of(problem, plan_id, csr_array(A_NK))

    def lacking(self, usable: int) -> str | None:
        """See `BaseCode.lacking`."""
        return less_than_asked(self.name, "r", self.r, usable, usable)

    def open(self, plan: Plan, terms: StepTerms) -> Decoder:
        """Weight 1 (coefficients carry 1/r), scaled by rows over arrivals."""
        return Rescaled(np.ones(plan.rows), plan.weighted_R())


@dataclass(frozen=True, slots=True)
class Stochastic(BaseCode):
    """Each partition on r random workers, coefficient 1/r, weights 1/(1-p): unbiased (Bitar et al. 2020).

    Published for one p and pair-wise balanced assignments, which random r-subsets approximate.
    """

    r: int = 2
    seed: int = 0

    name: ClassVar[str] = "sgc"
    weighting: ClassVar[Weighting] = Weighting.INVERSE
    unbiased: ClassVar[bool] = True

    def design(self, problem: Problem, plan_id: int) -> Plan:
        """r distinct usable workers for each partition."""
        workers = usable_workers(problem, self.name)
        text = f"sgc needs 1 <= r <= {len(workers)} usable workers, not r = {self.r}"
        r = redundancy(self.r, 1, len(workers), problem, workers, text)
        rng, k = np.random.default_rng(self.seed), problem.k
        row = np.concatenate([rng.choice(workers, r, replace=False) for _ in range(k)])
        A_NK = csr_array((np.full(k * r, 1 / r), (row, np.repeat(np.arange(k), r))), shape=(problem.n, k))
        return plan_of(problem, plan_id, A_NK)

    def lacking(self, usable: int) -> str | None:
        """See `BaseCode.lacking`."""
        return less_than_asked(self.name, "r", self.r, usable, usable)

    def open(self, plan: Plan, terms: StepTerms) -> Decoder:
        """Streaming sum by this step's promise."""
        weight_R, counted_R = inverse_weights(plan, terms)
        return Summing(weight_R, counted_R)
