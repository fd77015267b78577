"""Mean seconds of a step against the exact sum over the outcomes of its rows."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gcdist.planning.step_seconds import StepSeconds
from gcdist.straggler.order import quantile
from gcdist.types import F64


def exact(rows_n: list[tuple[F64, F64]], tau: float) -> float:
    """E[min(tau, longest)] of independent rows with these times and chances: the maximum's chance of each time."""
    times = np.unique(np.concatenate([time_T for time_T, _ in rows_n]))
    below_S = np.ones(len(times))
    for time_T, weight_T in rows_n:
        below_S *= [weight_T[time_T <= time].sum() for time in times]
    return float(np.sum(np.minimum(times, tau) * np.diff(below_S, prepend=0.0)))


@pytest.mark.parametrize("seed", range(20))
def test_seconds_of_a_step_are_those_of_the_sum_over_all_outcomes(seed: int) -> None:
    """Workers that differ, rows that take a hundred times as long, loads of 0: within 5%, exact without a deadline."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 9))
    table_n, overhead_n = [], rng.uniform(0, 0.01, n)
    for _ in range(n):
        rows = int(rng.integers(1, 100))
        start_T, pace_T = rng.exponential(1.0, (2, rows)) * rng.choice([0.1, 1.0, 10.0])
        start_T[rng.random(rows) < 0.05] *= 100
        table_n.append((start_T, pace_T, rng.dirichlet(np.ones(rows))))
    load_n = rng.integers(0, 9, n)
    load_n[0] = 8
    tau_G = np.append(np.sort(rng.uniform(0.1, 40.0, 10)), math.inf)
    found = StepSeconds(table_n, overhead_n, tau_G)
    rows_n = [
        (overhead_n[i] + start_T + pace_T * (load_n[i] - 1), weight_T)
        for i, (start_T, pace_T, weight_T) in enumerate(table_n)
        if load_n[i]
    ]
    for g, tau in enumerate(tau_G):
        assert found.mean(load_n, g) == pytest.approx(
            exact(rows_n, tau), rel=0.05 if tau < math.inf else 1e-9, abs=0.02
        )


def test_without_a_row_a_step_takes_no_time() -> None:
    one = np.ones(1)
    assert StepSeconds([(one, one, one)], np.zeros(1), np.array([1.0, math.inf])).mean(np.zeros(1, np.int64), 1) == 0


@pytest.mark.parametrize("size", [1, 2, 7, 100])
def test_quantiles_are_those_of_numpy(size: int) -> None:
    value_T = np.random.default_rng(size).exponential(size=size)
    for share in (0.0, 0.3, 0.5, 0.98, 1.0):
        assert quantile(value_T, share) == pytest.approx(float(np.quantile(value_T, share)))
