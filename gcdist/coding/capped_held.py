"""Data allocation under load caps for partitions that not everybody can read: whole owners first, then shared partitions.

Owners are exchanged along chains until no exchange lowers ``sum_i c_i Y_i^2``; that is the optimum for whole partitions of
equal size. Then partitions are shared with the row that gains most, while a row has room and the noise falls.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.optimize import nnls
from scipy.sparse import csr_array

from gcdist.coding.flow import held_row_sums, positive_costs
from gcdist.coding.owners import assigned
from gcdist.types import F64, I64, Mask

_FIRST = 3e5  # most work of the first growth: entries times (workers + partitions), summed over its supports ...
_WORK = 5e4  # ... and of the search among other owners
_AT_ONCE = 16  # most entries tried before the best of them joins the support
_FALL = 1e-6  # relative fall of the noise: a smaller one ends the search
_HEAVY = 1e4  # weight of the column sums against the noise in the least squares of a trial
_NOTHING = 1e-9  # share of a partition: a smaller one frees its place


def held_under_caps(cost_N: F64, cap_N: F64, mass_K: F64, able_NK: Mask) -> csr_array:
    """Masses (N, K) of the best data allocation found; every partition needs a usable holder.

    Not certified: the best of all supports in 1,000 random problems of n <= 4 and k <= 4 (by brute force). ValueError if
    caps and holders allow no assignment.
    """
    usable = np.isfinite(cost_N)
    able_NK, cost_N = able_NK & usable[:, None], positive_costs(cost_N)
    count_N = np.where(usable, np.floor(np.minimum(cap_N, len(mass_K))), 0).astype(np.int64)
    owner_K = improved_owners(assigned(csr_array(able_NK), count_N), cost_N, count_N, mass_K, able_NK)
    search = _Sharing(np.where(usable, cost_N, np.inf), count_N, mass_K, able_NK)
    held_NK, now = search.grown(owner_K, _FIRST)
    spare, going = search.work + _WORK, True
    while going:  # equally good owners may share better
        going = False
        for other_K in _neighbours(owner_K, count_N, able_NK):
            if search.work > spare:
                break
            found_NK, cost = search.grown(other_K, spare)
            if cost < now * (1 - _FALL):
                owner_K, held_NK, now, going = other_K, found_NK, cost, True
                break
    _, mass_NK = held_row_sums(cost_N, csr_array(held_NK.astype(np.float64)), mass_K)
    return mass_NK


def _neighbours(owner_K: I64, count_N: I64, able_NK: Mask) -> Iterator[I64]:
    """Owners (K,) that differ by one chain of exchanges."""
    for start in np.unique(owner_K).tolist():
        for chain in _chains(start, owner_K, count_N, able_NK, equal=False):
            other_K = owner_K.copy()
            for partition, taker in chain:
                other_K[partition] = taker
            yield other_K


def improved_owners(owner_K: I64, cost_N: F64, count_N: I64, mass_K: F64, able_NK: Mask) -> I64:
    """Owners (K,) with no cheaper chain of exchanges: each worker of a chain gives one partition to the next.

    ``owner_K`` keeps to the counts and holders, and so does the result. Costs are positive and finite.
    """
    owner_K, equal = owner_K.copy(), bool(np.ptp(mass_K) <= 1e-9 * mass_K.max())
    Y_N = np.asarray(np.bincount(owner_K, weights=mass_K, minlength=len(cost_N)), np.float64)
    for _ in range(len(owner_K) * int(count_N.max(initial=1))):  # more than the longest descent seen
        found = None
        for start in np.argsort(-cost_N * Y_N):
            if Y_N[start] == 0:
                break
            found = _best_chain(int(start), owner_K, Y_N, cost_N, count_N, mass_K, able_NK, equal)
            if found is not None:
                break
        if found is None:
            return owner_K
        for partition, taker in found:
            Y_N[owner_K[partition]] -= mass_K[partition]
            Y_N[taker] += mass_K[partition]
            owner_K[partition] = taker
    return owner_K


def _best_chain(
    start: int, owner_K: I64, Y_N: F64, cost_N: F64, count_N: I64, mass_K: F64, able_NK: Mask, equal: bool
) -> list[tuple[int, int]] | None:
    """The chain of (partition, taker) from ``start`` that lowers the noise most; None if none does."""
    least, best = -1e-12 * float(cost_N @ Y_N**2), None
    for chain in _chains(start, owner_K, count_N, able_NK, equal):
        change: dict[int, float] = {}
        for partition, taker in chain:
            giver = int(owner_K[partition])
            change[giver] = change.get(giver, 0.0) - float(mass_K[partition])
            change[taker] = change.get(taker, 0.0) + float(mass_K[partition])
        rise = sum(float(cost_N[i]) * ((float(Y_N[i]) + by) ** 2 - float(Y_N[i]) ** 2) for i, by in change.items())
        if rise < least:
            least, best = rise, chain
    return best


def _chains(start: int, owner_K: I64, count_N: I64, able_NK: Mask, equal: bool) -> list[list[tuple[int, int]]]:
    """A shortest chain to every worker with room; if sizes differ, also every single move and every swap."""
    load_N = np.bincount(owner_K, minlength=len(count_N))
    reached: dict[int, list[tuple[int, int]]] = {start: []}
    queue, found = [start], []
    for giver in queue:  # grows while it is walked
        for j in np.flatnonzero(owner_K == giver).tolist():
            for taker in np.flatnonzero(able_NK[:, j] & (count_N > 0)).tolist():
                chain = [*reached[giver], (j, taker)]
                room = load_N[taker] < count_N[taker]
                if taker not in reached:
                    reached[taker] = chain
                    queue.append(taker)
                    if room:
                        found.append(chain)
                elif not equal and room and giver == start and taker != start:
                    found.append(chain)
    if not equal:
        wanted = np.flatnonzero((owner_K != start) & able_NK[start]).tolist()
        for j in np.flatnonzero(owner_K == start).tolist():
            found += [[(j, int(owner_K[o])), (o, start)] for o in wanted if able_NK[owner_K[o], j]]
    return found


class _Sharing:
    """Grows a support from whole owners; ``work`` sums entries times (workers + partitions) of each solve."""

    def __init__(self, cost_N: F64, count_N: I64, mass_K: F64, able_NK: Mask) -> None:
        self._finite_N = np.where(np.isfinite(cost_N), cost_N, 0.0)
        self._count_N, self._mass_K, self._able_NK = count_N, mass_K, able_NK
        self.work = 0.0

    def grown(self, owner_K: I64, most: float) -> tuple[Mask, float]:
        """The support (N, K) after entries were added where they lower the noise most, and ``sum c_i Y_i^2`` on it;
        none is added beyond ``most`` work.
        """
        held_NK = np.zeros(self._able_NK.shape, np.bool_)
        held_NK[owner_K, np.arange(len(owner_K))] = True
        share_NK = np.where(held_NK, self._mass_K[None, :], 0.0)
        now = float(self._finite_N @ share_NK.sum(axis=1) ** 2)
        while self.work <= most:
            found = self._next(held_NK, share_NK, now)
            if found is None:
                break
            held_NK, share_NK, now = found
            held_NK = held_NK & (share_NK > _NOTHING * self._mass_K[None, :])
        return held_NK, now

    def _next(self, held_NK: Mask, share_NK: F64, now: float) -> tuple[Mask, F64, float] | None:
        slope_N = self._finite_N * share_NK.sum(axis=1)
        highest_K = np.where(share_NK > 0, slope_N[:, None], -np.inf).max(axis=0)
        may_NK = self._able_NK & ~held_NK & (held_NK.sum(axis=1) < self._count_N)[:, None]
        gain_NK = np.where(may_NK, highest_K[None, :] - slope_N[:, None], 0.0)
        found = None
        for at in np.argsort(-gain_NK, axis=None, kind="stable")[:_AT_ONCE]:
            i, j = np.unravel_index(int(at), gain_NK.shape)
            if gain_NK[i, j] <= 0:
                break
            trial_NK = held_NK.copy()
            trial_NK[i, j] = True
            trial_share_NK, cost = self._solved(trial_NK)
            if cost < now * (1 - _FALL) and (found is None or cost < found[2]):
                found = trial_NK, trial_share_NK, cost
        return found

    def _solved(self, held_NK: Mask) -> tuple[F64, float]:
        """Nearly the best masses (N, K) on a support, and their cost: least squares with heavy column sums."""
        row, col = np.nonzero(held_NK)
        n, k = held_NK.shape
        self.work += len(row) * (n + k)
        root_N = np.sqrt(self._finite_N)
        system, edge = np.zeros((n + k, len(row))), np.arange(len(row))
        system[row, edge] = root_N[row] / max(float(root_N.max()), 1e-300)
        system[n + col, edge] = _HEAVY
        mass_E, _ = nnls(system, np.concatenate([np.zeros(n), _HEAVY * self._mass_K]), maxiter=50 * len(row))
        share_NK = np.zeros((n, k))
        share_NK[row, col] = mass_E
        return share_NK, float(self._finite_N @ share_NK.sum(axis=1) ** 2)
