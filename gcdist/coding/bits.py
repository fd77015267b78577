"""Bit allocation: maximise ``F(b) = sum_i (1-p_i)/(p_i + omega(b_i))`` under a budget (math section 3)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gcdist.coding.bits_dp import dynamic_programme
from gcdist.coding.bits_envelope import envelope
from gcdist.coding.bits_waterfill import water_fill
from gcdist.coding.optimal import row_costs
from gcdist.names import unknown
from gcdist.types import F64, I64

SOLVERS = ("auto", "dp", "waterfill", "envelope")
DP_LIMIT = 1e9  # n * budget * widths up to which `auto` solves exactly


@dataclass(frozen=True, slots=True, eq=False)
class BitAllocation:
    """Bits, their gain F, and ``F_upper``, a bound of F for all allocations within the budget and caps."""

    bits_N: I64
    F: float
    F_upper: float
    solver: str  # dp (exact: F_upper = F), waterfill or envelope

    @property
    def gap(self) -> float:
        """``F_upper - F``; 0 if both are infinite."""
        return 0.0 if np.isinf(self.F) else self.F_upper - self.F


def gains(p_N: F64, noise: F64, cap_N: I64) -> tuple[F64, I64]:
    """The table ``f_i(b) = (1-p_i)/(p_i + omega(b))`` (N, W) and its widths (W,): 0, then those of finite noise.

    -inf where a width is above the worker's cap; inf where p and omega are both 0.
    """
    width_W = np.concatenate([[0], np.flatnonzero(np.isfinite(noise[1:])) + 1]).astype(np.int64)
    cost_NW = row_costs(np.asarray(p_N, np.float64)[:, None], noise[width_W][None, :])
    with np.errstate(divide="ignore"):
        gain_NW = 1 / cost_NW
    gain_NW[:, 0] = 0.0
    gain_NW[width_W[None, :] > cap_N[:, None]] = -np.inf
    gain_NW[:, 0] = 0.0
    return gain_NW, width_W


def allocate_bits(p_N: F64, noise: F64, bits_total: float, cap_N: I64, solver: str = "auto") -> BitAllocation:
    """Packed bits for each worker, ``sum b_i <= bits_total``, ``b_i <= cap_i`` (paper 2's bit allocation; math section 3).

    ``noise`` (B+1,) is omega by bits with inf at 0; widths of infinite noise are not used. ``auto`` is exact up to
    `DP_LIMIT`; ``solver`` names the method. A worker with cost 0 (p = 0 and omega = 0) makes F infinite, and then only
    such workers get bits.

    >>> found = allocate_bits(np.array([0.1, 0.5]), np.array([np.inf, 1.0, 0.1]), 3, np.array([2, 2]))
    >>> found.bits_N.tolist(), round(found.F, 3), found.solver
    ([2, 1], 4.833, 'dp')
    """
    if solver not in SOLVERS:
        raise unknown("solver", solver, SOLVERS)
    if not bits_total >= 0:
        raise ValueError(f"bits_total is {bits_total}: it must be 0 or more")
    gain_NW, width_W = gains(p_N, noise, np.asarray(cap_N, np.int64))
    rows = np.arange(len(gain_NW))
    usable = np.where(gain_NW > -np.inf, width_W[None, :], 0).max(axis=1)
    budget = int(min(bits_total, float(usable.sum())))
    if np.isposinf(gain_NW).any():
        bits_N = _free(gain_NW, width_W, budget)
        if bits_N.any():
            return BitAllocation(bits_N, np.inf, np.inf, "dp" if solver == "auto" else solver)
        gain_NW = np.where(np.isposinf(gain_NW), -np.inf, gain_NW)  # nobody can pay for that width
    if solver == "auto":
        solver = "dp" if len(gain_NW) * (budget + 1) * len(width_W) <= DP_LIMIT else "envelope"
    if solver == "dp":
        bits_N, upper = dynamic_programme(gain_NW, width_W, budget), None
    else:
        bits_N, upper = envelope(gain_NW, width_W, budget)
        if solver == "waterfill":
            bits_N = water_fill(gain_NW, width_W, budget, 1 - np.asarray(p_N, np.float64))
    F = float(gain_NW[rows, np.searchsorted(width_W, bits_N)].sum())
    return BitAllocation(bits_N, F, F if upper is None else max(F, upper), solver)


def _free(gain_NW: F64, width_W: I64, budget: int) -> I64:
    """Bits for as many workers of infinite gain as the budget pays for, cheapest first; all 0 if it pays for none."""
    free = np.isposinf(gain_NW)
    need_N = np.where(free.any(axis=1), width_W[np.argmax(free, axis=1)], budget + 1)
    order = np.argsort(need_N, kind="stable")
    paid = order[np.cumsum(need_N[order]) <= budget]
    bits_N = np.zeros(len(gain_NW), np.int64)
    bits_N[paid] = need_N[paid]
    return bits_N
