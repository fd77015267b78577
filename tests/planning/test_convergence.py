"""Simulated runs stay under the promised curves; the step that ignores differing partitions diverges."""

from __future__ import annotations

import numpy as np
import pytest

from gcdist.coding.optimal import row_costs, row_sums, total_gain
from gcdist.coding.supports import chain
from gcdist.types import F64
from tests.reference import convergence as cv

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
    promise = cv.smooth(task.L, task.F, zeta2, gap, STEPS)
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
    assert second_moment(cv.advised_step(1.0, F, partition_L=k), p, k) < 1


def test_steps_outside_the_guarantee_are_refused() -> None:
    with pytest.raises(ValueError, match=r"step 2 is outside \(0, 1\]"):
        cv.papers_smooth(1.0, 1.0, 1.0, 10, step=2.0)
