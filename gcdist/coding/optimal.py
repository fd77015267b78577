"""The optimal structured code: row costs, row sums and the figure F they reach (math section 2; papers 1 and 2).

Minimise ``sum_i c_i Y_i^2`` over row sums with ``sum_i Y_i = k``, where ``c_i = (p_i + omega_i)/(1 - p_i)`` is the noise
of one message per unit of energy. The minimum is ``k^2/F`` with ``F = sum_i 1/c_i`` at ``Y_i = k (1/c_i)/F``.
"""

from __future__ import annotations

import numpy as np

from gcdist.types import F64


def row_costs(p_N: F64, omega_N: F64 | float = 0.0) -> F64:
    """Noise of each message per unit of energy, ``c = (p + omega)/(1 - p)``; inf where ``p = 1`` or ``omega = inf``.

    >>> row_costs(np.array([0.0, 0.2, 1.0]), 0.3).tolist()
    [0.3, 0.625, inf]
    """
    p_N, omega_N = np.broadcast_arrays(np.asarray(p_N, np.float64), np.asarray(omega_N, np.float64))
    cost_N = np.full(p_N.shape, np.inf)
    usable = (p_N < 1) & np.isfinite(omega_N)
    cost_N[usable] = (p_N[usable] + omega_N[usable]) / (1 - p_N[usable])
    return cost_N


def total_gain(cost_N: F64) -> float:
    """``F = sum_i 1/c_i``: |g|^2 over the error for partitions with equal gradients; inf if some cost is 0.

    >>> total_gain(np.array([0.5, 0.25, np.inf]))
    6.0
    """
    return float(np.inf) if np.any(cost_N == 0) else float(np.sum(1 / cost_N))


def row_sums(cost_N: F64, total: float, speed_N: F64 | None = None) -> F64:
    """Optimal row sums ``Y`` (N,), ``sum Y = total`` (paper 1 section IV; paper 2 for omega > 0).

    Rows that cost nothing (``c = 0``) share everything, in proportion to ``speed_N`` (equally if None): F is infinite
    then. ValueError if no row is usable.

    >>> row_sums(np.array([0.5, 0.25, np.inf]), 3.0).tolist()
    [1.0, 2.0, 0.0]
    """
    free = cost_N == 0
    if free.any():
        share_N = np.where(free, 1.0 if speed_N is None else speed_N, 0.0)
    else:
        share_N = 1 / cost_N
        if not share_N.any():
            raise ValueError("no worker is usable: every p is 1 or every quantization noise is infinite")
    return np.asarray(share_N * (total / share_N.sum()), np.float64)
