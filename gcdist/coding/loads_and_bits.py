"""Whole loads and bits together, where p depends on the load: exact, or with a certified gap (math section 4)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gcdist.coding.loads import bits_for_rows, late_table, load_costs, solved_loads
from gcdist.types import F64, I64, Problem

EXACT_WORK = 2e8  # sums up to which loads and bits are solved by one dynamic programme
_SEARCH_LIMIT = 2e7  # most sums of an exact load allocation in the search for a price of bits; above, by derivative
_PRICED = 1.02  # ratio of two prices of bits: the search ends below it


@dataclass(frozen=True, slots=True, eq=False)
class LoadsAndBits:
    """Loads and bits (N,), their ``noise = sum_i h_i``, and a lower ``bound`` for all whole loads and bits.

    With ``h_i(l, b) = l^2 (p_i(l) + omega(b))/(1 - p_i(l))``. ``bound == noise`` where it is the optimum.
    """

    load_N: I64
    bits_N: I64
    noise: float
    bound: float


def plan_loads_and_bits(problem: Problem) -> LoadsAndBits:
    """Loads and bits for `joint`: by a dynamic programme over both up to `EXACT_WORK` sums, else by a price of bits.

    The price is found by bisection; its Lagrangian is the bound. Then bits given loads and loads given bits are solved in
    turn, while the noise falls. ValueError if the budget pays for too few messages.
    """
    p_NL, width_W = late_table(problem), np.flatnonzero(np.isfinite(problem.noise))
    width_W = width_W[width_W > 0]
    if not width_W.size or problem.bits_total < width_W[0]:
        raise ValueError(f"bits_total {problem.bits_total:g} pays for no message: the smallest width is {width_W[:1]}")
    most_N = width_W[np.maximum(np.searchsorted(width_W, problem.bits_cap_N, side="right") - 1, 0)]
    budget = int(min(problem.bits_total, float(most_N.sum())))
    work = float(problem.n) * len(width_W) * p_NL.shape[1] * (problem.k + 1.0) * (budget + 1.0)
    if work <= EXACT_WORK:
        return _exact(problem, p_NL, width_W, budget)
    return _priced(problem, p_NL, width_W)


def _noise(problem: Problem, p_NL: F64, load_N: I64, bits_N: I64) -> float:
    """``sum_i h_i`` at these loads and bits."""
    return float(load_costs(p_NL, problem.noise[bits_N])[np.arange(problem.n), load_N].sum())


def _exact(problem: Problem, p_NL: F64, width_W: I64, budget: int) -> LoadsAndBits:
    """The optimum by a dynamic programme over workers with two budgets, partitions and bits."""
    k, cap_N = problem.k, np.asarray(problem.bits_cap_N, np.int64)
    best_TB = np.full((k + 1, budget + 1), np.inf)
    best_TB[0] = 0.0
    choices = []
    h_WNL = np.array([load_costs(p_NL, float(problem.noise[b])) for b in width_W])
    for i in range(problem.n):
        before_TB, best_TB = best_TB, best_TB.copy()
        choice_TB = np.zeros((k + 1, budget + 1), np.int32)  # load * (widths + 1) + (width's number + 1); 0: no row
        for w, bits in enumerate(width_W.tolist()):
            if bits > min(cap_N[i], budget):
                continue
            for load in np.flatnonzero(np.isfinite(h_WNL[w, i, : k + 1])).tolist():
                if load == 0:
                    continue
                tried = before_TB[: k + 1 - load, : budget + 1 - bits] + h_WNL[w, i, load]
                into = best_TB[load:, bits:]
                better = tried < into
                np.copyto(into, tried, where=better)
                choice_TB[load:, bits:][better] = load * (len(width_W) + 1) + w + 1
        choices.append(choice_TB)
    if not np.isfinite(best_TB[k, budget]):
        raise _too_few(problem)
    load_N, bits_N = np.zeros(problem.n, np.int64), np.zeros(problem.n, np.int64)
    left, bits_left = k, int(np.argmin(best_TB[k]))
    for i in range(problem.n - 1, -1, -1):
        load, w = divmod(int(choices[i][left, bits_left]), len(width_W) + 1)
        load_N[i] = load
        bits_N[i] = width_W[w - 1] if load else 0
        left, bits_left = left - load, bits_left - int(bits_N[i])
    noise = _noise(problem, p_NL, load_N, bits_N)
    return LoadsAndBits(load_N, bits_N, noise, noise)


def _too_few(problem: Problem) -> ValueError:
    return ValueError(
        f"no loads that sum to {problem.k} leave every used worker a chance to arrive within bits_total "
        f"{problem.bits_total:g}: it pays for too few messages to carry them"
    )


def _priced(problem: Problem, p_NL: F64, width_W: I64) -> LoadsAndBits:
    """Loads and bits at one price of bits, the Lagrangian bound, then each given the other."""
    cap_N, rows, bound = np.asarray(problem.bits_cap_N, np.int64), np.arange(problem.n), 0.0

    def at_price(price: float) -> tuple[I64, I64]:
        nonlocal bound
        best_NL, bits_NL = np.full(p_NL.shape, np.inf), np.zeros(p_NL.shape, np.int64)
        for b in width_W:
            h_NL = np.where((cap_N >= b)[:, None], load_costs(p_NL, float(problem.noise[b])) + price * b, np.inf)
            better = h_NL < best_NL
            best_NL, bits_NL = np.where(better, h_NL, best_NL), np.where(better, b, bits_NL)
        best_NL[:, 0], bits_NL[:, 0] = 0.0, 0
        load_N = solved_loads(best_NL, problem.k, _SEARCH_LIMIT)
        if problem.n * problem.k * p_NL.shape[1] <= _SEARCH_LIMIT:  # solved exactly: the dual is a bound
            bound = max(bound, float(best_NL[rows, load_N].sum()) - price * problem.bits_total)
        return load_N, bits_NL[rows, load_N]

    load_N, bits_N = at_price(0.0)
    if bits_N.sum() > problem.bits_total:
        low = high = 1e-6
        while True:
            load_N, bits_N = at_price(high)
            if bits_N.sum() <= problem.bits_total:
                break
            low, high = high, high * 16
            if high > 1e30:
                raise _too_few(problem)
        while high > low * _PRICED and bits_N.sum() < problem.bits_total:
            middle = float(np.sqrt(low * high))
            found = at_price(middle)
            if found[1].sum() > problem.bits_total:
                low = middle
            else:
                high, (load_N, bits_N) = middle, found
    load_N, bits_N = _in_turn(problem, p_NL, load_N, bits_N)
    noise = _noise(problem, p_NL, load_N, bits_N)
    return LoadsAndBits(load_N, bits_N, noise, min(bound, noise))


def _in_turn(problem: Problem, p_NL: F64, load_N: I64, bits_N: I64) -> tuple[I64, I64]:
    """Bits given loads and loads given bits, each exact, until the noise stands still (p is in it, not estimated anew)."""
    rows, now = np.arange(problem.n), _noise(problem, p_NL, load_N, bits_N)
    while True:
        bits_N = bits_for_rows(load_N**2 / (1 - p_NL[rows, load_N]), problem)
        next_N = solved_loads(load_costs(p_NL, problem.noise[bits_N]), problem.k)
        then = _noise(problem, p_NL, next_N, bits_N)
        if then <= now:
            load_N = next_N
        if not then < now * (1 - 1e-9):
            return load_N, bits_N
        now = then
