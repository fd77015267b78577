"""The predictor: unbiased for every m, straggler error |g - m|^2/F where partitions agree."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from gcdist.coding import get_code
from gcdist.coding.decoders import Predicting
from gcdist.planning import make_plan
from gcdist.types import F64, Problem, StepTerms
from tests.reference.errors import predictor_error


@pytest.mark.parametrize("aligned", [True, False])
def test_predictor_by_enumeration(aligned: bool) -> None:
    rng = np.random.default_rng(6)
    p = np.array([0.1, 0.4, 0.2, 0.6])

    def late(worker: int, loads: F64) -> F64:
        return np.full(len(loads), p[worker])

    task = Problem(np.full(6, 1 / 6), late, np.array([np.inf, 0.0]), 4.0, np.full(4, 1), np.full(4, np.inf))
    code = get_code("osgc", decoding="predictor")
    plan = make_plan(code, task, 0)
    g_KD = np.tile(rng.normal(size=3), (6, 1)) if aligned else rng.normal(size=(6, 3))
    v, m = plan.A_RK @ g_KD, rng.normal(size=3)
    mean, error = np.zeros(3), 0.0
    for pattern in itertools.product([False, True], repeat=4):
        decoder = code.open(plan, StepTerms(1.0, p))
        assert isinstance(decoder, Predicting)
        ghat = np.zeros(3)
        for row in np.flatnonzero(pattern):
            weight = decoder.arrive(int(row)).weight
            assert weight is not None
            ghat += weight * v[row]
        ghat += decoder.close().predicted * m
        chance = float(np.prod(np.where(pattern, 1 - p, p)))
        mean, error = mean + chance * ghat, error + chance * float(((ghat - g_KD.sum(axis=0)) ** 2).sum())
    np.testing.assert_allclose(mean, g_KD.sum(axis=0), atol=1e-12)
    assert predictor_error(plan, p, np.zeros(4), v, m) == pytest.approx(error, rel=1e-12)
    if aligned:
        gap = g_KD.sum(axis=0) - m
        assert error == pytest.approx(gap @ gap / ((1 - p) / p).sum(), rel=1e-12)
