"""The one objective of every automatic choice: predicted seconds to a given progress (math section 10).

A step of gradient descent with the best step size gains in proportion to ``|g|^2/E|ghat|^2``, so a run's seconds to a given
progress are in proportion to

    E[seconds of a step] (1 + (noise of stragglers + sampling + rounding)/|g|^2)

The sampling noise is the same for all choices, and what is measured, ``signal = |g|^2 + sampling``, holds it already: the
factor is ``(signal + stragglers + rounding)/|g|^2``, and choices differ by stragglers and rounding over the signal alone.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Prospect:
    """The prospect of a choice: seconds of a step, and noise over the signal."""

    seconds: float  # with what lies between two steps
    stragglers: float  # of rows that are cut or do not come
    rounding: float = 0.0  # of quantization

    @property
    def noise(self) -> float:
        """Both kinds."""
        return self.stragglers + self.rounding

    @property
    def cost(self) -> float:
        """Seconds to the progress of one exact step.

        >>> Prospect(2.0, 0.25, 0.25).cost
        3.0
        """
        return self.seconds * (1 + self.noise)

    def gain_over(self, other: Prospect) -> float:
        """How many times less time than ``other`` to the same progress."""
        return other.cost / self.cost
