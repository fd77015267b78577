"""What a code says of itself: the base of the codes, so that a new one states only what differs."""

from __future__ import annotations

from typing import ClassVar

from gcdist.types import Weighting


class BaseCode:
    """The properties of a `GradientCode` as most baselines have them; a code gives its ``name``, ``design`` and ``open``.

    Any other code joins by one line, ``register_code("mine", Mine)``, in every process of the run.
    """

    unbiased: ClassVar[bool] = False
    shifted: ClassVar[bool] = False
    partial: ClassVar[bool | None] = False
    waits: ClassVar[bool] = False
    allow_negative: ClassVar[bool] = False
    chooses_loads: ClassVar[bool] = False
    weighting: ClassVar[Weighting] = Weighting.OWN
