"""Which decoding of a plan is best for partitions that differ by a given amount, by the error formulas (math section 5)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gcdist.coding import selfnorm
from gcdist.coding.optimal import row_costs
from gcdist.planning.report import row_masses, row_noise
from gcdist.types import F64, Plan, Problem


@dataclass(frozen=True, slots=True)
class DecodingChoice:
    """Errors over |g|^2 of each decoding of one plan (None: does not exist), the best one, and why in one line."""

    best: str
    why: str
    inverse: float
    self_normalised: float | None
    predictor: float | None


def row_gram(plan: Plan, Y_R: F64, zeta2: float) -> F64:
    """Mean ``<v_i, v_l>`` (R, R) over random labellings for |g|^2 = 1 and ``zeta^2 = mean_j |grad f_j - grad f|^2``.

    ``Y Y^T/k^2 + zeta^2/(k (k-1)) (A A^T - Y Y^T/k)``: partitions' gradients are ``grad f_j/k``.
    """
    k = plan.A_RK.shape[1]
    agree_RR = np.outer(Y_R, Y_R)
    if k == 1:
        return np.asarray(agree_RR, np.float64)
    differ_RR = (plan.A_RK @ plan.A_RK.T).toarray() - agree_RR / k
    return np.asarray(agree_RR / k**2 + zeta2 / (k * (k - 1)) * differ_RR, np.float64)


def row_norms(plan: Plan, Y_R: F64, zeta2: float) -> F64:
    """The diagonal of `row_gram`, ``E|v_i|^2`` (R,), without the matrix."""
    k = plan.A_RK.shape[1]
    norm_R = (Y_R / k) ** 2
    if k > 1 and zeta2:
        squares_R = np.asarray(plan.A_RK.power(2).sum(axis=1)).ravel()
        norm_R = norm_R + zeta2 / (k * (k - 1)) * np.maximum(squares_R - Y_R**2 / k, 0.0)
    return np.asarray(norm_R, np.float64)


def best_decoding(plan: Plan, problem: Problem, zeta2: float, prediction2: float | None = None) -> DecodingChoice:
    """Compare decodings at ``zeta2 = zeta^2/|g|^2``; ``prediction2 = |g - m|^2/|g|^2`` of a predictor, if there is one.

    Differences between partitions are taken as randomly labelled and not predicted.
    """
    used = np.flatnonzero(plan.weighted_R() & (plan.p_R < 1))
    Y_R, omega_R, p_R = row_masses(plan, problem)[used], row_noise(plan, problem)[used], plan.p_R[used]
    gram_RR = row_gram(plan, row_masses(plan, problem), zeta2)[np.ix_(used, used)]
    k = float(Y_R.sum())
    inverse = float(row_costs(p_R, omega_R) @ np.diag(gram_RR))
    a_R = selfnorm.solve(Y_R, p_R, k) if np.all(Y_R > 0) else None
    normalised = None if a_R is None else selfnorm.self_normalised_error(a_R, Y_R, p_R, omega_R, gram_RR, k)
    predicted = None
    if prediction2 is not None:
        agree = float(row_costs(p_R) @ (Y_R / k) ** 2)
        predicted = inverse - agree * (1 - prediction2)
    errors = {"inverse": inverse, "self-normalised": normalised, "predictor": predicted}
    known = {name: error for name, error in errors.items() if error is not None}
    best = min(known, key=lambda name: known[name])
    figures = ", ".join(f"{name} {error:.3g}" for name, error in known.items())
    why = f"error over |g|^2 at zeta^2/|g|^2 = {zeta2:.3g}: {figures}"
    if normalised is None:
        why += "; self-normalised weights do not exist: a small row is too often alone"
    return DecodingChoice(best, why, inverse, normalised, predicted)
