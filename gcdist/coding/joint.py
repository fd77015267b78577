"""The joint design of code and bits (paper 2): ``c = (p + omega(b))/(1-p)``, bits that maximise ``F = sum 1/c``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gcdist.coding.allocations import masses
from gcdist.coding.bits import SOLVERS, allocate_bits
from gcdist.coding.loads import bits_for_rows, plan_loads_and_bits
from gcdist.coding.names import unknown
from gcdist.coding.optimal import row_costs
from gcdist.coding.structured import Structured
from gcdist.coding.supports import dealt
from gcdist.coding.workers import finish, loads, miss_at, width_at_most
from gcdist.types import F64, Plan, Problem


@dataclass(frozen=True)
class Joint(Structured):
    """Bits by `allocate_bits`, then row sums in closed form; where p depends on the load, loads and bits together."""

    solver: str = "auto"

    name: ClassVar[str] = "joint"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.solver not in SOLVERS:
            raise unknown("solver", self.solver, SOLVERS)

    def design(self, problem: Problem, plan_id: int) -> Plan:
        """Code, data allocation and bits; ValueError if the budget pays for no message."""
        if self._uses_loads(problem) and self._deals_whole(problem):
            load_N, bits_N = plan_loads_and_bits(problem)
            p_N = np.where(load_N > 0, miss_at(problem, np.maximum(load_N, 1.0)), 1.0)
            return finish(problem, plan_id, dealt(load_N, problem.size_K), bits_N, p_N)
        p_N = self._support_miss(problem)
        if problem.holds_NK is not None or np.any(problem.load_cap_N < problem.k):
            return self._constrained(problem, plan_id, p_N)
        found = allocate_bits(p_N, problem.noise, problem.bits_total, problem.bits_cap_N, self.solver)
        if found.F == 0:
            raise ValueError(
                f"bits_total {problem.bits_total:g} pays for no message of a usable worker: widths with finite noise are "
                f"{np.flatnonzero(np.isfinite(problem.noise)).tolist()}"
            )
        omega_N = problem.noise[found.bits_N]
        A_NK, covered_K = self._allocated(problem, p_N, omega_N)
        if self._uses_loads(problem):
            A_NK, p_N = self._refitted(problem, A_NK, omega_N, p_N)
        return finish(problem, plan_id, A_NK, found.bits_N, p_N, covered_K)

    def _constrained(self, problem: Problem, plan_id: int, p_N: F64) -> Plan:
        """Under holders or load caps: row sums given bits and bits given row sums in turn, while the error falls."""
        usable = int(np.sum(p_N < 1))
        width = width_at_most(problem.noise, problem.bits_total / max(1, usable))
        if width == 0:
            raise ValueError(
                f"bits_total {problem.bits_total:g} pays for no message of each of {usable} usable workers"
            )
        bits_N = np.array([width_at_most(problem.noise, min(width, int(cap))) for cap in problem.bits_cap_N])
        C_K, best, plan = masses(problem), np.inf, None
        while True:
            A_NK, covered_K = self._allocated(problem, p_N, problem.noise[bits_N])
            real_N = p_N
            if self._uses_loads(problem):
                A_NK, real_N = self._refitted(problem, A_NK, problem.noise[bits_N], p_N)
            square_N = np.asarray(A_NK @ C_K, np.float64) ** 2
            used = square_N > 0
            lost = np.flatnonzero(used & (real_N >= 1))
            if lost.size:
                raise ValueError(
                    f"worker {lost[0]} cannot arrive with the {loads(A_NK)[lost[0]]} partitions only it can take"
                )
            weight_N = np.zeros(problem.n)
            weight_N[used] = square_N[used] / (1 - real_N[used])
            bits_N = bits_for_rows(weight_N, problem)
            error = float(square_N[used] @ row_costs(real_N, problem.noise[bits_N])[used])
            if plan is not None and not error < best * (1 - 1e-6):
                return plan
            best, plan = error, finish(problem, plan_id, A_NK, bits_N, real_N, covered_K)
            # a row that has no data now may be taken again at the least width
            bits_N = np.where(used, bits_N, width_at_most(problem.noise, float(width)))


@dataclass(frozen=True)
class SelfNormalisedJoint(Joint):
    """`joint` with self-normalised decoding (math section 5): no error at all where partitions agree."""

    decoding: str = "self-normalised"

    name: ClassVar[str] = "self-normalised"
