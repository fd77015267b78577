"""When a run says that it waited for data."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gcdist.exchange.sidecar import Sidecar
from gcdist.master.data_account import DataAccount


def result(rows: list[tuple[float, float]], seconds: float, covered: tuple[bool, ...] = (True, True)) -> Any:
    losses = np.array([[0.0, 1.0, 0.5]])
    counted = [SimpleNamespace(sidecar=Sidecar(losses, data_seconds=d, compute_seconds=c)) for d, c in rows]
    return SimpleNamespace(counted=counted, seconds=seconds, plan=SimpleNamespace(covered_K=np.array(covered)))


@pytest.mark.parametrize(
    ("prefetch", "data", "compute", "seconds", "steps", "line"),
    [
        (0, 0.4, 0.6, 1.0, 60, "waiting for data took 40% of the workers' time: set data.prefetch = 4"),
        (4, 0.4, 0.6, 1.0, 60, "waiting for data took 40% of the workers' time in spite of data.prefetch = 4"),
        (0, 0.1, 0.6, 1.0, 60, None),  # a sixth of the computing
        (0, 0.01, 0.01, 1.0, 600, None),  # the steps last much longer
        (0, 0.4, 0.6, 1.0, 40, None),  # too few steps to tell
        (0, 0.004, 0.006, 0.01, 60, None),  # a quarter of a second in all
    ],
)
def test_waiting_is_told_where_it_matters(
    prefetch: int, data: float, compute: float, seconds: float, steps: int, line: str | None
) -> None:
    account = DataAccount(prefetch)
    account.add(result([], 5.0), local=False)
    for _ in range(steps):
        account.add(result([(2 * data, 2 * compute), (0.0, 0.0)], seconds), local=False)
    assert account.notes() == ([line] if line else [])


def test_what_was_left_out_is_told_and_kept() -> None:
    account = DataAccount(0)
    account.add(result([(0.0, 1.0)], 1.0), local=True)
    account.add(result([(1.0, 1.0)], 1.0, (True, False)), local=False)
    again = DataAccount(0)
    again.load_state_dict(account.state_dict())
    assert again.notes() == account.notes()
    assert account.notes() == [
        "partitions [1] were left out in up to 1 of 2 steps: nobody who was here could read them",
        "what waiting for all would take is not estimated: not every worker can read every partition",
    ]
