"""What `osgc` and `joint` share: data allocation for given row costs, and the three decodings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from scipy.sparse import csr_array

from gcdist.coding import selfnorm
from gcdist.coding.allocations import allocate, check_allocation, fitted, masses
from gcdist.coding.cut_loads import cut_plan_loads
from gcdist.coding.decoders import Predicting, SelfNormalised, Summing, inverse_weights
from gcdist.coding.flow import held_row_sums
from gcdist.coding.held_loads import dealt_among
from gcdist.coding.loads import depends_on_load
from gcdist.coding.optimal import row_costs, row_sums
from gcdist.coding.supports import dealt
from gcdist.coding.workers import loads, miss_at, nominal_miss
from gcdist.names import unknown
from gcdist.types import F64, I64, Decoder, Mask, Plan, Problem, StepTerms, Weighting

DECODINGS = (Weighting.INVERSE, Weighting.SELF_NORMALISED, Weighting.PREDICTOR)


@dataclass(frozen=True)
class Structured:
    """Options of every optimal structured code.

    ``allocation``: see `allocations`. ``decoding``: inverse weights, self-normalised, or inverse with a predictor.
    ``load_aware``: plan with ``late`` at each load (None: when it depends on the load). ``allow_negative``: accept
    coefficients that amplify differences between partitions (`star`, `papers-chain`).
    """

    allocation: str = "chain"
    decoding: str = "inverse"
    load_aware: bool | None = None
    allow_negative: bool = False
    _weights: dict[bytes, F64 | None] = field(default_factory=dict, init=False, repr=False, compare=False)

    unbiased: ClassVar[bool] = True
    shifted: ClassVar[bool] = False
    partial: ClassVar[bool | None] = True
    waits: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_allocation(self.allocation)
        if self.decoding not in DECODINGS:
            raise unknown("decoding", self.decoding, DECODINGS)

    @property
    def weighting(self) -> Weighting:
        """The option ``decoding``."""
        return Weighting(self.decoding)

    @property
    def chooses_loads(self) -> bool:
        """With the allocation "chain"."""
        return self.allocation == "chain"

    def open(self, plan: Plan, terms: StepTerms) -> Decoder:
        """The decoder for this step's p. A row with p = 1 has weight 0.

        Self-normalised weights do not exist if a small row often arrives alone; then inverse weights, also unbiased,
        replace them.
        """
        weight_R, counted_R = inverse_weights(plan, terms)
        if self.weighting is Weighting.INVERSE or not counted_R.any():
            return Summing(weight_R, counted_R)
        Y_R = plan.row_masses()
        if self.weighting is Weighting.PREDICTOR:
            return Predicting(weight_R, Y_R / (plan.covered_mass() or 1.0), counted_R)
        a_R = self._self_normalised(plan, Y_R, terms.p_R, counted_R)
        return Summing(weight_R, counted_R) if a_R is None else SelfNormalised(a_R, Y_R, counted_R)

    def _self_normalised(self, plan: Plan, Y_R: F64, p_R: F64, counted_R: Mask) -> F64 | None:
        """Weights a (R,) for these p, solved once for a p that recurs."""
        # a row with p = 1 takes its share out of the sum, and a rescaled rest would be biased
        if not np.array_equal(counted_R, plan.weighted_R()):
            return None
        key = Y_R.tobytes() + p_R.tobytes()
        if key not in self._weights:
            if len(self._weights) > 64:
                self._weights.clear()
            a_R: F64 | None = selfnorm.solve(Y_R[counted_R], p_R[counted_R], float(Y_R[counted_R].sum()))
            if a_R is not None:
                full_R = np.zeros(plan.rows)
                full_R[counted_R] = a_R
                a_R = full_R
            self._weights[key] = a_R
        return self._weights[key]

    def _allocated(self, problem: Problem, p_N: F64, omega_N: F64) -> tuple[csr_array, Mask]:
        """(alpha, covered_K) with the row sums that are optimal at ``p_N``."""
        cost_N = row_costs(p_N, omega_N)
        Y_N = row_sums(cost_N, float(problem.k))
        return allocate(self.allocation, Y_N, cost_N, problem)

    def _cut_rows(self, problem: Problem, omega_N: F64) -> tuple[csr_array, I64, F64] | None:
        """(alpha, loads, p) of a plan whose rows are cut; None where rows are whole, or loads cannot be chosen freely."""
        load_N, designs = problem.load_N, problem.excess is not None and problem.holds_NK is None
        if not self.chooses_loads or (load_N is None and not designs):
            return None
        p_N = nominal_miss(problem)
        if load_N is not None and np.all(p_N[load_N > 0] < 1):
            if problem.holds_NK is None:
                return dealt(load_N, problem.size_K), load_N, p_N
            found = dealt_among(load_N, problem.holds_NK.toarray() != 0)
            return None if found is None else (found, load_N, p_N)
        if not designs:
            return None
        load_N = cut_plan_loads(problem, p_N, omega_N)
        return dealt(load_N, problem.size_K), load_N, p_N

    def _uses_loads(self, problem: Problem) -> bool:
        """Whether p is taken at each design's loads."""
        return depends_on_load(problem) if self.load_aware is None else self.load_aware

    def _deals_whole(self, problem: Problem) -> bool:
        """Whether loads can be chosen freely: whole partitions, which anybody can read."""
        return self.chooses_loads and problem.holds_NK is None

    def _support_miss(self, problem: Problem) -> F64:
        """p (N,) at the loads that the allocation gives to every worker, before it is built."""
        kind, replicas = check_allocation(self.allocation)
        load = {"full": problem.k, "replicated": min(problem.k, replicas * problem.k / problem.n)}.get(kind)
        return nominal_miss(problem) if load is None else miss_at(problem, max(1.0, float(load)))

    def _refitted(self, problem: Problem, A_NK: csr_array, omega_N: F64, p_N: F64) -> tuple[csr_array, F64]:
        """(alpha, p): row sums solved again for p at the real loads; the support stays, and p with it."""
        load_N = loads(A_NK).astype(np.float64)
        design_N = p_N
        p_N = np.where(load_N > 0, miss_at(problem, np.maximum(load_N, 1.0)), 1.0)
        if np.array_equal(p_N[load_N > 0], design_N[load_N > 0]):
            return A_NK, p_N
        cost_N = np.where(load_N > 0, row_costs(p_N, omega_N), np.inf)
        cols = np.unique(A_NK.indices)
        reachable = np.isin(cols, np.unique(A_NK[np.isfinite(cost_N)].indices))
        if np.any(A_NK.data < 0) or not reachable.all():
            return A_NK, p_N
        C_K = masses(problem)
        support = csr_array(A_NK[:, cols])
        Y_N, _ = held_row_sums(cost_N, support, C_K[cols])
        return fitted(A_NK, Y_N, np.where(np.isin(np.arange(problem.k), cols), C_K, 0.0)), p_N
