"""Bit allocation: three solvers against brute force, the certificate, the papers' setting, degenerate budgets."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from gcdist.coding.bits import allocate_bits, gains
from gcdist.coding.bits_dp import dynamic_programme
from gcdist.coding.bits_envelope import envelope
from gcdist.types import F64, I64


def brute_force(p_N: F64, noise: F64, budget: int, cap_N: I64) -> float:
    gain_NW, width_W = gains(p_N, noise, cap_N)
    best = 0.0
    for at in itertools.product(range(len(width_W)), repeat=len(p_N)):
        if sum(int(width_W[w]) for w in at) <= budget:
            best = max(best, float(sum(gain_NW[i, w] for i, w in enumerate(at))))
    return best


def random_instance(rng: np.random.Generator) -> tuple[F64, F64, int, I64]:
    n, top = int(rng.integers(1, 5)), int(rng.integers(1, 5))
    noise = np.append(np.inf, np.sort(rng.exponential(10 ** rng.uniform(-3, 2), top))[::-1])
    noise[1:][rng.random(top) < 0.15] = np.inf  # widths that the quantizer does not take
    p_N = rng.choice([0.0, 1.0, 0.5, rng.random(), rng.random()], n)
    return p_N, noise, int(rng.integers(0, n * top + 3)), rng.integers(0, top + 1, n)


def test_solvers_agree_with_brute_force_and_the_gap_holds() -> None:
    rng = np.random.default_rng(1)
    for _ in range(3000):
        p_N, noise, budget, cap_N = random_instance(rng)
        best = brute_force(p_N, noise, budget, cap_N)
        for solver in ("dp", "envelope", "waterfill", "auto"):
            found = allocate_bits(p_N, noise, budget, cap_N, solver)
            assert found.bits_N.sum() <= budget
            assert np.all(found.bits_N <= cap_N)
            assert best * (1 + 1e-12) >= found.F
            assert found.F_upper >= best * (1 - 1e-12)
            if solver in ("dp", "auto"):
                assert pytest.approx(best, rel=1e-12) == found.F
                assert found.gap == 0
                assert found.solver == "dp"


def test_the_certificate_holds_at_every_budget() -> None:
    rng, cap_N = np.random.default_rng(4), np.full(50, 16)
    for budget in range(1, 400, 7):
        p_N, noise = papers_setting(rng)
        exact, fast = (allocate_bits(p_N, noise, budget, cap_N, solver) for solver in ("dp", "envelope"))
        assert fast.F <= exact.F * (1 + 1e-12) <= fast.F_upper * (1 + 2e-12)


def test_any_table_and_costs() -> None:
    # gains that fall with bits (p grows with upload time), and widths that cost overhead
    rng = np.random.default_rng(5)
    for _ in range(500):
        n, widths = int(rng.integers(1, 5)), int(rng.integers(2, 5))
        gain_NW = np.hstack([np.zeros((n, 1)), rng.normal(1, 1, (n, widths))])
        cost_W = np.append(0, 1 + rng.integers(1, 3, widths).cumsum())
        budget = int(rng.integers(1, 20))
        best = max(
            sum(gain_NW[i, w] for i, w in enumerate(at))
            for at in itertools.product(range(widths + 1), repeat=n)
            if sum(cost_W[w] for w in at) <= budget
        )
        at = np.arange(n)
        exact = gain_NW[at, np.searchsorted(cost_W, dynamic_programme(gain_NW, cost_W, budget))].sum()
        bits, upper = envelope(gain_NW, cost_W, budget)
        assert bits.sum() <= budget
        assert exact == pytest.approx(best, abs=1e-12)
        assert gain_NW[at, np.searchsorted(cost_W, bits)].sum() <= best + 1e-12 <= upper + 2e-12


def test_the_envelope_s_rest_is_spent_exactly_from_where_it_stands() -> None:
    # segments of 4 bits each; 3 bits are left, which only the 3-bit jump of worker 1 can use
    noise = np.array([np.inf, 1e9, 1e9, 3.0, 0.5])
    found = allocate_bits(np.array([0.1, 0.1]), noise, 7, np.array([4, 4]), "envelope")
    assert sorted(found.bits_N.tolist()) == [3, 4]


def papers_setting(rng: np.random.Generator) -> tuple[F64, F64]:
    p_N = np.exp(-rng.uniform(0.01, 2.0, 50) * 0.1)
    levels = 2.0 ** np.arange(1, 17) - 1
    return p_N, np.append(np.inf, 0.005 * p_N.mean() * 63**2 / levels**2)


def test_the_papers_setting() -> None:
    rng, cap_N = np.random.default_rng(2), np.full(50, 16)
    gap, reached = [], []
    for _ in range(100):
        p_N, noise = papers_setting(rng)
        exact = allocate_bits(p_N, noise, 250, cap_N, "dp")
        fast = allocate_bits(p_N, noise, 250, cap_N, "envelope")
        filled = allocate_bits(p_N, noise, 250, cap_N, "waterfill")
        assert fast.F <= exact.F * (1 + 1e-12) <= fast.F_upper * (1 + 2e-12)
        assert filled.F <= exact.F * (1 + 1e-12)
        gap.append(fast.gap / fast.F)
        reached.append(filled.F / exact.F)
    assert np.median(gap) <= 1e-4
    assert min(reached) >= 0.98


def test_short_budgets_are_solved_exactly_by_auto() -> None:
    rng, cap_N = np.random.default_rng(3), np.full(50, 16)
    for budget in (1, 10, 50):
        p_N, noise = papers_setting(rng)
        chosen = allocate_bits(p_N, noise, budget, cap_N)
        assert chosen.solver == "dp"
        assert chosen.F >= allocate_bits(p_N, noise, budget, cap_N, "envelope").F


def test_degenerate_budgets_and_workers() -> None:
    noise = np.array([np.inf, 1.0, 0.1])
    nothing = allocate_bits(np.array([0.1, 0.2]), noise, 0, np.array([2, 2]))
    assert (nothing.F, nothing.bits_N.tolist()) == (0.0, [0, 0])
    plenty = allocate_bits(np.array([0.1, 0.2]), noise, 1e9, np.array([2, 1]))
    assert plenty.bits_N.tolist() == [2, 1]
    assert allocate_bits(np.array([1.0, 0.2]), noise, 4, np.array([2, 2])).bits_N.tolist() == [0, 2]
    assert pytest.approx(10) == allocate_bits(np.array([0.0]), noise, 2, np.array([2])).F
    lost = allocate_bits(np.array([0.1]), np.array([np.inf, np.inf]), 5, np.array([1]))
    assert lost.F == lost.F_upper == 0


def test_workers_that_cost_nothing_are_used_alone() -> None:
    noise = np.array([np.inf, 1.0, 0.0])
    found = allocate_bits(np.array([0.3, 0.0, 0.0]), noise, 5, np.array([2, 2, 2]))
    assert (found.F, found.gap, found.bits_N.tolist()) == (np.inf, 0.0, [0, 2, 2])
    short = allocate_bits(np.array([0.3, 0.0]), noise, 1, np.array([2, 2]))
    assert short.bits_N.tolist() == [0, 1]


def test_concavity_limits_of_the_power_law() -> None:
    # section 3: concave on {1, 2, ..} iff D <= 11 p
    for D, concave in ((10.9 * 0.2, True), (11.1 * 0.2, False)):
        noise = np.append(np.inf, D / (2.0 ** np.arange(1, 9) - 1) ** 2)
        f, _ = gains(np.array([0.2]), noise, np.array([8]))
        assert np.all(np.diff(f[0, 1:], 2) <= 1e-12) == concave


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="did you mean 'dp'"):
        allocate_bits(np.array([0.1]), np.array([np.inf, 1.0]), 1, np.array([1]), "dpp")
    with pytest.raises(ValueError, match="bits_total is -1"):
        allocate_bits(np.array([0.1]), np.array([np.inf, 1.0]), -1, np.array([1]))
