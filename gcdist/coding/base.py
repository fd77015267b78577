"""The base class of the codes: the usual properties, so that a new code states only its differences."""

from __future__ import annotations

from typing import ClassVar

from gcdist.types import Weighting


class BaseCode:
    """The usual properties of a `GradientCode`; a subclass adds ``name``, ``design`` and ``open``.

    A user's code joins by one line, ``register_code("mine", Mine)``, in every process of the run.
    """

    unbiased: ClassVar[bool] = False
    shifted: ClassVar[bool] = False
    partial: ClassVar[bool | None] = False
    waits: ClassVar[bool] = False
    allow_negative: ClassVar[bool] = False
    chooses_loads: ClassVar[bool] = False
    weighting: ClassVar[Weighting] = Weighting.OWN

    def lacking(self, usable: int) -> str | None:
        """What the code goes without while only ``usable`` workers can take part, in words; None: nothing."""
        return None
