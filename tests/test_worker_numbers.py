"""Workers are counted 1 to n in every text, table and file; numbers from 0 are an array's index."""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_array

from gcdist.coding.loads import late_table
from gcdist.coding.workers import equal_bits, miss_at
from gcdist.planning import check_plan
from gcdist.types import F64, Mask, Plan, Problem

# what is formatted behind "worker " in a text without "rank" or "+ 1": it counts from 1 (or is no number)
FROM_1 = {
    "each.worker",  # WorkerRound
    "me.worker",  # WorkerFigures of the report
    "worst.worker",
    "seconds_text(fast)",  # "of the median worker 0.2 s"
    "worker",  # of observe.tensorboard: ranks of a record
    "dies['worker']",  # of a fault's table
    "held.version",  # "this worker has version ..."
    "self._name",  # rank1, rank2, ...
    "'' if rank is None else rank",
}


def texts() -> list[tuple[str, str]]:
    """(place, expression) of every value that stands behind the word worker in an f-string."""
    spec = find_spec("gcdist")
    assert spec is not None
    assert spec.origin is not None
    found = []
    for path in sorted(Path(spec.origin).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.JoinedStr):
                continue
            for before, value in zip(node.values, node.values[1:], strict=False):
                if isinstance(before, ast.Constant) and isinstance(value, ast.FormattedValue):
                    behind = str(before.value).lower().endswith(("worker ", "workers "))
                    found += [(f"{path}:{node.lineno}", ast.unparse(value.value))] if behind else []
    return found


def test_texts_name_workers_from_1() -> None:
    found = texts()
    assert len(found) > 15  # the scan sees them
    wrong = [each for each in found if not ("rank" in each[1] or "+ 1" in each[1] or each[1] in FROM_1)]
    assert not wrong


def problem(
    late_N: list[float], caps: list[float] | None = None, holds: Mask | None = None, bits: float = 8.0
) -> Problem:
    def late(worker: int, loads: F64) -> F64:
        return np.full(len(loads), late_N[worker])

    n = len(late_N)
    cap_N = np.full(n, np.inf) if caps is None else np.array(caps)
    noise = np.array([np.inf, 1.0, 0.2, 0.05, 0.01])
    return Problem(
        np.full(2, 0.5), late, noise, bits, np.full(n, 4), cap_N, None if holds is None else csr_array(holds)
    )


def plan_of(A: list[list[float]]) -> Plan:
    A_RK = csr_array(np.array(A))
    n = len(A)
    return Plan(0, A_RK, np.arange(n), np.full((n, 1), 4, np.uint8), np.full(n, 0.1), np.ones(2, np.bool_))


def test_an_error_about_index_0_says_worker_1() -> None:
    with pytest.raises(ValueError, match=r"p of worker 1 at load 1 is 1\.5"):
        miss_at(problem([1.5, 0.1]), 1.0)
    with pytest.raises(ValueError, match=r"p of worker 1 leaves \[0, 1\]"):
        late_table(problem([-0.5, 0.1]))
    with pytest.raises(ValueError, match="worker 1 gets no bits"):
        equal_bits(problem([0.1, 0.1], bits=1.0), np.array([True, True]))
    with pytest.raises(ValueError, match="worker 1 has 2 partitions, its load cap is 1"):
        check_plan(plan_of([[0.5, 0.5], [0.5, 0.5]]), problem([0.1, 0.1], caps=[1.0, 2.0]), unbiased=True)
    holds = np.array([[True, False], [True, True]])
    with pytest.raises(ValueError, match="worker 1 is given partition 1, which it cannot read"):
        check_plan(plan_of([[0.5, 0.5], [0.5, 0.5]]), problem([0.1, 0.1], holds=holds), unbiased=True)
