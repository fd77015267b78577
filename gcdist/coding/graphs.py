"""Codes from random regular graphs, decoded by least squares over the arrived (math section 9)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gcdist.coding.base import BaseCode
from gcdist.coding.blocks import expand, less_than_asked, plan_of, redundancy, usable_workers
from gcdist.coding.leastsquares import LeastSquares
from gcdist.types import F64, I64, Decoder, Plan, Problem, StepTerms


def near_regular_edges(vertices: int, edges: int, seed: int) -> I64:
    """(edges, 2) distinct pairs of distinct vertices whose degrees differ by at most one, at random.

    Havel-Hakimi, then 10 random degree-preserving exchanges an edge. ValueError if there are not that many pairs.
    """
    if vertices < 2 or edges > vertices * (vertices - 1) // 2:
        raise ValueError(f"no simple graph has {edges} edges on {vertices} vertices")
    rng = np.random.default_rng(seed)
    left_V = np.full(vertices, 2 * edges // vertices)
    left_V[rng.permutation(vertices)[: 2 * edges % vertices]] += 1
    pairs: list[tuple[int, int]] = []
    while left_V.any():
        one = int(np.argmax(left_V))
        need, left_V[one] = int(left_V[one]), -1
        for other in np.argsort(-left_V, kind="stable")[:need].tolist():
            pairs.append((one, other))
            left_V[other] -= 1
        left_V[one] = 0
    known = {frozenset(pair) for pair in pairs}
    for x, y in rng.integers(edges, size=(10 * edges, 2)).tolist():
        (a, b), (c, d) = pairs[x], pairs[y]
        if len({a, b, c, d}) == 4 and frozenset((a, d)) not in known and frozenset((c, b)) not in known:
            known -= {frozenset((a, b)), frozenset((c, d))}
            known |= {frozenset((a, d)), frozenset((c, b))}
            pairs[x], pairs[y] = (a, d), (c, b)
    return np.array(pairs, np.int64).reshape(edges, 2)


@dataclass(frozen=True, slots=True)
class Expander(BaseCode):
    """Blocks are vertices, workers are edges of a random r-regular graph: 2 blocks a worker (Glasgow & Wootters 2022).

    About 2n/r blocks. Biased when workers differ in p.
    """

    r: int = 2
    seed: int = 0

    name: ClassVar[str] = "expander"

    def design(self, problem: Problem, plan_id: int) -> Plan:
        """One edge a usable worker; a block of degree D has coefficient 1/D on each of its workers."""
        workers = usable_workers(problem, self.name)
        if not self.r >= 2:
            raise ValueError(f"expander needs r of 2 or more, not {self.r}")
        vertices = max(2, round(2 * len(workers) / self.r))
        while len(workers) < problem.n and len(workers) > vertices * (vertices - 1) // 2:
            vertices += 1  # some are missing: those who are left need a graph all the same
        pairs = near_regular_edges(vertices, len(workers), self.seed)
        degree_V = np.bincount(pairs.ravel(), minlength=vertices)
        B_MV = np.zeros((len(workers), vertices))
        for end in (0, 1):
            B_MV[np.arange(len(workers)), pairs[:, end]] = 1 / degree_V[pairs[:, end]]
        return plan_of(problem, plan_id, expand(B_MV, workers, problem, self.name))

    def open(self, plan: Plan, terms: StepTerms) -> Decoder:
        """Least squares over the arrived."""
        return LeastSquares(plan)


@dataclass(frozen=True, slots=True)
class Adjacency(BaseCode):
    """Worker i takes the neighbours of vertex i in a random r-regular graph (Raviv et al. 2018; the papers' simulation)."""

    r: int = 2
    seed: int = 0

    name: ClassVar[str] = "adjacency"

    def design(self, problem: Problem, plan_id: int) -> Plan:
        """The adjacency matrix with columns scaled to 1."""
        workers = usable_workers(problem, self.name)
        m = len(workers)
        if m == 1 < problem.n:  # the last one that is left has no neighbour
            return plan_of(problem, plan_id, expand(np.ones((1, 1)), workers, problem, self.name))
        text = f"adjacency needs 1 <= r < {m} usable workers, not r = {self.r}"
        pairs = near_regular_edges(m, m * redundancy(self.r, 1, m - 1, problem, workers, text) // 2, self.seed)
        B_MV: F64 = np.zeros((m, m))
        B_MV[pairs[:, 0], pairs[:, 1]] = B_MV[pairs[:, 1], pairs[:, 0]] = 1.0
        degree_V = B_MV.sum(axis=0)
        return plan_of(problem, plan_id, expand(B_MV / np.maximum(degree_V, 1.0), workers, problem, self.name))

    def lacking(self, usable: int) -> str | None:
        """See `BaseCode.lacking`."""
        return less_than_asked(self.name, "r", self.r, usable - 1, usable)

    def open(self, plan: Plan, terms: StepTerms) -> Decoder:
        """Pseudo-inverse over the arrived."""
        return LeastSquares(plan)
