"""The code of the automatic scheme: whole partitions at the chosen loads, otherwise as `joint`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gcdist.coding.joint import Joint


@dataclass(frozen=True)
class Auto(Joint):
    """`joint` with cut rows; the master chooses deadline, loads and bits again during the training.

    The choices are those of `gcdist.planning.cut_choice` and `bits_choice`; loads come to the design in ``Problem.load_N``.
    Every choice is unbiased: the wait for all workers, and cut rows with Horvitz-Thompson weights 1/(1-p).
    """

    name: ClassVar[str] = "auto"
