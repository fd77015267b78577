"""The error of any scheme at the same problem, through its own decoder, for the comparison table."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gcdist.coding import selfnorm
from gcdist.coding.optimal import row_costs
from gcdist.planning.decoding import row_gram, row_norms
from gcdist.planning.report import row_masses, row_noise
from gcdist.types import F64, I64, GradientCode, Plan, Problem, StepTerms, Weighting


@dataclass(frozen=True, slots=True)
class SchemeError:
    """E|ghat - g|^2/|g|^2 with its standard error (0: exact), and E ghat along g (1: unbiased there)."""

    ratio: float
    error: float
    mean: float


def scheme_error(code: GradientCode, plan: Plan, problem: Problem, zeta2: float, draws: int, seed: int) -> SchemeError:
    """Monte Carlo over arrivals by ``plan.p_R`` (independent) through the code's decoder; rounding noise in expectation.

    Partitions' gradients have |g| = 1 and ``zeta2 = zeta^2/|g|^2`` spread evenly over all directions. A code that waits
    until it can decode sees everybody, in random order, until it is complete. Steps without arrivals count
    with ghat = 0, except that self-normalised decoding skips them as its formula does.
    """
    rng = np.random.default_rng(seed)
    terms = StepTerms(float("inf"), plan.p_R)
    rows = np.flatnonzero(plan.weighted_R())
    k = plan.A_RK.shape[1]
    share_R = row_masses(plan, problem) / k
    omega_R = np.where(plan.weighted_R(), row_noise(plan, problem), 0.0)
    norms_R = row_norms(plan, row_masses(plan, problem), zeta2)
    differ = zeta2 / (k * (k - 1)) if k > 1 else 0.0
    skips = code.weighting is Weighting.SELF_NORMALISED
    found, along = [], []
    for _ in range(draws):
        weight_R = _weights(code, plan, terms, rows, rng)
        if weight_R is None:
            if skips:
                continue
            weight_R = np.zeros(plan.rows)
        toward = float(weight_R @ share_R)
        error = (toward - 1) ** 2 + float((weight_R**2 * omega_R) @ norms_R)
        if differ:
            miss_K = np.asarray(plan.A_RK.T @ weight_R) - 1
            error += differ * float(miss_K @ miss_K - miss_K.sum() ** 2 / k)
        found.append(error)
        along.append(toward)
    if not found:
        raise ValueError(f"{code.name}: nobody arrived in {draws} draws")
    values = np.array(found)
    return SchemeError(float(values.mean()), float(values.std() / np.sqrt(len(values))), float(np.mean(along)))


def known_error(code: GradientCode, plan: Plan, problem: Problem, zeta2: float) -> float | None:
    """The same E|ghat - g|^2/|g|^2 by its formula, where there is one: fixed unbiased weights, or self-normalised decoding.

    For `shifted` it is that of the first step, with h = 0.
    """
    if not plan.covered_K.all() or code.weighting is Weighting.STALE:
        return None
    used = np.flatnonzero(plan.weighted_R() & (plan.p_R < 1))
    Y_R, omega_R, p_R = row_masses(plan, problem)[used], row_noise(plan, problem)[used], plan.p_R[used]
    if code.weighting in (Weighting.ONE, Weighting.INVERSE, Weighting.PREDICTOR):
        norm_R = row_norms(plan, row_masses(plan, problem), zeta2)[used]
        return float((omega_R if code.weighting is Weighting.ONE else row_costs(p_R, omega_R)) @ norm_R)
    if code.weighting is not Weighting.SELF_NORMALISED or np.any(Y_R <= 0):
        return None
    k = float(Y_R.sum())
    a_R = selfnorm.solve(Y_R, p_R, k)
    if a_R is None:
        return float(row_costs(p_R, omega_R) @ row_norms(plan, row_masses(plan, problem), zeta2)[used])
    gram_RR = row_gram(plan, row_masses(plan, problem), zeta2)[np.ix_(used, used)]
    return selfnorm.self_normalised_error(a_R, Y_R, p_R, omega_R, gram_RR, k)


def _weights(code: GradientCode, plan: Plan, terms: StepTerms, rows: I64, rng: np.random.Generator) -> F64 | None:
    """The weight (R,) of every message in one step's estimate; None if nothing arrived."""
    here = rows if code.waits else rows[rng.random(len(rows)) >= plan.p_R[rows]]
    arrived = rng.permutation(here)
    if not len(arrived):
        return None
    decoder, weight_R = code.open(plan, terms), np.zeros(plan.rows)
    for row in arrived:
        weight_R[row] = decoder.arrive(int(row)).weight or 0.0
        if decoder.complete():
            break
    closing = decoder.close()
    weight_R *= closing.scale
    for row, weight in closing.kept:
        weight_R[row] = weight
    return weight_R
