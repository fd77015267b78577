"""Load-aware planning: the promise is the simulated noise, and the load-blind plan beside it loses nearly everything."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from gcdist.coding import get_code, loads_and_bits
from gcdist.coding.loads import (
    best_loads,
    bits_for_rows,
    late_table,
    load_costs,
    loads_by_derivative,
)
from gcdist.coding.loads_and_bits import plan_loads_and_bits
from gcdist.coding.optimal import row_costs
from gcdist.planning import make_plan, noise_ratio, plan_figures
from gcdist.types import F64, Plan, Problem, StepTerms
from tests.reference.designs import loads_by_slope

NOISE = np.append(np.inf, 0.5 / (2.0 ** np.arange(1, 9) - 1) ** 2)


def shifted(s_N: F64, mu_N: F64, deadline: float, k: int, bits: float) -> Problem:
    """Work of load l takes ``l s + Exp(mean l/mu)``."""
    n = len(s_N)

    def late(worker: int, loads: F64) -> F64:
        p_L: F64 = np.exp(-mu_N[worker] * np.maximum(deadline / loads - s_N[worker], 0.0))
        return p_L

    return Problem(np.full(k, 1 / k), late, NOISE, bits, np.full(n, 8), np.full(n, np.inf))


def eight(rng: np.random.Generator) -> Problem:
    return shifted(rng.uniform(0.5, 1.5, 8), rng.uniform(0.5, 4.0, 8), 12.0, 32, 32.0)


def simulated_noise(name: str, plan: Plan, task: Problem, rng: np.random.Generator, draws: int) -> tuple[float, float]:
    """Mean and standard error of |ghat - g|^2/|g|^2 for partitions that agree, arrivals at the real loads."""
    load_R = np.diff(plan.A_RK.indptr).astype(np.float64)
    p_R = np.array([task.late(i, np.maximum(load_R[i : i + 1], 1.0))[0] for i in range(task.n)])
    code, k = get_code(name), task.k
    decoder = code.open(plan, StepTerms(12.0, plan.p_R))
    weight_R = np.array([decoder.arrive(r).weight for r in range(plan.rows)], np.float64)
    share_R = np.asarray(plan.A_RK.sum(axis=1)).ravel() / k
    here = rng.random((draws, task.n)) >= p_R
    omega_R = np.where(plan.weighted_R(), task.noise[plan.bits_RS[:, 0]], 0.0)
    rounding = rng.normal(size=(draws, task.n)) * np.sqrt(omega_R)
    error = np.square((here * weight_R * (1 + rounding)) @ share_R - 1)
    return float(error.mean()), float(error.std() / np.sqrt(draws))


@pytest.mark.parametrize("name", ["osgc", "joint"])
@pytest.mark.parametrize("seed", range(4))
def test_the_promised_noise_is_the_simulated_noise(name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    task = eight(rng)
    plan = make_plan(get_code(name), task, 0)
    assert plan.A_RK.nnz == 32
    promised = noise_ratio(plan, task)
    seen, error = simulated_noise(name, plan, task, rng, 400_000)
    assert error < 0.02 * seen
    assert seen == pytest.approx(promised, rel=0.1)


def test_the_load_blind_plan_loses_nearly_everything() -> None:
    # math section 4: worker 0 is nearly never late at the load of an equal split, so it is given nearly everything
    task = shifted(np.array([0.35] + [0.9] * 7), np.array([3.5] + [1.0] * 7), 12.0, 32, 64.0)
    blind = make_plan(get_code("osgc", load_aware=False), task, 0)
    aware = make_plan(get_code("osgc"), task, 0)
    rng = np.random.default_rng(8)
    assert noise_ratio(blind, task) < 1e-3
    assert np.diff(blind.A_RK.indptr)[0] >= 30
    lost, _ = simulated_noise("osgc", blind, task, rng, 20_000)
    assert lost > 0.9
    seen, _ = simulated_noise("osgc", aware, task, rng, 400_000)
    assert seen == pytest.approx(noise_ratio(aware, task), rel=0.1)
    assert seen < lost / 5


def test_loads_are_optimal_by_brute_force() -> None:
    rng = np.random.default_rng(9)
    for _ in range(50):
        task = shifted(rng.uniform(0.3, 1.5, 3), rng.uniform(0.3, 4.0, 3), 8.0, 9, 24.0)
        cost = load_costs(late_table(task), rng.uniform(0, 0.5, 3))
        sums = {
            at: sum(cost[i, x] for i, x in enumerate(at))
            for at in itertools.product(range(10), repeat=3)
            if sum(at) == 9
        }
        best = min(sums.values())
        found = best_loads(cost, 9)
        assert cost[np.arange(3), found].sum() == pytest.approx(best)
        assert found.sum() == 9
        sloped = loads_by_derivative(cost, 9)
        assert sloped.sum() == 9
        assert cost[np.arange(3), sloped].sum() <= 1.3 * best


def least_by_brute_force(task: Problem) -> float:
    n, k, B = task.n, task.k, int(task.bits_total)
    p_NL, best = late_table(task), np.inf
    for loads in itertools.product(range(k + 1), repeat=n):
        if sum(loads) != k:
            continue
        for bits in itertools.product(range(min(B, len(task.noise) - 1) + 1), repeat=n):
            if sum(bits) <= B:
                h = load_costs(p_NL, task.noise[list(bits)])[np.arange(n), list(loads)]
                best = min(best, float(h.sum()))
    return best


def test_loads_and_bits_against_brute_force(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(10)
    for trial in range(20):
        k = 2 + trial % 4
        task = shifted(rng.uniform(0.3, 1.0, 3), rng.uniform(0.5, 4.0, 3), 8.0, k, 7.0)
        best = least_by_brute_force(task)
        found = plan_loads_and_bits(task)
        assert found.load_N.sum() == k
        assert found.bits_N.sum() <= 7
        assert found.noise == pytest.approx(best, rel=1e-9)
        assert found.bound == found.noise
        # by a price of bits, as beyond EXACT_WORK: not the optimum, but the bound holds
        monkeypatch.setattr(loads_and_bits, "EXACT_WORK", 0.0)
        priced = plan_loads_and_bits(task)
        monkeypatch.undo()
        assert priced.bound <= best * (1 + 1e-9) <= priced.noise * (1 + 2e-9)


def test_a_price_of_bits_is_near_its_bound_with_more_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(13)
    monkeypatch.setattr(loads_and_bits, "EXACT_WORK", 0.0)
    for n, k in ((16, 32), (30, 90)):
        task = shifted(rng.uniform(0.3, 1.0, n), rng.uniform(0.5, 4.0, n), 8.0, k, 3.0 * n)
        found = plan_loads_and_bits(task)
        assert 0 < found.bound <= found.noise <= 1.1 * found.bound


def test_the_certificate_of_loads_is_of_loads_and_bits_together() -> None:
    task = eight(np.random.default_rng(14))
    figures = plan_figures(get_code("joint"), task).figures
    assert figures["solver"] == "loads"
    assert figures["gap"] == pytest.approx(0, abs=1e-9 * (figures["F"] or 0))


def test_the_common_slope_is_the_limit_of_fine_partitions() -> None:
    rng = np.random.default_rng(11)
    s_N, mu_N, omega_N = rng.uniform(0.3, 1.0, 4), rng.uniform(0.5, 4.0, 4), np.full(4, 0.05)

    def late(worker: int, loads: F64) -> F64:
        p_L: F64 = np.exp(-mu_N[worker] * np.maximum(10.0 / loads - s_N[worker], 0.0))
        return p_L

    Y, p = loads_by_slope(late, omega_N, 12.0)
    assert Y.sum() == pytest.approx(12)
    value = float(np.sum(Y**2 * row_costs(p, omega_N)))
    fine = 600
    task = shifted(s_N, mu_N, 10.0 * fine / 12, fine, 16.0)
    cost = load_costs(late_table(task), omega_N)
    coarse = float(cost[np.arange(4), best_loads(cost, fine)].sum()) * (12 / fine) ** 2
    assert value <= coarse * (1 + 1e-9)
    assert value == pytest.approx(coarse, rel=1e-3)


def test_full_and_replicated_promise_at_their_own_load() -> None:
    rng = np.random.default_rng(12)
    task = shifted(rng.uniform(0.5, 1.5, 8), rng.uniform(0.5, 4.0, 8), 60.0, 32, 32.0)
    for name in ("full", "replicated:2"):
        plan = make_plan(get_code("joint", allocation=name), task, 0)
        load_R = np.diff(plan.A_RK.indptr).astype(np.float64)
        for r in np.flatnonzero(load_R):
            assert plan.p_R[r] == pytest.approx(task.late(int(r), load_R[r : r + 1])[0])


def test_bits_for_fixed_rows() -> None:
    task = shifted(np.ones(3), np.ones(3), 8.0, 3, 9.0)
    weight = np.array([4.0, 0.0, 1.0])
    found = bits_for_rows(weight, task)
    best = min(4 * NOISE[a] + NOISE[b] for a in range(1, 9) for b in range(1, 9) if a + b <= 9)
    assert 4 * NOISE[found[0]] + NOISE[found[2]] == pytest.approx(best)
    with pytest.raises(ValueError, match="pays for less than 1 bits on 3 rows"):
        bits_for_rows(np.ones(3), shifted(np.ones(3), np.ones(3), 8.0, 3, 2.0))


def test_hopeless_loads_are_an_error() -> None:
    with pytest.raises(ValueError, match="no loads that sum to 32"):
        make_plan(get_code("osgc", load_aware=True), shifted(np.full(8, 9.0), np.ones(8), 12.0, 32, 64.0), 0)
