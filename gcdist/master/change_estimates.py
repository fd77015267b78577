"""Running estimates of how much the gradients of each worker's partitions change, from the sidecars of its messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gcdist.exchange.sidecar import Sidecar
from gcdist.planning.changes import Changes
from gcdist.types import F64, Mask

FORGET = 0.8  # factor, for each message, of the older ones
BEGIN, GO_ON = 0.5, 0.8  # a worker's memory begins where it leaves less than half of both noises, and ends above 0.8
POOLED = 2.0  # messages that the mean of all workers counts for beside a worker's own
LEAST = 1e-12  # of a ratio


class ChangeEstimates:
    """Exponential geometric means of each worker's ratios, for a step of age (`worker.change_watch.Change`).

    Geometric, as ratios go over many powers of ten: one row after a large step must not stand for all.
    """

    def __init__(self, workers: int) -> None:
        self._sums_3N = np.zeros((3, workers))  # of the logarithms of both ratios over the age, and of 1
        self._room_N = np.zeros(workers)
        self._age_N = np.ones(workers)

    def observe(self, worker: int, load: int, sidecar: Sidecar) -> None:
        """Take in a message of a row of so many partitions."""
        self._room_N[worker] = sidecar.memory
        if sidecar.change < 0 or sidecar.row_change < 0 or sidecar.change_age <= 0:
            return
        row, m = sidecar.row_change, len(sidecar.parts_P4)
        if sidecar.remembers and m and sidecar.sum_energy > 0:
            # the shift lags behind sum a_j h_j: |x|^2 as it was sent, in the place of |sum of differences|^2
            row *= max(1.0, sidecar.energy / (sidecar.sum_energy * (load / m) ** 2))
        ratio_2 = np.maximum(LEAST, np.array([sidecar.change, row]) / sidecar.change_age)
        self._sums_3N[:, worker] = FORGET * self._sums_3N[:, worker] + [*np.log(ratio_2), 1.0]
        self._age_N[worker] = sidecar.change_age

    @property
    def _ratio_2N(self) -> F64:
        """Both ratios of each worker; of one of which little was seen, nearly that of all; 1 before anything is known."""
        weight = float(self._sums_3N[2].sum())
        pooled_2 = self._sums_3N[:2].sum(axis=1) / weight if weight > 0 else np.zeros(2)
        mean_2N: F64 = (self._sums_3N[:2] + POOLED * pooled_2[:, None]) / (self._sums_3N[2] + POOLED)
        return np.exp(mean_2N)

    def changes(self, remember_N: Mask | None) -> Changes:
        """Who is able to remember, and what that leaves; ``remember_N``: who does now, who goes on for longer."""
        spread_N, row_N = self._ratio_2N
        most_N = np.full(len(spread_N), BEGIN)
        if remember_N is not None:
            most_N[remember_N] = GO_ON
        return Changes(spread_N, row_N, (self._room_N >= 1) & (spread_N < most_N) & (row_N < most_N))

    def sent(self, remember_N: Mask, send_N: Mask) -> tuple[float, float]:
        """Mean of what is left of both noises at the present ages, over all who send; 1 of those that do not remember."""
        left_2N = np.where(remember_N, self._ratio_2N * self._age_N, 1.0)[:, send_N]
        return float(left_2N[0].mean()), float(left_2N[1].mean())

    @property
    def slowness(self) -> float:
        """Mean of the first ratio, at most 1: it moves when a memory becomes worth more or less."""
        return float(np.minimum(1.0, self._ratio_2N[0]).mean())

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"sums": self._sums_3N.copy(), "room": self._room_N.copy(), "age": self._age_N.copy()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what `state_dict` gave; of another number of workers nothing is taken."""
        if state["sums"].shape == self._sums_3N.shape:
            self._sums_3N = state["sums"].copy()
            self._room_N, self._age_N = state["room"].copy(), state["age"].copy()
