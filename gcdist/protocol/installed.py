"""The newest plan as the master machine uses it, row by row and worker by worker."""

from __future__ import annotations

from dataclasses import dataclass

from gcdist.protocol.messages import Assignment, Head
from gcdist.protocol.order import Part, partition_order
from gcdist.types import Plan


@dataclass(frozen=True, slots=True, eq=False)
class Installed:
    """A plan, and what is asked of it for every message."""

    plan: Plan
    weighted: list[bool]  # (R,) rows that carry bits and data: what can be counted
    assignments: dict[int, Assignment]  # by index: each worker's rows
    loads: dict[int, dict[int, int]]  # by index: partitions of each of the worker's rows

    @staticmethod
    def of(plan: Plan) -> Installed:
        """The parts of a plan; workers without a row have no assignment."""
        rows_of: dict[int, list[int]] = {}
        parts = {}
        for row in range(plan.rows):
            parts[row] = plan.parts(row)
            if parts[row]:
                rows_of.setdefault(int(plan.worker_R[row]), []).append(row)
        assignments = {
            worker: Assignment(
                tuple(rows),
                tuple(parts[r] for r in rows),
                tuple(tuple(int(b) for b in plan.bits_RS[r]) for r in rows),
                plan.trained,
                plan.partial,
                plan.beta_R is not None and bool(plan.beta_R[rows].any()),
            )
            for worker, rows in rows_of.items()
        }
        loads = {worker: {row: len(parts[row]) for row in rows} for worker, rows in rows_of.items()}
        return Installed(plan, plan.weighted_R().tolist(), assignments, loads)

    def owns(self, worker: int, row: int) -> bool:
        """Whether this row of the worker's can be counted."""
        return row < self.plan.rows and int(self.plan.worker_R[row]) == worker and self.weighted[row]

    def keeps_shift(self, worker: int, row: int) -> bool:
        """Whether a shift of this row, held by this worker, stays: a row that is only timed sends nothing against it."""
        beta_R = self.plan.beta_R
        return self.owns(worker, row) and (beta_R is None or bool(beta_R[row] > 0))

    def parts_in(self, seed: int, head: Head) -> tuple[Part, ...]:
        """The content of a message of this plan: the partitions done, in order, with coefficients."""
        parts = self.plan.parts(head.row)
        return partition_order(seed, head.step, head.row, parts)[: head.done] if self.plan.partial else parts
