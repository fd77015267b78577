"""Arrival statistics: each worker's chance to miss a deadline, from its censored past (math.md sections 5 and 8)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from gcdist.types import F64, Mask, Seen

_ROUNDING = 1e-9  # a closing's stamp minus the opening's may fall this much short of the deadline


class Arrivals:
    """The last ``window`` outcomes of each worker, and Kaplan-Meier estimates of missing a deadline from them.

    The estimate is Kaplan and Meier's (1958) on the m outcomes plus pseudo-outcomes: one that arrives at time zero, and a
    prior of weight ``w = prior_weight^2 / (prior_weight + m)``: ``w (1-prior_p)`` that arrive at time zero and ``w prior_p``
    that never do. Without censoring below the deadline, A arrivals in m rounds give

        1/(1-p) = (m + 1 + w) / (A + 1 + w (1-prior_p)),

    as w vanishes the weight from counts of math.md section 5: ``E[1/(1-p)] (1-q) = 1 - q^(m+1)`` at the true q. A p is at
    least half a miss in the rounds seen and at most 1 - 1/(m+1), so never 0 or 1. Without outcomes it is ``prior_p``. p is
    constant in load for now.
    """

    def __init__(self, workers: int, window: int = 200, prior_p: float = 0.1, prior_weight: float = 2.0) -> None:
        if not 0 < prior_p < 1:
            raise ValueError(f"prior_p: found {prior_p}; should be between 0 and 1")
        if prior_weight <= 0:
            raise ValueError(f"prior_weight: found {prior_weight}; should be above 0")
        if window < 1:
            raise ValueError(f"window: found {window}; should be at least 1")
        self.workers = workers
        self.window = window
        self.prior_p = prior_p
        self.prior_weight = prior_weight
        self.forget()

    def forget(self) -> None:
        """Start without outcomes again."""
        workers, window = self.workers, self.window
        self._seconds_NW = np.full((workers, window), math.inf)
        self._in_NW = np.zeros((workers, window), bool)  # arrived; else censored or an empty slot
        self._out_NW = np.zeros((workers, window), bool)  # censored
        self._ready_NW = np.zeros((workers, window), bool)
        self._key_NW: list[list[tuple[int, int] | None]] = [[None] * window for _ in range(workers)]
        self._slot: list[dict[tuple[int, int], int]] = [{} for _ in range(workers)]  # (row, step) -> slot
        self._next = [0] * workers

    def state_dict(self) -> dict[str, Any]:
        """The outcomes held, for a checkpoint, as copies. ``key`` (N, window, 2) is (row, step), -1 where none is."""
        key = [[(-1, -1) if each is None else each for each in keys] for keys in self._key_NW]
        return {
            "seconds": self._seconds_NW.copy(),
            "in": self._in_NW.copy(),
            "out": self._out_NW.copy(),
            "ready": self._ready_NW.copy(),
            "key": np.array(key, np.int64).reshape(self.workers, self.window, 2),
            "next": list(self._next),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what `state_dict` gave; ValueError if it is of other workers or another window."""
        found = state["key"].shape[:2]
        if found != (self.workers, self.window):
            raise ValueError(f"arrivals of {found[0]} workers and a window of {found[1]}")
        self._seconds_NW[:], self._in_NW[:] = state["seconds"], state["in"]
        self._out_NW[:], self._ready_NW[:] = state["out"], state["ready"]
        for i, keys in enumerate(state["key"].tolist()):
            self._key_NW[i] = [None if row < 0 else (row, step) for row, step in keys]
            self._slot[i] = {key: slot for slot, key in enumerate(self._key_NW[i]) if key is not None}
        self._next = list(state["next"])

    def observe(self, seen: Seen) -> None:
        """Take in one outcome; O(1). Cold rounds are left out; an outcome of a (row, step) seen before replaces it."""
        if seen.cold:
            return
        i, key = seen.worker, (seen.row, seen.step)
        slot = self._slot[i].get(key)
        if slot is None:
            slot = self._next[i]
            self._next[i] = (slot + 1) % self.window
            old = self._key_NW[i][slot]
            if old is not None:
                del self._slot[i][old]
            self._key_NW[i][slot] = key
            self._slot[i][key] = slot
        self._seconds_NW[i, slot] = seen.seconds
        self._in_NW[i, slot] = not seen.censored
        self._out_NW[i, slot] = seen.censored
        self._ready_NW[i, slot] = seen.ready

    def miss(self, deadline: float, ready_N: Mask, prior_N: F64 | None = None) -> F64:
        """P(not in by ``deadline`` | readiness at the opening), (N,).

        A worker that is not ready is judged by its rounds that began so, with its ready estimate as prior, or with
        ``prior_N`` where that is given.
        """
        if prior_N is None:
            prior_N = self._estimate(deadline, self._ready_NW, np.full(self.workers, self.prior_p))
        busy_N = self._estimate(deadline, ~self._ready_NW, prior_N)
        return np.where(ready_N, prior_N, busy_N)

    def late(self, worker: int, deadline: float) -> float:
        """P(not in by ``deadline``) of one worker in the long run, ready or not: for planning."""
        one = slice(worker, worker + 1)
        return float(self._estimate(deadline, np.ones((1, self.window), bool), np.full(1, self.prior_p), one)[0])

    def late_N(self, deadline: float) -> F64:
        """`late` of all workers, (N,)."""
        every = np.ones((self.workers, self.window), bool)
        return self._estimate(deadline, every, np.full(self.workers, self.prior_p))

    def count_N(self) -> F64:
        """Outcomes held of each worker, (N,)."""
        counts: F64 = (self._in_NW | self._out_NW).sum(axis=1, dtype=np.float64)
        return counts

    def arrived(self) -> F64:
        """Seconds of all held arrivals of all workers, ascending."""
        return np.sort(self._seconds_NW[self._in_NW])

    def missed_N(self, deadline: float) -> Mask:
        """Workers with an outcome that is known to have missed ``deadline``, (N,)."""
        censored_NW = self._out_NW & (self._seconds_NW >= deadline * (1 - _ROUNDING))
        missed: Mask = np.any(censored_NW | (self._in_NW & (self._seconds_NW > deadline)), axis=1)
        return missed

    def survival(self, times_G: F64) -> F64:
        """Plain Kaplan-Meier, without pseudo-outcomes and bounds: P(not in by each time) in the long run, (N, G).

        It is 0 from a last outcome that arrived, and level beyond one that was censored. A worker without outcomes has
        ``prior_p`` throughout.
        """
        held = self._in_NW | self._out_NW
        none = np.zeros((self.workers, 1))
        order, factor = _factors(self._seconds_NW, self._in_NW, held, none)
        curve_NW = np.concatenate([1 - none, np.cumprod(factor, axis=1)], axis=1)
        times_NW = np.take_along_axis(np.where(held, self._seconds_NW, math.inf), order, axis=1)
        result = np.empty((self.workers, len(times_G)))
        for i in range(self.workers):
            result[i] = curve_NW[i, np.searchsorted(times_NW[i], times_G, side="right")]
        return np.where(held.any(axis=1, keepdims=True), result, self.prior_p)

    def _estimate(self, deadline: float, use_NW: Mask, prior_N: F64, workers: slice = slice(None)) -> F64:
        """Kaplan-Meier with the pseudo-outcomes on the slots ``use_NW``."""
        seconds = self._seconds_NW[workers]
        arrived = self._in_NW[workers] & use_NW
        censored = self._out_NW[workers] & use_NW
        m = (arrived | censored).sum(axis=1).astype(np.float64)
        w = self.prior_weight**2 / (self.prior_weight + m)
        inside = arrived & (seconds <= deadline)
        p = (m - inside.sum(axis=1) + w * prior_N) / (m + 1 + w)
        # censored before the deadline (an early closing, a longer deadline now): their fate up to it is open
        open_N = (censored & (seconds < deadline * (1 - _ROUNDING))).any(axis=1)
        if open_N.any():
            held = arrived[open_N] | censored[open_N]
            never = (w * prior_N)[open_N]
            _, factor = _factors(seconds[open_N], inside[open_N], held, never[:, None])
            start = (m[open_N] + never) / (m + 1 + w)[open_N]
            p[open_N] = start * factor.prod(axis=1)
        p = np.clip(p, 0.5 / (m + 1), m / (m + 1))
        return np.where(m > 0, p, prior_N)


def _factors(
    seconds: F64, inside: Mask, held: Mask, never: F64
) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.intp]], F64]:
    """Order of the slots in time, and the factor ``1 - 1/at risk`` of each slot of that order (1 where nothing arrives).

    Arrivals come before censorings of the same time; ``never`` (N, 1) are pseudo-outcomes that stay at risk for ever.
    """
    order = np.lexsort((~inside, np.where(held, seconds, math.inf)), axis=1)
    events = np.take_along_axis(inside, order, axis=1)
    at_risk = held.sum(axis=1, keepdims=True) - np.arange(seconds.shape[1]) + never
    factor: F64 = np.where(events, 1 - 1 / np.where(events, at_risk, 1.0), 1.0)
    return order, factor
