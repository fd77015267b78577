"""Simulated runs stay under the promised curves; the step that ignores differing partitions diverges."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_array

from gcdist.coding import get_code
from gcdist.coding.errors import noise_coefficient
from gcdist.coding.optimal import row_costs, row_sums, total_gain
from gcdist.coding.supports import chain
from gcdist.planning import convergence as cv
from gcdist.planning import make_plan
from gcdist.planning.report import row_noise
from gcdist.types import F64, Plan, Problem

STEPS = 300


class LeastSquares:
    """f_j(x) = |B_j x - b_j|^2/2 on k partitions of different minima, coded on chain with p between .1 and .7."""

    def __init__(self, seed: int, strong: bool) -> None:
        rng = np.random.default_rng(seed)
        self.k, self.d, n = 8, 3, 5
        self.H = np.empty((self.k, self.d, self.d))
        for j in range(self.k):
            B = rng.normal(size=(2 if strong else 1, self.d))
            B[:, -1] *= 1.0 if strong else 0.0  # without curvature in one direction
            self.H[j] = B.T @ B
        best_j = rng.normal(size=(self.k, self.d))
        self.q = np.einsum("jab,jb->ja", self.H, best_j)
        self.H_all, self.q_all = self.H.mean(axis=0), self.q.mean(axis=0)
        self.best = np.linalg.lstsq(self.H_all, self.q_all, rcond=None)[0]
        eigen = np.linalg.eigvalsh(self.H_all)
        self.L, self.mu = float(eigen[-1]), float(eigen[0])
        self.p = rng.uniform(0.1, 0.7, n)
        self.cost = row_costs(self.p)
        self.A = chain(row_sums(self.cost, float(self.k)), np.ones(self.k)).toarray()
        self.F = total_gain(self.cost)
        L_j = np.linalg.eigvalsh(self.H)[:, -1] / self.k
        self.Lambda = float(np.max(self.cost * (self.A @ L_j)))
        self.partition_L = float(L_j.max() * self.k)
        at_best = (np.einsum("jab,b->ja", self.H, self.best) - self.q) / self.k
        self.noise_at_best = float(self.cost @ np.square(self.A @ at_best).sum(axis=1))

    def f(self, x: F64) -> F64:
        return np.asarray(0.5 * np.einsum("ta,ab,tb->t", x, self.H_all, x) - x @ self.q_all, np.float64)

    def run(self, step: float, x0: F64, runs: int, seed: int) -> F64:
        """(STEPS + 1, runs, d) iterates."""
        rng = np.random.default_rng(seed)
        x, path = np.tile(x0, (runs, 1)), []
        for _ in range(STEPS + 1):
            path.append(x)
            weight = (rng.random((runs, len(self.p))) >= self.p) / (1 - self.p)
            g = (np.einsum("jab,tb->tja", self.H, x) - self.q) / self.k
            x = x - step * np.einsum("ti,ij,tja->ta", weight, self.A, g)
        return np.array(path)


@pytest.mark.parametrize("seed", range(4))
def test_strongly_convex_runs_stay_below(seed: int) -> None:
    task = LeastSquares(seed, strong=True)
    x0 = task.best + 1.0
    promise = cv.strongly_convex(task.L, task.Lambda, task.mu, task.noise_at_best, 3.0, STEPS)
    away = np.square(task.run(promise.step, x0, 400, seed) - task.best).sum(axis=2)
    assert np.all(away.mean(axis=1) <= promise.bound_T * 1.05)  # 400 runs: the mean itself is far below


@pytest.mark.parametrize("seed", range(4))
def test_convex_runs_stay_below(seed: int) -> None:
    task = LeastSquares(seed, strong=False)
    x0 = task.best + 1.0
    promise = cv.convex(task.L, task.Lambda, task.noise_at_best, 3.0, STEPS)
    path = task.run(promise.step, x0, 400, seed)
    above = np.array([task.f(x).mean() for x in path]) - float(task.f(task.best[None])[0])
    mean = np.cumsum(above)[:-1] / np.arange(1, STEPS + 1)
    assert np.all(mean <= promise.bound_T[1:])


@pytest.mark.parametrize("seed", range(4))
def test_smooth_runs_stay_below(seed: int) -> None:
    # f_j = f(x) - a_j x: differences are the same everywhere, so that zeta is bounded
    task = LeastSquares(seed, strong=True)
    task.H = np.tile(task.H_all, (task.k, 1, 1))
    zeta2 = float(np.square(task.q - task.q_all).sum(axis=1).mean())
    x0 = task.best + 1.0
    gap = float(task.f(x0[None])[0] - task.f(task.best[None])[0])
    # Jensen over each row: what differing partitions add is at most zeta^2/F
    worst = float(task.cost @ np.square(task.A @ (task.q - task.q_all) / task.k).sum(axis=1))
    assert worst <= zeta2 / task.F * (1 + 1e-9)
    promise = cv.smooth(task.L, 1 / task.F, zeta2, gap, STEPS)
    path = task.run(promise.step, x0, 400, seed)
    slope = np.array([np.square(x @ task.H_all - task.q_all).sum(axis=1).mean() for x in path])
    mean = np.cumsum(slope)[:-1] / np.arange(1, STEPS + 1)
    assert np.all(mean <= promise.bound_T[1:])


@pytest.mark.parametrize("seed", range(4))
def test_shifted_runs_contract_without_a_floor(seed: int) -> None:
    task, theta, omega, runs = LeastSquares(seed, strong=True), 2.0, 0.3, 200
    cost, beta = row_costs(task.p, omega), 1 / (1 + omega)
    used = (1 - task.p) * beta
    L_j = np.linalg.eigvalsh(task.H)[:, -1] / task.k
    Lambda = float(np.max(cost * (task.A @ L_j)))
    weights = cv.shifted_weights(cost, used, theta)
    y_best = task.A @ ((task.H @ task.best - task.q) / task.k)
    rng = np.random.default_rng(seed)
    x, h = np.tile(task.best + 1.0, (runs, 1)), np.zeros((runs, len(task.p), task.d))
    step = cv.shifted(task.L, Lambda, task.mu, used, 1.0, 1, theta).step
    seen = []
    for _ in range(STEPS + 1):
        V = np.square(x - task.best).sum(axis=1) + step**2 * np.square(h - y_best).sum(axis=2) @ weights
        seen.append(V.mean())
        y = np.einsum("ij,tja->tia", task.A, (np.einsum("jab,tb->tja", task.H, x) - task.q) / task.k)
        # relative noise of exactly omega
        message = (y - h) * (1 + np.sqrt(omega) * rng.choice([-1.0, 1.0], (runs, len(task.p), 1)))
        here = (rng.random((runs, len(task.p))) >= task.p)[:, :, None]
        x = x - step * (h.sum(axis=1) + (here * message / (1 - task.p)[:, None]).sum(axis=1))
        h = h + beta * here * message
    promise = cv.shifted(task.L, Lambda, task.mu, used, seen[0], STEPS, theta)
    assert promise.step == step
    assert np.all(np.array(seen) <= promise.bound_T * 1.05)


def papers_run(seed: int, step: float, mu: float, strong: bool) -> tuple[F64, F64, F64]:
    """Mean |x|^2, f and |grad f|^2 of f = sum of d_a x_a^2/2 with constant noise sigma2 = 1 added to every gradient."""
    rng = np.random.default_rng(seed)
    curve = np.array([1.0, 0.5, mu if strong else 0.0])
    x = np.ones((2000, 3))
    far, value, slope = [], [], []
    for _ in range(STEPS + 1):
        far.append(np.square(x).sum(axis=1).mean())
        value.append((0.5 * curve * x**2).sum(axis=1).mean())
        slope.append(np.square(curve * x).sum(axis=1).mean())
        x = x - step * (curve * x + rng.normal(size=x.shape) / np.sqrt(3))
    return np.array(far), np.array(value), np.array(slope)


@pytest.mark.parametrize("step", [None, 0.1])
def test_the_papers_guarantees_hold(step: float | None) -> None:
    t = np.arange(1, STEPS + 1)
    strongly = cv.papers_strongly_convex(1.0, 0.1, 1.0, 3.0, STEPS, step)
    far, _, _ = papers_run(1, strongly.step, 0.1, strong=True)
    assert np.all(far <= strongly.bound_T * 1.05)
    convex = cv.papers_convex(1.0, 1.0, 3.0, STEPS, step)
    _, value, _ = papers_run(2, convex.step, 0.1, strong=False)
    assert np.all(np.cumsum(value)[:-1] / t <= convex.bound_T[1:])
    smooth = cv.papers_smooth(1.0, 1.0, 0.8, STEPS, step)
    _, _, slope = papers_run(3, smooth.step, 0.1, strong=True)
    assert np.all(np.cumsum(slope)[:-1] / t <= smooth.bound_T[1:])


def second_moment(step: float, p: float, k: int) -> float:
    """Growth a step of E|x|^2 for f_j = k x_j^2/2 (disjoint coordinates), n = k, worker j holds j: exact."""
    # x_j <- x_j (1 - step I_j/(1-p)) with f = mean f_j = |x|^2/2, L = 1
    return p + (1 - p) * (1 - step / (1 - p)) ** 2


def test_the_simple_step_diverges_for_disjoint_partitions_and_the_advice_does_not() -> None:
    p, k = 0.8, 8
    F = k * (1 - p) / p
    simple, limit = 1 / (1 + 1 / F), 2 * (1 - p)
    assert simple == pytest.approx(2 / 3, abs=0.01)  # in units of 1/L
    assert limit == pytest.approx(0.4)
    assert second_moment(simple, p, k) > 1
    assert second_moment(0.999 * limit, p, k) < 1 < second_moment(1.001 * limit, p, k)
    assert second_moment(cv.advised_step(1.0, 1 / F, partition_L=k), p, k) < 1


def plans_that_are_not_the_optimum(seed: int) -> tuple[Plan, Problem, F64]:
    """Plans under load caps, holders or p that depend on the load, and the p that hold at their loads (R,)."""
    rng = np.random.default_rng(seed)
    n, k = 4, 8
    p, rise = rng.uniform(0.02, 0.9, n), rng.uniform(0.0, 0.5, n)

    def late(worker: int, loads: F64) -> F64:
        return np.asarray(1 - (1 - p[worker]) * np.exp(-rise[worker] * (loads - 1) * (seed % 3 == 2)), np.float64)

    holds = None
    if seed % 3 == 1:
        held = rng.random((n, k)) < 0.5
        held[rng.integers(0, n, k), np.arange(k)] = True
        holds = csr_array(held.astype(np.float64))
    cap = np.full(n, np.inf if seed % 3 else 3.0)
    noise = np.append(np.inf, 0.3 / (2.0 ** np.arange(1, 6) - 1) ** 2)
    task = Problem(rng.dirichlet(np.full(k, 3.0)), late, noise, 4.0 * n, np.full(n, 5), cap, holds)
    plan = make_plan(get_code("joint", load_aware=seed % 6 >= 3 or None), task, 0)
    load_R = np.maximum(np.diff(plan.A_RK.indptr), 1).astype(np.float64)
    return plan, task, np.array([late(i, load_R[i : i + 1])[0] for i in range(n)])


def test_the_noise_coefficient_bounds_every_gradient_where_one_over_F_does_not() -> None:
    beyond = []
    for seed in range(30):
        plan, task, p_R = plans_that_are_not_the_optimum(seed)
        used = plan.weighted_R()
        cost_R = np.where(used, row_costs(p_R, row_noise(plan, task)), 0.0)
        kappa = noise_coefficient(plan.A_RK, cost_R, task.size_K)
        rng = np.random.default_rng(seed)
        worst = 0.0
        for j in range(task.k):
            for grad_KD in (np.eye(1, task.k, j).T, rng.normal(size=(task.k, 3))):
                error = cost_R @ np.square(plan.A_RK @ (task.size_K[:, None] * grad_KD)).sum(axis=1)
                energy = task.size_K @ np.square(grad_KD).sum(axis=1)
                assert error <= kappa * energy * (1 + 1e-9), seed
                worst = max(worst, float(error / energy))
        ratio = float(cost_R @ (plan.A_RK @ task.size_K) ** 2)  # 1/F of the plan
        assert ratio <= kappa * (1 + 1e-9)
        beyond.append(worst / ratio)
    assert max(beyond) > 2.5  # what 1/F promises is exceeded by so much


def test_the_advised_step_holds_in_exact_recursions() -> None:
    """E|x_t - x*|^2 exactly, for quadratics that differ as much as they can, at the advised step."""
    for seed in range(30):
        plan, task, p_R = plans_that_are_not_the_optimum(seed)
        rng = np.random.default_rng(100 + seed)
        k = task.k
        curve_j = rng.uniform(0.5, 4.0, k)
        hessian_j = np.array([np.diag(curve_j[j] * (np.arange(k) == j)) for j in range(k)])  # disjoint coordinates
        H = np.einsum("j,jab->ab", task.size_K, hessian_j)
        L, mu = float(np.diag(H).max()), float(np.diag(H).min())
        slope_j = rng.normal(size=(k, k))
        slope_j -= task.size_K @ slope_j  # grad f_j at the optimum, which is 0
        used = plan.weighted_R()
        cost_R = np.where(used, row_costs(p_R, row_noise(plan, task)), 0.0)
        A = plan.A_RK.toarray() * used[:, None]
        M_R, u_R = np.einsum("ij,j,jab->iab", A, task.size_K, hessian_j), A @ (task.size_K[:, None] * slope_j)
        kappa = noise_coefficient(plan.A_RK, cost_R, task.size_K)
        step = cv.advised_step(L, kappa, float(curve_j.max()))
        promise = cv.strongly_convex(
            L, kappa * float(curve_j.max()), mu, float(cost_R @ np.square(u_R).sum(axis=1)), float(k), 400, step
        )
        m, S = np.ones(k), np.ones((k, k))
        for t in range(401):
            assert np.trace(S) <= promise.bound_T[t] * (1 + 1e-9), (seed, t)
            m, S = moments(m, S, step, H, M_R, u_R, cost_R)


def test_one_over_F_in_place_of_kappa_diverges() -> None:
    # worker 4 alone can read the last partition, and comes once in twenty steps
    p, k = np.array([0.02, 0.02, 0.02, 0.95]), 8
    held = np.ones((4, k))
    held[:3, -1] = 0
    task = Problem(
        np.full(k, 1 / k), lambda i, loads: np.full(len(loads), p[i]), np.array([np.inf, 0.0]), 4.0, np.full(4, 1),
        np.full(4, np.inf), csr_array(held),
    )  # fmt: skip
    plan = make_plan(get_code("osgc"), task, 0)
    cost_R, H = row_costs(p), np.eye(k) / k  # f_j = x_j^2/2
    M_R = np.einsum("ij,jab->iab", plan.A_RK.toarray() / k, np.array([np.diag(np.arange(k) == j) for j in range(k)]))
    growth = []
    for kappa in (1 / total_gain(cost_R), noise_coefficient(plan.A_RK, cost_R, task.size_K)):
        m, S, before = np.ones(k), np.ones((k, k)), 1.0
        for _ in range(100):
            before = float(np.trace(S))
            m, S = moments(m, S, cv.advised_step(1 / k, kappa, 1.0), H, M_R, np.zeros((4, k)), cost_R)
        growth.append(float(np.trace(S)) / before)
    assert growth[0] > 1.5
    assert growth[1] < 1


def moments(m: F64, S: F64, step: float, H: F64, M_R: F64, u_R: F64, cost_R: F64) -> tuple[F64, F64]:
    """Mean and second moment of x - x* after a step; noise of each row along its own message."""
    keep = np.eye(len(m)) - step * H
    mixed_R = np.einsum("iab,b,ic->iac", M_R, m, u_R)
    rows_R = M_R @ S @ M_R.transpose(0, 2, 1) + mixed_R + mixed_R.transpose(0, 2, 1) + np.einsum("ia,ib->iab", u_R, u_R)
    return keep @ m, keep @ S @ keep.T + step**2 * np.einsum("i,iab->ab", cost_R, rows_R)


def test_steps_outside_the_guarantee_are_refused() -> None:
    with pytest.raises(ValueError, match=r"step 2 is outside \(0, 1\]"):
        cv.papers_smooth(1.0, 1.0, 1.0, 10, step=2.0)
