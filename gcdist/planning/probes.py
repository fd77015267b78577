"""Rows that are only timed: of workers that a plan leaves without work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from scipy.sparse import csr_array

from gcdist.types import Mask, Plan


def with_probes(plan: Plan, live_N: Mask, holds: Mapping[int, Sequence[int]]) -> Plan:
    """Give every live worker without a row one partition to compute and time, with coefficient 0 and no bits.

    Without it nothing would be seen of the worker, and it could never come back into the plan.
    """
    idle = np.flatnonzero((np.diff(plan.A_RK.indptr) == 0) & live_N[plan.worker_R])
    if idle.size == 0:
        return plan
    k = plan.A_RK.shape[1]
    A_RK = plan.A_RK.tocoo()
    rows = np.concatenate([A_RK.row, idle])
    able = [holds.get(int(worker), range(k)) for worker in plan.worker_R[idle]]
    probed = [parts[int(row + plan.plan_id) % len(parts)] for row, parts in zip(idle, able, strict=True)]
    columns = np.concatenate([A_RK.col, probed])
    values = np.concatenate([A_RK.data, np.zeros(idle.size)])
    # rows in order: a csr array built from sorted triples keeps the explicit zeros
    order = np.lexsort((columns, rows))
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=plan.rows))])
    A_RK = csr_array((values[order], columns[order], indptr), shape=plan.A_RK.shape)
    return replace(plan, A_RK=A_RK)
