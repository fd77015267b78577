"""The last rows of one worker as arrays, the newest last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gcdist.types import F64, Mask

WINDOW = 100  # rows that are remembered
ROOM = 8  # for so many more, at least
PARTS = 4  # partitions of the row whose time is held besides: it is looked at with every new row
_START, _PACE, _GUESSED, _AGAIN, _TIME = range(5)


class RowWindow:
    """Of each of the last `WINDOW` rows: start, pace, whether it was guessed, and whether it was slow after a slow one.

    Start: seconds until its first partition was done. Pace: seconds of each further one. Guessed: nothing was done by its
    cut.
    """

    def __init__(self) -> None:
        self._room_5T = np.zeros((5, ROOM))  # more than there are, so that adding one copies nothing
        self._begin = self._end = 0  # the rows in it
        self.agains = 0  # rows that were added as slow after a slow one, of which some may be gone

    @property
    def _row_5T(self) -> F64:
        row_5T: F64 = self._room_5T[:, self._begin : self._end]
        return row_5T

    def __len__(self) -> int:
        return self._end - self._begin

    def add(self, start: float, pace: float, guessed: bool = False, again: bool = False) -> None:
        """Add a row; the oldest one goes if there are too many."""
        if len(self) >= WINDOW:
            self._begin += 1
        if self._end == self._room_5T.shape[1]:
            self._move(self._row_5T)
        self._room_5T[:, self._end] = start, pace, guessed, again, start + pace * (PARTS - 1)
        self._end += 1
        self.agains += again

    def _move(self, row_5T: F64) -> None:
        """Hold these rows, elsewhere: who has looked at the old ones has them still."""
        held = row_5T.shape[1]
        self._room_5T = np.zeros((5, held + max(ROOM, held // 4)))
        self._room_5T[:, :held] = row_5T
        self._begin, self._end = 0, held

    @property
    def start_T(self) -> F64:
        """Seconds until the first partition was done."""
        start_T: F64 = self._row_5T[_START]
        return start_T

    @property
    def pace_T(self) -> F64:
        """Seconds of each further one."""
        pace_T: F64 = self._row_5T[_PACE]
        return pace_T

    @property
    def guessed_T(self) -> Mask:
        """Nothing was done by the cut."""
        guessed_T: Mask = self._row_5T[_GUESSED] > 0
        return guessed_T

    @property
    def again_T(self) -> Mask:
        """Slow after a slow row."""
        again_T: Mask = self._row_5T[_AGAIN] > 0
        return again_T

    def seconds_T(self, parts: int) -> F64:
        """Seconds of so many partitions."""
        if parts == PARTS:
            time_T: F64 = self._room_5T[_TIME, self._begin : self._end]
            return time_T
        start_T, pace_T = self._room_5T[: _PACE + 1, self._begin : self._end]
        seconds: F64 = start_T + pace_T * (parts - 1)
        return seconds

    def keep(self, newest: int) -> None:
        """Forget all but so many; they are the worker's usual ones from now on."""
        self._move(self._row_5T[:, len(self) - newest :])
        self._row_5T[_AGAIN] = 0.0
        self.agains = 0

    def stretch(self, ratio: float, but: int) -> bool:
        """Take all but the newest ``but`` rows as so many times longer; whether there are such."""
        old = len(self) - but
        self._row_5T[: _PACE + 1, :old] *= ratio
        self._row_5T[_TIME, :old] = self.start_T[:old] + self.pace_T[:old] * (PARTS - 1)
        return old > 0

    def state(self) -> list[list[float]]:
        """For a checkpoint: each row's four numbers."""
        rows: list[list[float]] = self._row_5T[:_TIME].T.tolist()
        return rows

    @staticmethod
    def of(state: Sequence[Sequence[Any]]) -> RowWindow:
        """What `state` gave, of an older gcdist too, whose rows have two or three numbers."""
        window = RowWindow()
        for row in state[-WINDOW:]:
            window.add(float(row[0]), float(row[1]), any(row[2:3]), any(row[3:4]))
        return window
