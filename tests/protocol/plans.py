"""Random plans, and a decoder whose weights are fixed when its step opens."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from random import Random

import numpy as np
from scipy.sparse import csr_array

from gcdist.protocol import Hello
from gcdist.types import F64, Closing, Mask, Plan, Use

PARTITIONS = 6
DIMENSION = 3
HELLO = Hello("master", 1, "0.1", "model", 100, "config")
Rows = list[tuple[int, int, dict[int, float]]]  # per row: owner, bits, coefficients by partition


def make_plan(plan_id: int, rows: Rows, partitions: int = PARTITIONS, trained: tuple[int, ...] | None = None) -> Plan:
    """A plan of rows (owner, bits, {partition: coefficient}); a row without partitions is not assigned."""
    A_RK = csr_array(
        (
            np.array([a for _, _, parts in rows for a in parts.values()]),
            np.array([j for _, _, parts in rows for j in parts], np.int32),
            np.cumsum([0] + [len(parts) for _, _, parts in rows]),
        ),
        shape=(len(rows), partitions),
    )
    worker_R = np.array([owner for owner, _, _ in rows], np.int64)
    bits_RS = np.array([[bits] for _, bits, _ in rows], np.uint8)
    return Plan(plan_id, A_RK, worker_R, bits_RS, np.full(len(rows), 0.1), np.ones(partitions, bool), trained)


@cache
def plans_for(n: int) -> tuple[Plan, ...]:
    """Plans that follow one another: rows move, vanish, come back, become probes; their number changes; the vector grows."""
    rng = Random(n)

    def row(owner: int) -> tuple[int, int, dict[int, float]]:
        picked = rng.sample(range(PARTITIONS), rng.choice((0, 1, 1, 2, 2, 3)))
        return owner, rng.choice((0, 4, 4, 4, 4)), {j: rng.uniform(0.1, 1) for j in sorted(picked)}

    rows = [row(i) for i in range(n)]
    plans = []
    trained: tuple[int, ...] | None = None
    for plan_id in range(48):
        for _ in range(rng.randrange(3)):
            i = rng.randrange(len(rows))
            rows[i] = rng.choice((row(rows[i][0]), row(rng.randrange(n)), (rng.randrange(n), *rows[i][1:])))
        if rng.random() < 0.2:
            rows = rows[:-1] if len(rows) > n else [*rows, row(rng.randrange(n))]
        if rng.random() < 0.15:
            trained = (*(trained or (0,)), plan_id + 1)
        plans.append(replace(make_plan(plan_id, list(rows), trained=trained), partial=rng.random() < 0.5))
    return tuple(plans)


class Weighing:
    """A decoder with weights and betas fixed when the step opens; some rows are kept packed until the close."""

    def __init__(self, weight_R: F64, counted_R: Mask, beta_R: F64, late_beta: float, keep: frozenset[int]) -> None:
        self.weight_R, self.counted_R, self.beta_R = weight_R, counted_R, beta_R
        self.late_beta, self.keep = late_beta, keep
        self._missing = int(counted_R.sum())
        self._empty = self._missing == 0
        self._kept: list[tuple[int, float]] = []

    def fresh(self) -> Weighing:
        """The same, before anything arrived."""
        return Weighing(self.weight_R, self.counted_R, self.beta_R, self.late_beta, self.keep)

    def arrive(self, row: int) -> Use:
        """Weight and beta of the row."""
        if not self.counted_R[row]:
            return Use(0.0)
        self._missing -= 1
        if row in self.keep:
            self._kept.append((row, float(self.weight_R[row])))
            return Use(None, float(self.beta_R[row]))
        return Use(float(self.weight_R[row]), float(self.beta_R[row]))

    def late(self, row: int, age: int) -> Use:
        """Moves the shift alone."""
        assert age >= 1
        return Use(0.0, self.late_beta)

    def complete(self) -> bool:
        """All rows are in that the estimate can use."""
        return self._missing == 0 and not self._empty

    def close(self) -> Closing:
        """The kept rows get their weights."""
        return Closing(kept=tuple(self._kept))
