"""The run's account of its data: seconds that workers waited for it, and partitions that nobody present could read."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

import numpy as np

from gcdist.master.round_result import RoundResult

TOO_LONG = 0.2  # recommend reading ahead if waiting for data takes this share of the computing time or more ...
NOTICEABLE = 0.05  # ... and this share of the steps' time or more
LONG_STEPS, LONG_SECONDS = 50, 5.0  # ... and the run has so many steps and waited so long: a shorter one tells nothing


class DataAccount:
    """Sums over the steps of a run. ``prefetch`` is the run's setting, for the advice."""

    def __init__(self, prefetch: int) -> None:
        self._prefetch = prefetch
        self._steps = 0
        # means over the rows that counted, summed
        self._data_seconds = self._compute_seconds = self._step_seconds = 0.0
        self._batches = self._empty = 0  # that counted, and of them those with nothing to train on
        self._uncovered: dict[int, int] = {}  # partition: steps without it
        self.local = False  # some worker can read only some of the partitions

    def add(self, result: RoundResult, local: bool) -> None:
        """Take in one step; ``local``: some worker cannot read everything."""
        self._steps += 1
        self.local |= local
        if result.counted:
            self._data_seconds += fmean(counted.sidecar.data_seconds for counted in result.counted)
            self._compute_seconds += fmean(counted.sidecar.compute_seconds for counted in result.counted)
            self._step_seconds += result.seconds
            share_P = np.concatenate([counted.sidecar.parts_P4[:, 2] for counted in result.counted])
            self._batches += len(share_P)
            self._empty += int((share_P == 0).sum())
        for j in np.flatnonzero(~result.plan.covered_K).tolist():
            self._uncovered[j] = self._uncovered.get(j, 0) + 1

    def notes(self) -> list[str]:
        """What somebody should know at the end, a line each."""
        lines = []
        long_enough = self._steps >= LONG_STEPS and self._data_seconds >= LONG_SECONDS
        if long_enough and self._data_seconds > max(TOO_LONG * self._compute_seconds, NOTICEABLE * self._step_seconds):
            share = self._data_seconds / (self._data_seconds + self._compute_seconds)
            more = f" in spite of data.prefetch = {self._prefetch}" if self._prefetch else ": set data.prefetch = 4"
            lines.append(f"waiting for data took {share:.0%} of the workers' time{more}")
        if self._empty:
            share = self._empty / self._batches
            lines.append(
                f"loss_fn gave nothing to train on (None, or 0 without a gradient) for {share:.0%} of the batches"
            )
        if self._uncovered:
            most = max(self._uncovered.values())
            lines.append(
                f"partitions {sorted(self._uncovered)} were left out in up to {most} of {self._steps} steps: "
                "nobody who was here could read them"
            )
        if self.local:
            lines.append("what waiting for all would take is not estimated: not every worker can read every partition")
        return lines

    def state_dict(self) -> dict[str, Any]:
        """The sums so far, for a checkpoint."""
        return {
            "steps": self._steps,
            "data_seconds": self._data_seconds,
            "compute_seconds": self._compute_seconds,
            "step_seconds": self._step_seconds,
            "batches": self._batches,
            "empty": self._empty,
            "uncovered": dict(self._uncovered),
            "local": self.local,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what `state_dict` gave."""
        self._steps, self.local = state["steps"], state["local"]
        self._data_seconds, self._compute_seconds = state["data_seconds"], state["compute_seconds"]
        self._step_seconds = state["step_seconds"]
        self._batches, self._empty = state.get("batches", 0), state.get("empty", 0)
        self._uncovered = {int(j): steps for j, steps in state["uncovered"].items()}
