"""Fractional repetition: groups of workers that all compute the same block (Tandon et al. 2017; ErasureHead)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gcdist.coding.base import BaseCode
from gcdist.coding.blocks import expand, less_than_asked, plan_of, redundancy, usable_workers
from gcdist.types import Closing, Decoder, Plan, Problem, StepTerms, Use


class FirstOfGroup:
    """The first arrival of each group counts, later ones are 0; complete when all groups, or ``stop`` rows, are in.

    A group of G rows has coefficients 1/G and the weight G, so that columns of A sum to 1.
    """

    def __init__(self, plan: Plan, stop: int | None = None) -> None:
        counted_R = plan.weighted_R()
        first_R = np.full(plan.rows, -1)
        first_R[counted_R] = plan.A_RK.indices[plan.A_RK.indptr[:-1][counted_R]]
        self._group = first_R  # groups hold disjoint blocks: the first partition names them
        names, size = np.unique(first_R[counted_R], return_counts=True)
        self._size = dict(zip(names.tolist(), size.tolist(), strict=True))
        self._open = set(self._size)
        self._stop, self._arrived, self._any = stop, 0, bool(self._open)

    def arrive(self, row: int) -> Use:
        """The group's size for its first arrival, else 0."""
        group = int(self._group[row])
        if group < 0:
            return Use(0.0)
        self._arrived += 1
        if group not in self._open:
            return Use(0.0)
        self._open.remove(group)
        return Use(float(self._size[group]))

    def late(self, row: int, age: int) -> Use:
        """Nothing."""
        return Use(0.0)

    def complete(self) -> bool:
        """All groups are in, or as many workers as the rule waits for."""
        stopped = self._stop is not None and self._arrived >= self._stop
        return self._any and (not self._open or stopped)

    def close(self) -> Closing:
        """The plain sum."""
        return Closing()


def _design(problem: Problem, plan_id: int, name: str, groups: int) -> Plan:
    workers = usable_workers(problem, name)
    group_M = np.arange(len(workers)) * groups // len(workers)
    B_MV = np.zeros((len(workers), groups))
    B_MV[np.arange(len(workers)), group_M] = (1 / np.bincount(group_M))[group_M]
    return plan_of(problem, plan_id, expand(B_MV, workers, problem, name))


@dataclass(frozen=True, slots=True)
class FractionalRepetition(BaseCode):
    """Exact from every pattern of s stragglers; s + 1 must divide the number of workers. Waits until decodable.

    While workers are missing, groups have s + 1 workers or one more (our choice: it stays exact from every such pattern).
    """

    s: int = 1

    name: ClassVar[str] = "frc"
    waits: ClassVar[bool] = True
    unbiased: ClassVar[bool] = True

    def design(self, problem: Problem, plan_id: int) -> Plan:
        """n/(s+1) groups of s + 1 workers."""
        workers = usable_workers(problem, self.name)
        usable = len(workers)
        text = f"frc needs s + 1 to divide the {usable} usable workers: s = {self.s} does not"
        if self.s < 0 or (usable == problem.n and usable % (self.s + 1)):
            raise ValueError(text)
        s = redundancy(self.s, 0, usable - 1, problem, workers, text)
        return _design(problem, plan_id, self.name, usable // (s + 1))

    def lacking(self, usable: int) -> str | None:
        """See `BaseCode.lacking`."""
        return less_than_asked(self.name, "s", self.s, usable - 1, usable)

    def open(self, plan: Plan, terms: StepTerms) -> Decoder:
        """First of each group; complete when every group is in."""
        return FirstOfGroup(plan)


@dataclass(frozen=True, slots=True)
class ErasureHead(BaseCode):
    """A plain sum of the first arrivals of groups of about r workers; a group that misses the close biases it to zero.

    ``stop``: close after that many workers (None: when all groups are in, or at the deadline).
    """

    r: int = 2
    stop: int | None = None

    name: ClassVar[str] = "erasurehead"

    def design(self, problem: Problem, plan_id: int) -> Plan:
        """About n/r groups of equal size (within one)."""
        if self.r < 1:
            raise ValueError(f"erasurehead needs r of 1 or more, not {self.r}")
        return _design(problem, plan_id, self.name, max(1, len(usable_workers(problem, self.name)) // self.r))

    def open(self, plan: Plan, terms: StepTerms) -> Decoder:
        """First of each group."""
        return FirstOfGroup(plan, self.stop)
