"""Data allocations: sums, loads, signs, caps, holders, and their errors for differing partitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize
from scipy.sparse import csr_array

from gcdist.coding import get_code
from gcdist.coding.allocations import allocate, check_allocation, papers_chain, star
from gcdist.coding.errors import spectral_ratio, worst_error
from gcdist.coding.flow import capped_row_sums, held_row_sums, least_noise
from gcdist.coding.optimal import row_costs, row_sums, total_gain
from gcdist.planning import make_plan, noise_ratio
from gcdist.types import F64, Problem
from tests.reference.errors import (
    best_coefficients,
    dependent_error,
    exact_error,
    exact_error_of_samples,
    spread_error,
)

SPREAD = ("chain", "full", "replicated:2", "replicated:3")


def problem(p: F64, k: int, **changes: object) -> Problem:
    n = len(p)

    def late(worker: int, loads: F64) -> F64:
        return np.full(len(loads), p[worker])

    fields: dict[str, object] = {
        "size_K": np.full(k, 1 / k),
        "late": late,
        "noise": np.array([np.inf, 0.0]),
        "bits_total": float(n),
        "bits_cap_N": np.ones(n, np.int64),
        "load_cap_N": np.full(n, np.inf),
    }
    return Problem(**(fields | changes))  # type: ignore[arg-type]


@settings(derandomize=True, deadline=None, max_examples=150)
@given(st.integers(0, 2**32), st.integers(1, 9), st.integers(1, 20), st.sampled_from(SPREAD), st.booleans())
def test_row_and_column_sums(seed: int, n: int, k: int, name: str, equal: bool) -> None:
    rng = np.random.default_rng(seed)
    p = rng.uniform(0.01, 0.9, n)
    size = np.full(k, 1 / k) if equal else rng.dirichlet(np.ones(k)) + 0.01
    task = problem(p, k, size_K=size / size.sum())
    cost = row_costs(p)
    Y = row_sums(cost, float(k))
    alpha, covered = allocate(name, Y, cost, task)
    assert covered.all()
    assert alpha.data.min() >= 0
    np.testing.assert_allclose(np.asarray(alpha.sum(axis=0)).ravel(), 1, rtol=1e-12)
    np.testing.assert_allclose(alpha @ (task.size_K * k), Y, atol=1e-4 * k)


def test_chain_redundancy_and_load() -> None:
    rng = np.random.default_rng(0)
    for n, k in ((50, 50), (50, 200)):
        p = rng.uniform(0.05, 0.8, n)
        Y = row_sums(row_costs(p), float(k))
        alpha, _ = allocate("chain", Y, row_costs(p), problem(p, k))
        assert alpha.nnz == n + k - 1
        assert np.all(np.diff(alpha.indptr) <= np.floor(Y) + 2)


def test_replicas_are_about_r_and_balanced() -> None:
    p = np.full(12, 0.3)
    task = problem(p, 48)
    alpha, _ = allocate("replicated:3", np.full(12, 4.0), row_costs(p), task)
    assert np.diff(csr_array(alpha.T).indptr).tolist() == [3] * 48
    assert set(np.diff(alpha.indptr).tolist()) <= {11, 12, 13}
    everything, _ = allocate("replicated:12", np.full(12, 4.0), row_costs(p), task)
    np.testing.assert_allclose(everything.toarray(), 1 / 12, rtol=1e-9)


def test_star_is_non_negative_iff_the_floors_suffice() -> None:
    ones = np.ones(4)
    good = star(np.array([2.5, 1.5]), ones)
    assert good.toarray().tolist() == [[1, 1, 0, 0.5], [0, 0, 1, 0.5]]
    assert star(np.array([3.0, 1.0]), ones).data.min() > 0
    rng = np.random.default_rng(1)
    for _ in range(200):
        n, k = int(rng.integers(1, 6)), int(rng.integers(1, 8))
        Y = row_sums(rng.uniform(0.1, 2, n), float(k))
        alpha = star(Y, np.ones(k))
        np.testing.assert_allclose(alpha.sum(axis=0), 1, atol=1e-12)
        np.testing.assert_allclose(alpha.sum(axis=1), Y, atol=1e-9)
        assert (alpha.data.min() >= -1e-12) == (np.floor(Y + 1e-12).sum() >= k - 1)


def test_papers_chain_is_two_diagonals_and_signed() -> None:
    Y = np.array([0.2, 1.5, 0.3, 2.0])
    alpha = papers_chain(Y, np.ones(4)).toarray()
    np.testing.assert_allclose(alpha.sum(axis=0), 1)
    np.testing.assert_allclose(alpha.sum(axis=1), Y)
    assert np.count_nonzero(alpha) == 7
    assert alpha.min() < 0
    with pytest.raises(ValueError, match="at least as many partitions"):
        papers_chain(Y, np.ones(3))


def test_signed_allocations_are_refused_unless_asked() -> None:
    p = np.array([0.1, 0.5, 0.3, 0.7])
    for name in ("star", "papers-chain"):
        with pytest.raises(ValueError, match=r"least coefficient -.* differing partitions"):
            make_plan(get_code("osgc", allocation=name), problem(p, 4), 0)
        plan = make_plan(get_code("osgc", allocation=name, allow_negative=True), problem(p, 4), 0)
        cost = row_costs(p)
        assert spectral_ratio(plan.A_RK, cost) > 1
        dense = plan.A_RK.toarray()
        M = dense.T @ np.diag(cost) @ dense
        np.testing.assert_allclose(M @ np.ones(4), 4 / total_gain(cost))
        assert spectral_ratio(plan.A_RK, cost) == pytest.approx(np.linalg.eigvalsh(M)[-1] * total_gain(cost) / 4)


@pytest.mark.parametrize("name", SPREAD)
def test_non_negative_has_spectral_ratio_one_and_the_worst_case(name: str) -> None:
    p = np.array([0.1, 0.5, 0.3, 0.7])
    cost = row_costs(p)
    alpha, _ = allocate(name, row_sums(cost, 6.0), cost, problem(p, 6))
    assert spectral_ratio(alpha, cost) == pytest.approx(1, abs=1e-6)
    assert worst_error(alpha, cost, 2.0) == pytest.approx(4 * 36 / total_gain(cost), rel=1e-6)
    assert exact_error(alpha, cost, np.full((6, 6), 4.0)) == pytest.approx(worst_error(alpha, cost, 2.0))  # attained


def test_errors_agree_three_ways() -> None:
    rng = np.random.default_rng(2)
    p, k = rng.uniform(0.1, 0.8, 5), 8
    cost = row_costs(p, 0.1)
    for name in (*SPREAD, "papers-chain"):
        k_here = 5 if name == "papers-chain" else k
        alpha, _ = allocate(name, row_sums(cost, float(k_here)), cost, problem(p, k_here))
        g = rng.normal(1, 1, (k_here, 3))
        g /= np.linalg.norm(g, axis=1).max()
        exact = exact_error(alpha, cost, g @ g.T)
        assert exact_error_of_samples(alpha, cost, g) == pytest.approx(exact)
        assert exact <= worst_error(alpha, cost, 1.0) * (1 + 1e-12)
        arrived = np.outer(1 - p, 1 - p)
        np.fill_diagonal(arrived, 1 - p)
        assert dependent_error(alpha, arrived, np.full(5, 0.1), g @ g.T) == pytest.approx(exact)
        v, draws = alpha @ g, 100_000
        here = rng.random((draws, 5)) >= p
        weight = here / (1 - p)
        seen = np.square((weight - 1) @ v).sum(axis=1) + 0.1 * (here / (1 - p) ** 2) @ np.square(v).sum(axis=1)
        # 5 standard errors, below 1e-6 a case
        assert abs(seen.mean() - exact) < 5 * seen.std() / np.sqrt(draws)


def test_first_arrivals_are_dependent() -> None:
    # fastest 3 of 6 equal workers: pi = 1/2, pi_il = 3*2/(6*5) = 1/5; enumerated over the 20 sets
    from itertools import combinations

    rng = np.random.default_rng(3)
    g = rng.normal(1, 1, (6, 4))
    alpha = csr_array(np.eye(6))
    joint = np.full((6, 6), 0.2)
    np.fill_diagonal(joint, 0.5)
    sets = [np.square(2 * g[list(s)].sum(axis=0) - g.sum(axis=0)).sum() for s in combinations(range(6), 3)]
    assert dependent_error(alpha, joint, np.zeros(6), g @ g.T) == pytest.approx(np.mean(sets))


def test_spread_error_is_the_mean_over_labellings() -> None:
    from itertools import permutations

    rng = np.random.default_rng(4)
    p = np.array([0.2, 0.6, 0.4])
    cost = row_costs(p)
    alpha, _ = allocate("replicated:2", row_sums(cost, 5.0), cost, problem(p, 5))
    g = rng.normal(1, 1, (5, 2))
    mean = np.mean([exact_error_of_samples(alpha, cost, g[list(order)]) for order in permutations(range(5))])
    total = g.sum(axis=0)
    deviation = float(np.square(g - total / 5).sum(axis=1).mean())
    aligned = float(total @ total) * float(cost @ (np.asarray(alpha.sum(axis=1)).ravel() / 5) ** 2)
    assert aligned + spread_error(alpha, cost, deviation) == pytest.approx(mean)


@pytest.mark.parametrize("r", [1, 2, 3, 6])
def test_uniform_rows_add_what_section_4_says(r: int) -> None:
    n = k = 6
    p, zeta2 = np.full(n, 0.4), 3.0
    cost = row_costs(p)
    support = np.array([[(j - i) % n < r for j in range(k)] for i in range(n)], np.float64) / r
    expected = zeta2 / total_gain(cost) * (n / r - 1) / (k - 1)
    assert spread_error(csr_array(support), cost, zeta2 / k**2) == pytest.approx(expected, abs=1e-15)


def test_full_is_best_for_every_gram_matrix_and_coefficients_match_a_solver() -> None:
    rng = np.random.default_rng(5)
    p = np.array([0.2, 0.6, 0.4])
    cost = row_costs(p)
    Y = row_sums(cost, 4.0)
    x = rng.normal(size=(4, 6))
    gram = x @ x.T
    everything, error = best_coefficients(csr_array(np.ones((3, 4))), cost, gram)
    full, _ = allocate("full", Y, cost, problem(p, 4))
    np.testing.assert_allclose(everything.toarray(), full.toarray(), atol=1e-6)
    assert error == pytest.approx(exact_error(full, cost, gram), rel=1e-6)
    support = csr_array(np.array([[1, 1, 0, 1], [0, 1, 1, 0], [1, 0, 1, 1]], np.float64))
    alpha, error = best_coefficients(support, cost, gram)
    assert exact_error(alpha, cost, gram) == pytest.approx(error, rel=1e-6)
    at = support.tocoo()

    def value(entries: F64) -> float:
        dense = np.zeros((3, 4))
        dense[at.row, at.col] = entries
        return float(cost @ np.einsum("ij,jl,il->i", dense, gram, dense))

    sums = [{"type": "eq", "fun": lambda e, j=j: e[at.col == j].sum() - 1} for j in range(4)]
    found = minimize(value, np.full(at.nnz, 0.5), constraints=sums, method="SLSQP", options={"ftol": 1e-14})
    assert error == pytest.approx(found.fun, rel=1e-6)


def test_load_caps_hold_and_cost_as_little_as_they_must() -> None:
    p = np.array([0.05, 0.3, 0.5, 0.4])
    task = problem(p, 20, load_cap_N=np.array([6.0, 9.0, 20.0, 20.0]))
    plan = make_plan(get_code("osgc"), task, 0)
    assert np.all(np.diff(plan.A_RK.indptr) <= task.load_cap_N)
    with pytest.raises(ValueError, match="load caps allow"):
        make_plan(get_code("osgc"), problem(p, 20, load_cap_N=np.full(4, 4.0)), 0)
    with pytest.raises(ValueError, match="a load cap is below"):
        make_plan(get_code("osgc", allocation="full"), task, 0)


def test_caps_of_one_share_the_partition_that_gains_most() -> None:
    p = np.array([0.05, 0.3, 0.5, 0.4, 0.9])
    for name in ("osgc", "joint"):
        plan = make_plan(get_code(name), problem(p, 4, load_cap_N=np.ones(5)), 0)
        assert np.diff(plan.A_RK.indptr).max() == 1
        # five workers for four partitions: the two least reliable share one
        assert sorted(np.diff(plan.A_RK.tocsc().indptr).tolist()) == [1, 1, 1, 2]
        assert 0 < plan.A_RK[4].sum() < plan.A_RK[2].sum() < 1


def test_joint_under_caps_and_holders_is_near_a_direct_optimum() -> None:
    rng = np.random.default_rng(8)
    noise = np.append(np.inf, 1.0 / (2.0 ** np.arange(1, 6) - 1) ** 2)
    for _ in range(2):
        p = rng.uniform(0.05, 0.8, 3)
        able = rng.random((3, 4)) < 0.6
        able[rng.integers(0, 3, 4), np.arange(4)] = True
        task = problem(
            p, 4, holds_NK=csr_array(able.astype(float)), noise=noise, bits_total=8.0, bits_cap_N=np.full(3, 5)
        )
        plan = make_plan(get_code("joint"), task, 0)
        assert plan.covered_K.all()
        assert plan.bits_RS.sum() <= 8
        best = np.inf
        for bits in np.ndindex(6, 6, 6):
            cost = row_costs(p, noise[list(bits)])
            ok = able & np.isfinite(cost)[:, None]
            if sum(bits) <= 8 and ok.any(axis=0).all():
                Y, _ = held_row_sums(cost, csr_array(ok), np.ones(4))
                best = min(best, float(cost[Y > 0] @ Y[Y > 0] ** 2))
        assert 16 * noise_ratio(plan, task) <= 1.1 * best  # alternating: not certified


def test_perfect_workers_do_not_orphan_the_partitions_of_others() -> None:
    holds = csr_array(np.array([[1, 1, 0, 0], [0, 1, 1, 1]], np.float64))
    plan = make_plan(get_code("osgc"), problem(np.array([0.0, 0.3]), 4, holds_NK=holds), 0)
    assert plan.covered_K.all()
    np.testing.assert_allclose(plan.A_RK.toarray(), [[1, 1, 0, 0], [0, 0, 1, 1]], atol=1e-6)


def test_capped_row_sums_against_an_optimiser() -> None:
    rng = np.random.default_rng(6)
    for _ in range(20):
        n = int(rng.integers(2, 7))
        cost, cap = rng.uniform(0.1, 3, n), rng.uniform(0.5, 3, n)
        total = 0.8 * cap.sum()
        Y = capped_row_sums(cost, total, cap)
        assert Y.sum() == pytest.approx(total)
        assert np.all(cap * (1 + 1e-12) >= Y)
        found = minimize(
            lambda y, c=cost: float(c @ y**2),
            0.8 * cap,
            jac=lambda y, c=cost: 2 * c * y,
            bounds=[(0, u) for u in cap],
            constraints={"type": "eq", "fun": lambda y, t=total: y.sum() - t},
            method="SLSQP",
            options={"ftol": 1e-15},
        )
        assert cost @ Y**2 == pytest.approx(found.fun, rel=1e-8)


def test_least_noise_between_even_shares_and_one_over_F() -> None:
    cost = np.array([0.01, 0.02, 0.5, 9.0])
    assert least_noise(cost) == pytest.approx(1 / np.sum(1 / cost))
    assert least_noise(cost, 1.0) == pytest.approx(cost.sum() / 16)
    assert least_noise(cost) < least_noise(cost, 2.0) < least_noise(cost, 1.25) < least_noise(cost, 1.0)
    assert least_noise(np.append(cost[:3], np.inf), 1.0) == np.inf
    assert least_noise(np.append(cost[:3], np.inf), 2.0) < np.inf


def test_holders_against_an_optimiser() -> None:
    rng = np.random.default_rng(7)
    for _ in range(15):
        n, k = int(rng.integers(2, 6)), int(rng.integers(2, 8))
        able = rng.random((n, k)) < 0.4
        able[rng.integers(0, n, k), np.arange(k)] = True
        cost, mass = rng.uniform(0.1, 3, n), rng.uniform(0.5, 2, k)
        Y, flow = held_row_sums(cost, csr_array(able), mass)
        np.testing.assert_allclose(flow.sum(axis=0), mass, rtol=1e-9)
        np.testing.assert_allclose(flow.sum(axis=1), Y, atol=1e-9)
        assert not np.any(flow.toarray()[~able])
        at = np.argwhere(able)
        start = linprog(
            np.zeros(len(at)), A_eq=np.array([at[:, 1] == j for j in range(k)], np.float64), b_eq=mass, method="highs"
        ).x
        found = minimize(
            lambda x, at=at, c=cost, n=n: float(c @ np.bincount(at[:, 0], weights=x, minlength=n) ** 2),
            start,
            jac=lambda x, at=at, c=cost, n=n: (2 * c * np.bincount(at[:, 0], weights=x, minlength=n))[at[:, 0]],
            bounds=[(0, None)] * len(at),
            constraints=[
                {"type": "eq", "fun": lambda x, j=j, at=at, m=mass: x[at[:, 1] == j].sum() - m[j]} for j in range(k)
            ],
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 500},
        )
        assert cost @ Y**2 == pytest.approx(found.fun, rel=1e-6)


@pytest.mark.parametrize("name", ["chain", "full", "replicated:2"])
def test_plans_respect_holders(name: str) -> None:
    holds = csr_array(np.array([[1, 1, 1, 0, 0, 0], [0, 1, 1, 1, 1, 0], [1, 0, 0, 1, 1, 0]], np.float64))
    plan = make_plan(get_code("joint", allocation=name), problem(np.array([0.1, 0.3, 0.2]), 6, holds_NK=holds), 0)
    assert plan.covered_K.tolist() == [True] * 5 + [False]
    with pytest.raises(ValueError, match="can read every partition"):
        make_plan(get_code("joint", allocation="star"), problem(np.full(3, 0.1), 6, holds_NK=holds), 0)


def test_names() -> None:
    assert check_allocation("replicated:4") == ("replicated", 4)
    with pytest.raises(ValueError, match="did you mean 'papers-chain'"):
        check_allocation("paper-chain")
    for wrong in ("replicated", "replicated:0", "replicated:x"):
        with pytest.raises(ValueError, match="replicated:R"):
            check_allocation(wrong)
