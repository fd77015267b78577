"""The code of the scheme that chooses by itself: whole partitions at loads that were chosen, else as `joint`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gcdist.coding.joint import Joint


@dataclass(frozen=True)
class Auto(Joint):
    """`joint` with rows that are cut; the master chooses deadline, loads and bits anew while it trains.

    The choices are those of `gcdist.planning.cut_choice` and `bits_choice`; loads come to the design in ``Problem.load_N``.
    Every choice is unbiased: to wait for all, or to cut rows and weigh them by 1/(1-p).
    """

    name: ClassVar[str] = "auto"
