"""The joint design of code and bits (paper 2): ``c = (p + omega(b))/(1-p)``, bits that maximise ``F = sum 1/c``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.sparse import csr_array

from gcdist.coding.allocations import masses
from gcdist.coding.bits import SOLVERS, allocate_bits
from gcdist.coding.loads import bits_for_rows
from gcdist.coding.loads_and_bits import plan_loads_and_bits
from gcdist.coding.optimal import row_costs
from gcdist.coding.structured import Structured
from gcdist.coding.supports import dealt
from gcdist.coding.workers import finish, loads, miss_at, nominal_miss, width_at_most
from gcdist.names import unknown
from gcdist.types import F64, I64, Mask, Plan, Problem

_FALL, _LARGE_FALL = 1e-6, 1e-3  # least relative fall of the error for another turn; with many workers
_SOME_STARTS = 64  # most workers for three starts (all, 3/4, 1/2 of the workers); above, one start with all
_ALL_STARTS = 8  # most workers for a start with every number of workers


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
        usable = max(1, int(np.sum(nominal_miss(problem) < 1)))
        even = width_at_most(problem.noise, problem.bits_total / usable)
        if even and (cut := self._cut_rows(problem, np.full(problem.n, problem.noise[even]))) is not None:
            A_NK, load_N, p_N = cut
            weight_N = np.where(load_N > 0, (load_N / problem.k) ** 2 / np.maximum(1 - p_N, 1e-12), 0.0)
            return finish(problem, plan_id, A_NK, bits_for_rows(weight_N, problem), p_N)
        if self._uses_loads(problem) and self._deals_whole(problem):
            found = plan_loads_and_bits(problem)
            load_N, bits_N = found.load_N, found.bits_N
            p_N = np.where(load_N > 0, miss_at(problem, np.maximum(load_N, 1.0)), 1.0)
            return finish(problem, plan_id, dealt(load_N, problem.size_K), bits_N, p_N)
        p_N = self._support_miss(problem)
        if problem.holds_NK is not None or np.any(problem.load_cap_N < problem.k):
            return self._constrained(problem, plan_id, p_N)
        best = allocate_bits(p_N, problem.noise, problem.bits_total, problem.bits_cap_N, self.solver)
        if best.F == 0:
            raise ValueError(
                f"bits_total {problem.bits_total:g} pays for no message of a usable worker: widths with finite noise are "
                f"{np.flatnonzero(np.isfinite(problem.noise)).tolist()}"
            )
        omega_N = problem.noise[best.bits_N]
        A_NK, covered_K = self._allocated(problem, p_N, omega_N)
        if self._uses_loads(problem):
            A_NK, p_N = self._refitted(problem, A_NK, omega_N, p_N)
        return finish(problem, plan_id, A_NK, best.bits_N, p_N, covered_K)

    def _constrained(self, problem: Problem, plan_id: int, p_N: F64) -> Plan:
        """Under holders or load caps: row sums given bits and bits given row sums in turn, the best of several starts.

        Not certified: see docs/mathematics.md, section 4.
        """
        best, plan, why = np.inf, None, None
        usable_N = p_N < 1
        reach_K = _reached(problem, usable_N)
        for bits_N in self._starts(problem, p_N):
            if not np.array_equal(_reached(problem, usable_N & (bits_N > 0)), reach_K):
                continue  # the only holders of some partition would have no bits
            try:
                error, found = self._in_turn(problem, plan_id, p_N, bits_N)
            except ValueError as refused:
                why = why or refused
                continue
            if error < best * (1 - 1e-9):
                best, plan = error, found
        if plan is None:
            raise why or ValueError(
                f"bits_total {problem.bits_total:g} pays for too few messages of {int(usable_N.sum())} usable workers "
                f"to carry {int(reach_K.sum())} partitions"
            )
        return plan

    def _starts(self, problem: Problem, p_N: F64) -> Iterator[I64]:
        """Starting bits (N,): equal for the first m workers by reliability or room, and the best without caps."""
        usable = int(np.sum(p_N < 1))
        few = problem.n <= _ALL_STARTS and (problem.holds_NK is None or problem.n * problem.k <= _ALL_STARTS**2)
        counts = list(range(usable, 0, -1)) if few else [usable, -(-3 * usable // 4), -(-usable // 2)]
        room_N = np.minimum(problem.load_cap_N, problem.k)
        if problem.holds_NK is not None:
            room_N = np.minimum(room_N, np.diff(csr_array(problem.holds_NK).indptr))
        seen = set()
        for order in (np.argsort(p_N, kind="stable"), np.lexsort((p_N, -room_N, p_N >= 1))):
            for count in counts if few or (problem.holds_NK is None and problem.n <= _SOME_STARTS) else [usable]:
                width = width_at_most(problem.noise, problem.bits_total / count)
                bits_N = np.zeros(problem.n, np.int64)
                for i in order[:count]:
                    bits_N[i] = width_at_most(problem.noise, min(width, int(problem.bits_cap_N[i])))
                if np.all(bits_N[order[:count]] > 0) and bits_N.tobytes() not in seen:
                    seen.add(bits_N.tobytes())
                    yield bits_N
        yield allocate_bits(p_N, problem.noise, problem.bits_total, problem.bits_cap_N, self.solver).bits_N

    def _in_turn(self, problem: Problem, plan_id: int, p_N: F64, start_N: I64) -> tuple[float, Plan]:
        """Row sums and bits in turn from ``start_N``, while the error falls: ``sum c_i Y_i^2`` and the plan."""
        C_K, best, plan, bits_N = masses(problem), np.inf, None, start_N
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
                    f"worker {lost[0] + 1} cannot arrive with the {loads(A_NK)[lost[0]]} partitions only it can take"
                )
            weight_N = np.zeros(problem.n)
            weight_N[used] = square_N[used] / (1 - real_N[used])
            bits_N = bits_for_rows(weight_N, problem)
            error = float(square_N[used] @ row_costs(real_N, problem.noise[bits_N])[used])
            if plan is not None and not error < best * (1 - (_FALL if problem.n <= _SOME_STARTS else _LARGE_FALL)):
                return best, plan
            best, plan = error, finish(problem, plan_id, A_NK, bits_N, real_N, covered_K)
            # a row that has no data now may be taken again at its first width
            bits_N = np.where(used, bits_N, start_N)


def _reached(problem: Problem, here_N: Mask) -> Mask:
    """Partitions (K,) that one of these workers can read."""
    if problem.holds_NK is None:
        return np.full(problem.k, bool(here_N.any()))
    return np.asarray((problem.holds_NK.toarray() != 0)[here_N].any(axis=0))


@dataclass(frozen=True)
class SelfNormalisedJoint(Joint):
    """`joint` with self-normalised decoding (math section 5): no error at all where partitions agree."""

    decoding: str = "self-normalised"

    name: ClassVar[str] = "self-normalised"
