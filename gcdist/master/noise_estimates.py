"""Noise of the decoded gradient: as a step plans it, and as its arrivals show it."""

from __future__ import annotations

import numpy as np

from gcdist.master.driver import RoundResult
from gcdist.quantize.grid import measure
from gcdist.types import F64, Plan


def noise_planned(plan: Plan, p_R: F64, omega_by_bits: F64, size_K: F64) -> float:
    """``sum_i c_i (Y_i/k)^2`` under the step's own p: error over |g|^2 if all partitions agree (math section 1)."""
    rows = np.flatnonzero(plan.weighted_R() & (p_R < 1))
    share_R = np.asarray(plan.A_RK @ size_K)
    omega = omega_by_bits[plan.bits_RS[rows]].mean(axis=1)
    return float(np.sum((p_R[rows] + omega) / (1 - p_R[rows]) * share_R[rows] ** 2))


def noise_observed(result: RoundResult, omega_by_bits: F64) -> float | None:
    """``sum_i I_i w_i c_i |y_i|^2`` over |ghat|^2 minus itself: an estimate of error over |g|^2 from what arrived.

    None if nothing arrived, or if the noise hides the signal.
    """
    if result.gradient is None or not result.counted:
        return None
    _, energy, _ = measure(result.gradient)
    signal = signal_and_energy(result, omega_by_bits)[0]
    return (energy - signal) / signal if signal > 0 else None


def signal_and_energy(result: RoundResult, omega_by_bits: F64) -> tuple[float, float]:
    """Estimates, without bias where the promises hold, of |g|^2 (may be negative) and of the rows' ``sum_i |y_i|^2``."""
    if result.gradient is None:
        return 0.0, 0.0
    noise = energy = 0.0
    for counted in result.counted:
        p = float(result.terms.p_R[counted.row])
        omega = float(omega_by_bits[result.plan.bits_RS[counted.row]].mean())
        if p < 1:
            noise += (p + omega) / (1 - p) ** 2 * counted.sidecar.energy
            energy += counted.sidecar.energy / (1 - p)
    return measure(result.gradient)[1] - noise, energy
