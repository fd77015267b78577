"""Optimal structured gradient code (paper 1): row sums from p alone, equal bits, inverse-probability weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gcdist.coding.loads import plan_loads
from gcdist.coding.structured import Structured
from gcdist.coding.supports import dealt
from gcdist.coding.workers import equal_bits, finish, loads, miss_at
from gcdist.types import Plan, Problem


@dataclass(frozen=True)
class Osgc(Structured):
    """``Y_i = k (1/c_i)/sum(1/c)`` with ``c = p/(1-p)``, weights ``1/(1-p)``: unbiased for every p promised beforehand."""

    name: ClassVar[str] = "osgc"

    def design(self, problem: Problem, plan_id: int) -> Plan:
        """Row sums as if nothing were quantized, and the same bits for every row used."""
        nothing_N = np.zeros(problem.n)
        if (cut := self._cut_rows(problem, nothing_N)) is not None:
            A_NK, load_N, p_N = cut
            return finish(problem, plan_id, A_NK, equal_bits(problem, load_N > 0), p_N)
        if self._uses_loads(problem) and self._deals_whole(problem):
            load_N = plan_loads(problem)
            p_N = np.where(load_N > 0, miss_at(problem, np.maximum(load_N, 1.0)), 1.0)
            return finish(problem, plan_id, dealt(load_N, problem.size_K), equal_bits(problem, load_N > 0), p_N)
        p_N = self._support_miss(problem)
        A_NK, covered_K = self._allocated(problem, p_N, nothing_N)
        if self._uses_loads(problem):
            A_NK, p_N = self._refitted(problem, A_NK, nothing_N, p_N)
        return finish(problem, plan_id, A_NK, equal_bits(problem, loads(A_NK) > 0), p_N, covered_K)
