"""What a memory of each partition would leave of the two noises of a cut row (math section 10, "Memory against it")."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gcdist.types import F64, Mask

MOST = 2.0  # gradients that are all noise differ by twice their energy, however old the memory is


@dataclass(frozen=True, slots=True, eq=False)
class Changes:
    """Of each worker (N,): S^2 of differences to gradients one step old over S^2, and |y - H|^2 over |y|^2.

    What is remembered is ``E[l/m]/(1-p)`` steps old, where p is the chance that nothing is sent. Both ratios are taken to
    grow in proportion to the age: more for gradients that drift, and less for those that are all noise.
    """

    spread_N: F64
    row_N: F64
    able_N: Mask  # the others send their rows as they are

    def left(self, worker: int, excess_GL: F64, p_G: F64) -> tuple[F64, F64]:
        """The factors (G, L) of the second and of the first sum, at ``excess = E[l^2/m - l | m >= 1]`` (G, L) of loads 1 to
        L and the chances ``p`` (G,) below 1 that nothing is sent.
        """
        if not self.able_N[worker]:
            return np.ones_like(excess_GL), np.ones_like(excess_GL)
        age_GL = (1.0 + excess_GL / np.arange(1, excess_GL.shape[1] + 1)) / (1.0 - p_G[:, None])
        return np.minimum(MOST, self.spread_N[worker] * age_GL), np.minimum(MOST, self.row_N[worker] * age_GL)
