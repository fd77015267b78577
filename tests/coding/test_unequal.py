"""Partitions of different sizes: decoders go by masses, and what is promised is what enumeration gives."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from gcdist.coding import get_code
from gcdist.planning import make_plan
from gcdist.planning.schemes import known_error, scheme_error
from gcdist.types import F64, GradientCode, Plan, Problem, StepTerms

SIZES = np.array([0.4, 0.3, 0.2, 0.1])


def task(p: F64, size_K: F64 = SIZES) -> Problem:
    n = len(p)
    return Problem(
        size_K,
        lambda worker, loads: np.full(len(loads), p[worker]),
        np.append(np.inf, np.zeros(4)),
        4.0 * n,
        np.full(n, 4),
        np.full(n, np.inf),
    )


def gradients(zeta2: float, size_K: F64 = SIZES) -> F64:
    """g_j (K, K + 1) with |g| = 1 and deviations like independent ones: each has a direction of its own."""
    k = len(size_K)
    tau = np.sqrt(zeta2 / (1 - size_K @ size_K))
    xi = np.hstack([np.zeros((k, 1)), tau * np.eye(k)])
    delta = xi - size_K @ xi
    assert size_K @ np.square(delta).sum(axis=1) == pytest.approx(zeta2)
    return np.asarray(size_K[:, None] * (np.eye(1, k + 1) + delta), np.float64)


def enumerated(code: GradientCode, plan: Plan, g_KD: F64, m_D: F64) -> tuple[F64, float]:
    """E ghat and E|ghat - g|^2 over all patterns of arrivals, through the code's decoder; self-normalised: given one."""
    v, g, p = plan.A_RK @ g_KD, g_KD.sum(axis=0), plan.p_R
    mean, error, some = np.zeros(len(g)), 0.0, 0.0
    for pattern in itertools.product([False, True], repeat=plan.rows):
        if getattr(code, "decoding", "") == "self-normalised" and not any(pattern):
            continue
        decoder, ghat = code.open(plan, StepTerms(1.0, p)), np.zeros(len(g))
        for row in np.flatnonzero(pattern):
            ghat += (decoder.arrive(int(row)).weight or 0.0) * v[row]
        closing = decoder.close()
        ghat = closing.scale * ghat + closing.predicted * m_D
        chance = float(np.prod(np.where(pattern, 1 - p, p)))
        mean, error, some = mean + chance * ghat, error + chance * float(np.square(ghat - g).sum()), some + chance
    return mean / some, error / some


@pytest.mark.parametrize("zeta2", [0.0, 2.0])
@pytest.mark.parametrize("decoding", ["inverse", "self-normalised"])
def test_what_is_promised_is_what_enumeration_gives(decoding: str, zeta2: float) -> None:
    problem, g_KD = task(np.full(4, 0.3)), gradients(zeta2)
    code = get_code("osgc", decoding=decoding)
    plan = make_plan(code, problem, 0)
    mean, error = enumerated(code, plan, g_KD, np.zeros(5))
    np.testing.assert_allclose(mean, g_KD.sum(axis=0), atol=1e-9)
    assert known_error(code, plan, problem, zeta2) == pytest.approx(error, abs=1e-9)
    if decoding == "self-normalised" and zeta2 == 0:
        assert error == pytest.approx(0, abs=1e-9)  # 0.0570 when rows counted as their coefficients
    seen = scheme_error(code, plan, problem, zeta2, 20_000, 1)
    assert abs(seen.ratio - error) <= 5 * seen.error + 1e-9  # fixed seed; 5 sigmas: 6e-7


@pytest.mark.parametrize("seed", range(3))
def test_random_sizes_and_misses(seed: int) -> None:
    rng = np.random.default_rng(seed)
    size_K, p = rng.dirichlet(np.full(6, 2.0)), rng.uniform(0.05, 0.6, 4)
    problem, g_KD = task(p, size_K), gradients(1.0, size_K)
    for decoding in ("inverse", "self-normalised"):
        code = get_code("osgc", decoding=decoding)
        plan = make_plan(code, problem, 0)
        mean, error = enumerated(code, plan, g_KD, np.zeros(7))
        np.testing.assert_allclose(mean, g_KD.sum(axis=0), atol=1e-8)
        assert known_error(code, plan, problem, 1.0) == pytest.approx(error, rel=1e-8)


def test_a_predictor_of_the_gradient_leaves_no_straggler_noise() -> None:
    problem, g_KD = task(np.array([0.3, 0.1, 0.5, 0.2])), gradients(0.0)
    code = get_code("osgc", decoding="predictor")
    plan = make_plan(code, problem, 0)
    mean, error = enumerated(code, plan, g_KD, g_KD.sum(axis=0))
    np.testing.assert_allclose(mean, g_KD.sum(axis=0), atol=1e-12)
    assert error == pytest.approx(0, abs=1e-12)


def test_uncovered_partitions_are_left_out_of_the_mass() -> None:
    problem = task(np.full(4, 0.3))
    plan = make_plan(get_code("osgc", decoding="self-normalised"), problem, 0)
    assert plan.mass_R.sum() == pytest.approx(4)
    assert plan.mass_K == pytest.approx(4 * SIZES)
