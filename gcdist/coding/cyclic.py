"""Cyclic gradient codes: exact from every n - s arrivals (Tandon et al. 2017; Raviv et al. 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gcdist.coding.base import BaseCode
from gcdist.coding.blocks import expand, less_than_asked, plan_of, redundancy, usable_workers
from gcdist.coding.leastsquares import LeastSquares
from gcdist.types import F64, Decoder, Plan, Problem, StepTerms


@dataclass(frozen=True, slots=True)
class Cyclic(BaseCode):
    """Worker i computes blocks i..i+s; decoding weights solve ``A_S^T w = 1``. Waits until decodable.

    Coefficients have both signs and weights can be large (about 1e3 at n = 50, s = 10): quantization noise is amplified by
    their squares.
    """

    s: int = 1
    seed: int = 0

    name: ClassVar[str] = "cyclic"
    waits: ClassVar[bool] = True
    unbiased: ClassVar[bool] = True
    allow_negative: ClassVar[bool] = True

    def design(self, problem: Problem, plan_id: int) -> Plan:
        """The code over the usable workers; s must be below their number, and is where workers are missing."""
        workers = usable_workers(problem, self.name)
        text = f"cyclic needs 0 <= s < {len(workers)} usable workers, not s = {self.s}"
        s = redundancy(self.s, 0, len(workers) - 1, problem, workers, text)
        B_MM = cyclic_matrix(len(workers), s, self.seed)
        return plan_of(problem, plan_id, expand(B_MM, workers, problem, self.name))

    def lacking(self, usable: int) -> str | None:
        """See `BaseCode.lacking`."""
        return less_than_asked(self.name, "s", self.s, usable - 1, usable)

    def open(self, plan: Plan, terms: StepTerms) -> Decoder:
        """Complete when all but s rows are in."""
        rows = int(plan.weighted_R().sum())
        return LeastSquares(plan, rows - min(self.s, rows - 1))


def cyclic_matrix(n: int, s: int, seed: int) -> F64:
    """B (n, n) with s + 1 cyclic entries a row, columns that sum to 1, and 1 in the span of every n - s rows.

    If n - s is odd: rows are shifts of the generator of a real cyclic MDS code, whose roots are the s n-th roots of unity
    nearest -1 (Raviv et al.: better conditioned). Else: Tandon et al., Algorithm 2, from a random H with ``H 1 = 0``.

    >>> cyclic_matrix(3, 2, 0)[0].round(6).tolist()
    [0.333333, 0.333333, 0.333333]
    """
    B_NN = np.zeros((n, n))
    if (n - s) % 2:
        angle = 2 * np.pi * (n / 2 + np.arange(s) - (s - 1) / 2) / n
        row = np.atleast_1d(np.real(np.poly(np.exp(1j * angle))))  # s = 0: numpy gives a bare 1.0
        for i in range(n):
            B_NN[i, (i + np.arange(s + 1)) % n] = row / row.sum()
        return B_NN
    if s == 0:
        return np.eye(n)
    H = np.random.default_rng(seed).standard_normal((s, n))
    H[:, -1] = -H[:, :-1].sum(axis=1)
    for i in range(n):
        at = (i + np.arange(s + 1)) % n
        B_NN[i, at[0]] = 1.0
        B_NN[i, at[1:]] = -np.linalg.solve(H[:, at[1:]], H[:, at[0]])
    scale_N = np.linalg.lstsq(B_NN.T, np.ones(n), rcond=None)[0]
    return np.asarray(B_NN * scale_N[:, None], np.float64)
