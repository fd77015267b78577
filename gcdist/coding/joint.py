"""The joint design of code and bits (paper 2): ``c = (p + omega(b))/(1-p)``, bits that maximise ``F = sum 1/c``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gcdist.coding.bits import SOLVERS, allocate_bits
from gcdist.coding.loads import plan_loads_and_bits
from gcdist.coding.names import unknown
from gcdist.coding.structured import Structured
from gcdist.coding.supports import dealt
from gcdist.coding.workers import finish, miss_at
from gcdist.types import Plan, Problem


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
        found = allocate_bits(p_N, problem.noise, problem.bits_total, problem.bits_cap_N, self.solver)
        if found.F == 0:
            raise ValueError(
                f"bits_total {problem.bits_total:g} pays for no message of a usable worker: widths with finite noise are "
                f"{np.flatnonzero(np.isfinite(problem.noise)).tolist()}"
            )
        omega_N = problem.noise[found.bits_N]
        A_NK, covered_K = self._allocated(problem, p_N, omega_N)
        if self._uses_loads(problem):
            A_NK, p_N = self._refitted(problem, A_NK, omega_N)
        return finish(problem, plan_id, A_NK, found.bits_N, p_N, covered_K)


@dataclass(frozen=True)
class SelfNormalisedJoint(Joint):
    """`joint` with self-normalised decoding (math section 5): no error at all where partitions agree."""

    decoding: str = "self-normalised"

    name: ClassVar[str] = "self-normalised"
