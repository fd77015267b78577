"""Self-normalised decoding: bias and error by enumeration and by Monte Carlo, through the real decoder."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from gcdist.coding import get_code
from gcdist.coding.optimal import row_costs, row_sums
from gcdist.coding.selfnorm import expectations, self_normalised_error, solve
from gcdist.coding.supports import chain
from gcdist.planning import make_plan
from gcdist.types import F64, Problem, StepTerms


def enumerated(a: F64, Y: F64, p: F64, k: float, v_ND: F64) -> tuple[F64, float]:
    """E ghat and E|ghat - g|^2 given an arrival, over all patterns; no quantization."""
    g, mean, error, some = v_ND.sum(axis=0), np.zeros(v_ND.shape[1]), 0.0, 0.0
    for pattern in itertools.product([0.0, 1.0], repeat=len(p)):
        here = np.array(pattern)
        if not here.any():
            continue
        chance = float(np.prod(np.where(here > 0, 1 - p, p)))
        ghat = k * (here * a) @ v_ND / (here * a * Y).sum()
        mean, error, some = mean + chance * ghat, error + chance * float(((ghat - g) ** 2).sum()), some + chance
    return mean / some, error / some


def test_unbiased_and_exact_error_by_enumeration() -> None:
    rng = np.random.default_rng(4)
    p, k = rng.uniform(0.05, 0.8, 8), 8.0
    Y = row_sums(row_costs(p), k)
    a = solve(Y, p, k)
    assert a is not None
    v = chain(Y, np.ones(8)) @ rng.normal(1, 1, (8, 3))
    mean, error = enumerated(a, Y, p, k, v)
    np.testing.assert_allclose(mean, v.sum(axis=0), atol=1e-10)
    assert self_normalised_error(a, Y, p, np.zeros(8), v @ v.T, k) == pytest.approx(error, rel=1e-9)
    aligned = np.outer(Y / k, np.array([1.0, 2.0]))
    assert self_normalised_error(a, Y, p, np.zeros(8), aligned @ aligned.T, k) == pytest.approx(0, abs=1e-10)


def test_edges_of_p() -> None:
    a = solve(np.array([2.0, 1.0]), np.array([0.0, 0.3]), 3.0)
    assert a is not None
    e, _ = expectations(a, np.array([2.0, 1.0]), np.array([0.0, 0.3]), 3.0)
    np.testing.assert_allclose(e, 1, atol=1e-10)
    # worker 1 is alone half of the time and would have to count for all: no weights exist
    assert solve(np.array([0.01, 0.99]), np.array([0.0, 0.5]), 1.0) is None
    assert solve(np.array([4.0]), np.array([0.4]), 4.0) is not None


def test_monte_carlo_through_the_decoder_at_n_50() -> None:
    rng = np.random.default_rng(5)
    n, omega = 50, 0.05
    p = np.exp(-rng.uniform(0.01, 2.0, n) * 0.1)

    def late(worker: int, loads: F64) -> F64:
        return np.full(len(loads), p[worker])

    task = Problem(np.full(n, 1 / n), late, np.array([np.inf, omega]), 1.0 * n, np.full(n, 1), np.full(n, np.inf))
    code = get_code("osgc", decoding="self-normalised")
    plan = make_plan(code, task, 0)
    Y = np.asarray(plan.A_RK.sum(axis=1)).ravel()
    g_KD = rng.normal(0.3, 1.0, (n, 4))
    v = plan.A_RK @ g_KD
    used = Y > 0
    a = solve(Y[used], p[used], float(n))
    assert a is not None
    expected = self_normalised_error(
        a, Y[used], p[used], np.full(used.sum(), omega), (v @ v.T)[np.ix_(used, used)], float(n)
    )
    draws, terms = 20_000, StepTerms(1.0, p)
    ghat = np.empty((draws, 4))
    for t in range(draws):
        decoder = code.open(plan, terms)
        ghat[t] = 0.0
        for row in np.flatnonzero(rng.random(n) >= p):
            weight = decoder.arrive(int(row)).weight
            assert weight is not None
            # a quantizer's error of the promised size, in a random direction
            rounding = rng.normal(size=4) * np.sqrt(omega / 4 * (v[row] @ v[row]))
            ghat[t] += weight * (v[row] + rounding)
        ghat[t] *= decoder.close().scale
    error = ((ghat - v.sum(axis=0)) ** 2).sum(axis=1)
    # 5 standard errors each: 5 statements, below 1e-5 together for one fixed seed
    assert abs(error.mean() - expected) < 5 * error.std() / np.sqrt(draws)
    bias = ghat.mean(axis=0) - v.sum(axis=0)
    assert np.all(np.abs(bias) < 5 * ghat.std(axis=0) / np.sqrt(draws))


def test_lost_rows_fall_back_to_inverse_weights() -> None:
    def late(worker: int, loads: F64) -> F64:
        return np.full(len(loads), 0.3)

    task = Problem(np.full(4, 0.25), late, np.array([np.inf, 0.1]), 4.0, np.full(4, 1), np.full(4, np.inf))
    code = get_code("self-normalised")
    plan = make_plan(code, task, 0)
    decoder = code.open(plan, StepTerms(1.0, np.array([0.5, 1.0, 0.5, 0.5])))
    assert decoder.arrive(0).weight == 2.0
    assert decoder.close().scale == 1.0


@pytest.mark.parametrize("decoding", ["self-normalised", "predictor"])
@pytest.mark.parametrize("sizes", [(0.4, 0.3, 0.2, 0.1), (0.25, 0.25, 0.25, 0.25)])
def test_partitions_of_any_size_that_agree_have_no_error(decoding: str, sizes: tuple[float, ...]) -> None:
    """By enumeration, given an arrival. With row sums in place of masses the first had 0.057 and 0.021 of |g|^2."""
    p, size_K = np.full(4, 0.3), np.array(sizes)

    def late(worker: int, loads: F64) -> F64:
        return np.full(len(loads), p[worker])

    task = Problem(size_K, late, np.array([np.inf, 0.0]), 4.0, np.full(4, 1), np.full(4, np.inf))
    code = get_code("osgc", decoding=decoding)
    plan = make_plan(code, task, 0)
    v_R = plan.A_RK @ size_K  # every partition's gradient is its size; the predicted one is right
    for pattern in itertools.product([False, True], repeat=4):
        if not any(pattern):
            continue
        decoder, ghat = code.open(plan, StepTerms(1.0, p)), 0.0
        for row in np.flatnonzero(pattern):
            weight = decoder.arrive(int(row)).weight
            assert weight is not None
            ghat += weight * v_R[row]
        closing = decoder.close()
        assert closing.scale * ghat + closing.predicted * 1.0 == pytest.approx(1.0, abs=1e-9)
