"""Step sizes and promised curves of gradient descent with a coded gradient (math section 2; papers 1 and 2).

Setting: ``f = mean_j f_j``, ``x <- x - gamma ghat``, ghat unbiased. Two kinds of noise are covered: bounded gradients
(the papers: ``E|ghat - g|^2 <= sigma2 = C^2 k^2/F``) and noise that grows with the gradients themselves, which needs a
smaller step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gcdist.types import F64


@dataclass(frozen=True, slots=True, eq=False)
class Guarantee:
    """A step size and the promise after t steps, ``bound_T`` (T+1,); ``of`` says what is bounded."""

    step: float
    bound_T: F64
    of: str


def papers_smooth(L: float, sigma2: float, gap: float, steps: int, step: float | None = None) -> Guarantee:
    """L-smooth f, noise at most ``sigma2``: ``mean_{s<t} E|grad f|^2 <= 2 gap/(gamma t) + gamma L sigma2``, ``gamma <=
    1/L``.

    ``gap`` is f(x_0) - inf f. The default step is the best for these steps.
    """
    if step is None:
        step = 1 / L if sigma2 == 0 else min(1 / L, float(np.sqrt(2 * gap / (L * sigma2 * steps))))
    _allowed(step, 1 / L)
    t = np.arange(steps + 1, dtype=np.float64)
    with np.errstate(divide="ignore"):
        return Guarantee(step, 2 * gap / (step * t) + step * L * sigma2, "mean of E|grad f(x_s)|^2 over s < t")


def papers_convex(L: float, sigma2: float, distance2: float, steps: int, step: float | None = None) -> Guarantee:
    """Convex f: ``mean_{s<t} E f(x_s) - f* <= distance2/(gamma t) + gamma sigma2``, ``gamma <= 1/(2L)``; distance2 =
    |x_0 - x*|^2.

    From ``E|x+ - x*|^2 <= |x - x*|^2 - 2 gamma (1 - gamma L)(f - f*) + gamma^2 sigma2``.
    """
    if step is None:
        step = 1 / (2 * L) if sigma2 == 0 else min(1 / (2 * L), float(np.sqrt(distance2 / (sigma2 * steps))))
    _allowed(step, 1 / (2 * L))
    t = np.arange(steps + 1, dtype=np.float64)
    with np.errstate(divide="ignore"):
        return Guarantee(step, distance2 / (step * t) + step * sigma2, "mean of E f(x_s) - f* over s < t")


def papers_strongly_convex(
    L: float, mu: float, sigma2: float, distance2: float, steps: int, step: float | None = None
) -> Guarantee:
    """mu-strongly convex f (paper 1): ``E|x_t - x*|^2 <= (1 - gamma mu)^t distance2 + gamma sigma2/mu``, ``gamma <=
    1/L``.
    """
    step = 1 / L if step is None else step
    _allowed(step, 1 / L)
    t = np.arange(steps + 1, dtype=np.float64)
    return Guarantee(step, (1 - step * mu) ** t * distance2 + step * sigma2 / mu, "E|x_t - x*|^2")


def smooth(L: float, F: float, zeta2: float, gap: float, steps: int, step: float | None = None) -> Guarantee:
    """Section 2 (i): ``mean_{s<t} E|grad f|^2 <= 2 gap/(gamma t) + gamma L zeta2/F``, ``gamma <= 1/(L (1 + 1/F))``.

    Needs ``zeta2 >= mean_j |grad f_j - grad f|^2`` at every point: with partitions that differ without bound it promises
    nothing.
    """
    most = 1 / (L * (1 + 1 / F))
    if step is None:
        step = most if zeta2 == 0 else min(most, float(np.sqrt(2 * gap * F / (L * zeta2 * steps))))
    _allowed(step, most)
    t = np.arange(steps + 1, dtype=np.float64)
    with np.errstate(divide="ignore"):
        return Guarantee(step, 2 * gap / (step * t) + step * L * zeta2 / F, "mean of E|grad f(x_s)|^2 over s < t")


def convex(
    L: float, Lambda: float, noise_at_best: float, distance2: float, steps: int, step: float | None = None
) -> Guarantee:
    """Convex partitions: ``mean_{s<t} E f(x_s) - f* <= distance2/(gamma t) + 2 gamma noise_at_best``.

    ``gamma <= 1/(2 (L + 2 Lambda))``; ``Lambda = max_i c_i sum_j alpha_ij L_j`` with L_j of the scaled g_j;
    ``noise_at_best = sum_i c_i |y_i(x*)|^2``. From ``E|x+ - x*|^2 <= |x - x*|^2 - 2 gamma (1 - gamma (L + 2 Lambda))(f -
    f*) + 2 gamma^2 noise_at_best``.
    """
    most = 1 / (2 * (L + 2 * Lambda))
    if step is None:
        step = most if noise_at_best == 0 else min(most, float(np.sqrt(distance2 / (2 * noise_at_best * steps))))
    _allowed(step, most)
    t = np.arange(steps + 1, dtype=np.float64)
    with np.errstate(divide="ignore"):
        return Guarantee(step, distance2 / (step * t) + 2 * step * noise_at_best, "mean of E f(x_s) - f* over s < t")


def strongly_convex(
    L: float, Lambda: float, mu: float, noise_at_best: float, distance2: float, steps: int, step: float | None = None
) -> Guarantee:
    """Section 2 (ii): ``E|x_t - x*|^2 <= (1 - gamma mu)^t distance2 + (2 gamma/mu) noise_at_best``, ``gamma <= 1/(L + 2
    Lambda)``.
    """
    most = 1 / (L + 2 * Lambda)
    step = most if step is None else step
    _allowed(step, most)
    t = np.arange(steps + 1, dtype=np.float64)
    return Guarantee(step, (1 - step * mu) ** t * distance2 + 2 * step / mu * noise_at_best, "E|x_t - x*|^2")


def shifted(L: float, Lambda: float, mu: float, used_R: F64, start: float, steps: int, theta: float = 2.0) -> Guarantee:
    """Shifted coding, section 6: ``E V_t <= max(1 - gamma mu, 1 - (1 - 1/theta) min_i r_i)^t V_0`` with no noise floor.

    ``gamma = 1/(L + (1 + sqrt theta)^2 Lambda)``; ``used_R`` is ``r_i = P(message moves h_i) beta_i`` of the rows with
    data, with ``beta_i (1 + omega_i) <= 1``; ``start = V_0``, weighted by `shifted_weights`. Partitions convex, f
    mu-strongly convex.
    """
    if not theta > 1:
        raise ValueError(f"theta is {theta}: it must be above 1")
    step = 1 / (L + (1 + np.sqrt(theta)) ** 2 * Lambda)
    rate = max(1 - step * mu, 1 - (1 - 1 / theta) * float(used_R.min()))
    t = np.arange(steps + 1, dtype=np.float64)
    return Guarantee(float(step), start * rate**t, "E V_t")


def shifted_weights(cost_R: F64, used_R: F64, theta: float = 2.0) -> F64:
    """``a_i = theta (1 + theta^-1/2) c_i/r_i`` of ``V = |x - x*|^2 + gamma^2 sum_i a_i |h_i - y_i(x*)|^2``."""
    return np.asarray(theta * (1 + theta**-0.5) * cost_R / used_R, np.float64)


def advised_step(L: float, F: float, partition_L: float) -> float:
    """``1/(L + 2 l/F)`` with l the largest Lipschitz constant of a partition's grad f_j: safe however partitions differ.

    ``1/(L (1 + 1/F))`` alone can diverge.

    >>> round(advised_step(1.0, 2.0, 4.0), 3)
    0.2
    """
    return 1 / (L + 2 * partition_L / F)


def _allowed(step: float, most: float) -> None:
    if not 0 < step <= most * (1 + 1e-12):
        raise ValueError(f"step {step:g} is outside (0, {most:g}], where the guarantee holds")
