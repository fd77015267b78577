"""Noise of the decoded gradient: planned from p and the noise law, and observed from the arrivals."""

from __future__ import annotations

import math

import numpy as np

from gcdist.coding import row_costs
from gcdist.master.round_result import RoundResult
from gcdist.types import F64, Plan, StepTerms


def noise_planned(
    plan: Plan,
    terms: StepTerms,
    omega_by_bits: F64,
    size_K: F64,
    spread: float = 0.0,
    left: tuple[float, float] = (1.0, 1.0),
    rows_spread: float | None = None,
) -> float:
    """``sum_i c_i (Y_i/k)^2``, with p of this step: error over |g|^2 if all partitions agree (math sections 1 and 10).

    Cut rows add ``(1+omega)/(1-p) E[l^2/m - l] S^2/|g|^2`` each, and differ by as much as was measured, as in
    `coding.cut_loads.cut_costs`; ``spread`` is ``S^2/|g|^2``, ``rows_spread`` the same by what rows differ by. A memory of
    partitions leaves the share ``left[0]`` of what cuts add, and a shift ``left[1]`` of the rest.
    """
    p_R = terms.p_R
    rows = np.flatnonzero(plan.weighted_R() & (p_R < 1))
    share_R = np.asarray(plan.A_RK @ size_K)
    omega = omega_by_bits[plan.bits_RS[rows]].mean(axis=1)
    energy_R = share_R[rows] ** 2
    if terms.excess_R is not None:
        apart = spread if rows_spread is None else rows_spread
        energy_R = max(0.0, 1 - len(size_K) * apart) * energy_R + np.diff(plan.A_RK.indptr)[rows] * apart
    noise_R = row_costs(p_R[rows], omega) * energy_R * left[1]
    if terms.excess_R is not None:
        noise_R = noise_R + (1 + omega) / (1 - p_R[rows]) * terms.excess_R[rows] * spread * left[0]
    return float(np.sum(noise_R))


def noise_observed(result: RoundResult, omega_by_bits: F64) -> float | None:
    """Error over |g|^2 as what arrived shows it: the noise of `signal_and_energy` over |ghat|^2 minus itself.

    None if nothing arrived, or if the noise hides the signal.
    """
    if result.gradient is None or not result.counted:
        return None
    signal = signal_and_energy(result, omega_by_bits)[0]
    return (result.energy - signal) / signal if signal > 0 else None


def signal_and_energy(result: RoundResult, omega_by_bits: F64) -> tuple[float, float]:
    """Estimates, without bias where the promises hold, of |g|^2 (may be negative) and of the rows' ``sum_i |y_i|^2``.

    ``|g|^2`` is |ghat|^2 less its noise. A row that arrived with m of its l partitions stands for

        ((p+omega) |yhat|^2/(1-p) + (l^2/m - l) s^2)/(1-p)

    of it, whose mean is the row's part in the error of math section 10: ``|yhat|^2`` holds ``(l^2/m - l) s^2`` beside
    ``|y|^2``. Of a row with m = 1 < l, s^2 is taken from the step's other rows.
    """
    if result.gradient is None:
        return 0.0, 0.0
    noise = energy = 0.0
    spreads = [counted.sidecar.spread for counted in result.counted if len(counted.sidecar.parts_P4) > 1]
    usual = float(np.mean(spreads)) if spreads else 0.0
    rows = np.array([counted.row for counted in result.counted], np.int64)
    p_C = result.terms.p_R[rows]
    cost_C = row_costs(p_C, omega_by_bits[result.plan.bits_RS[rows, 0]])  # all segments of a row have the same bits
    load_C = np.diff(result.plan.A_RK.indptr)[rows]
    figures = zip(result.counted, p_C.tolist(), cost_C.tolist(), load_C.tolist(), strict=True)
    for counted, p, cost, load in figures:
        if p >= 1:
            continue
        missing = 0.0
        done = len(counted.sidecar.parts_P4)
        if result.plan.partial and 0 < done < load:
            spread = counted.sidecar.spread
            missing = (load * load / done - load) * (usual if math.isnan(spread) else spread)
        noise += (cost * counted.sidecar.energy + missing) / (1 - p)
        energy += max(0.0, counted.sidecar.energy - missing) / (1 - p)
    return result.energy - noise, energy
