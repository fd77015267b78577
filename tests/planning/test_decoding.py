"""Errors of whole schemes: formulas against simulation through the decoders, and the choice of decoding."""

from __future__ import annotations

import numpy as np
import pytest

from gcdist.coding import get_code
from gcdist.planning import make_plan
from gcdist.planning.decoding import best_decoding
from gcdist.planning.schemes import known_error, scheme_error
from gcdist.types import F64, Problem


def problem(p: F64, k: int) -> Problem:
    def late(worker: int, loads: F64) -> F64:
        return np.full(len(loads), p[worker])

    n = len(p)
    noise = np.append(np.inf, 2.0 / (2.0 ** np.arange(1, 9) - 1) ** 2)
    return Problem(np.full(k, 1 / k), late, noise, 4.0 * n, np.full(n, 8), np.full(n, np.inf))


@pytest.mark.parametrize("name", ["osgc", "joint", "sgc", "self-normalised", "sync"])
@pytest.mark.parametrize("zeta2", [0.0, 2.0])
def test_formulas_agree_with_simulation(name: str, zeta2: float) -> None:
    task = problem(np.random.default_rng(1).uniform(0.05, 0.6, 10), 20)
    code = get_code(name)
    plan = make_plan(code, task, 0)
    seen = scheme_error(code, plan, task, zeta2, draws=4000, seed=2)
    known = known_error(code, plan, task, zeta2)
    assert known is not None
    # 5 standard errors, below 1e-6 a case
    assert abs(seen.ratio - known) <= 5 * seen.error + 1e-12


def test_self_normalised_wins_where_partitions_agree_and_may_lose_where_they_differ() -> None:
    rng = np.random.default_rng(3)
    p = np.exp(-rng.uniform(0.01, 2.0, 50) * 0.1)
    task = problem(p, 50)
    plan = make_plan(get_code("joint"), task, 0)
    agree, differ = best_decoding(plan, task, 0.0), best_decoding(plan, task, 300.0)
    assert agree.best == "self-normalised"
    assert agree.self_normalised is not None
    assert agree.self_normalised < agree.inverse
    assert differ.best == "inverse"
    assert "zeta^2" in differ.why


def test_a_good_prediction_is_chosen() -> None:
    task = problem(np.array([0.3, 0.4, 0.5]), 6)
    plan = make_plan(get_code("joint"), task, 0)
    poor, good = (best_decoding(plan, task, 0.0, prediction2=x) for x in (1.0, 0.0))
    assert poor.predictor == pytest.approx(poor.inverse)
    assert good.predictor is not None
    assert good.predictor < poor.inverse


def test_decodings_for_a_worker_often_alone() -> None:
    task = problem(np.array([0.0, 0.9]), 2)
    plan = make_plan(get_code("osgc"), task, 0)
    assert best_decoding(plan, task, 0.0).self_normalised is not None
