"""Is this cluster worth coding? From recorded step times, by the same code as a run's choices; nothing is simulated.

A choice costs ``E[seconds of a step] x (1 + noise)`` (`planning.objective`). Three ways to run these steps are
compared: wait for all; the best fixed deadline without a code, chosen with knowledge of all times; and the scheme
`auto`, which chooses for each step from the steps before (`planning.foresight`). Noise depends on gradients:

- partitions mostly agree (early): a quarter of the measured gradient is noise of the batches;
- partitions differ (late): all of the measured gradient is noise of the batches.

The true cost is between the two.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from gcdist.coding import row_costs
from gcdist.config import StragglerConfig
from gcdist.doctor.finding import Finding
from gcdist.doctor.recorded import Recorded
from gcdist.planning.foresight import foresee
from gcdist.types import F64

GRID = 24
PARTITIONS = 8  # partitions in an even share of a worker
SHARE = {"agree": 0.25, "differ": 1.0}  # of the batches' noise in the measured gradient
MOST_STEPS = 160  # most steps of a trace in the comparison, the newest ones
NOISE_MOST = StragglerConfig().noise_most
YES, NO = 1.2, 1.05  # gains in wall clock
LEAST_STEPS = 20


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of one choice: mean seconds of a step, noise if partitions agree or differ, the deadline (s)."""

    seconds: float
    agree: float
    differ: float
    deadline: float | None

    def of(self, regime: str) -> float:
        """Seconds to the accuracy of one exact step."""
        return self.seconds * (1 + (self.agree if regime == "agree" else self.differ))


@dataclass(frozen=True, slots=True)
class Worth:
    """The comparison. Gains are wait / choice in wall clock; ``least``: late messages were cut, ``wait`` is a bound."""

    workers: int
    steps: int
    wait: float
    deadline: dict[str, Cost]  # uncoded, best deadline, by regime
    coded: dict[str, Cost]
    least: bool

    def gain(self, choice: Literal["deadline", "coded"], regime: str) -> float:
        """The speed-up over waiting for all."""
        cost: Cost = getattr(self, choice)[regime]
        return self.wait / cost.of(regime)

    @property
    def answer(self) -> Literal["yes", "no", "it depends"]:
        """The verdict on the coded step."""
        gains = [self.gain("coded", regime) for regime in REGIMES]
        return "yes" if min(gains) >= YES else "no" if max(gains) < NO else "it depends"

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        gains = {name: {regime: self.gain(name, regime) for regime in REGIMES} for name in CHOICES}
        return {**asdict(self), "gain": gains, "answer": self.answer}


REGIMES = ("agree", "differ")
CHOICES: tuple[Literal["deadline"], Literal["coded"]] = ("deadline", "coded")


def weigh(recorded: Recorded) -> Worth:
    """Compare waiting, the best deadline without a code, and the scheme `auto`; all in seconds from step to step.

    Raises:
        ValueError: fewer than 2 workers or 20 steps.
    """
    steps, workers = recorded.seconds_TN.shape
    if workers < 2 or steps < LEAST_STEPS:
        raise ValueError(f"{steps} steps of {workers} workers are recorded: {LEAST_STEPS} of 2 are needed at least")
    recorded = recorded.last(MOST_STEPS)
    whole_TN = recorded.seconds_TN + recorded.outside_N
    taus = np.unique(np.quantile(whole_TN, np.linspace(0.1, 1, GRID), method="inverted_cdf"))
    plain = [_uncoded(whole_TN, float(tau), recorded.between) for tau in taus[taus > 0]]
    wait = float(whole_TN.max(axis=1).mean()) + recorded.between
    waiting = Cost(wait, 0.0, 0.0, None)
    coded = {regime: _automatic(recorded, regime) for regime in REGIMES}
    return Worth(workers, steps, wait, _best(plain, waiting), coded, recorded.least)


def _best(costs: list[Cost | None], waiting: Cost) -> dict[str, Cost]:
    """The cheapest in each regime; waiting for all is always among the choices."""
    allowed = [waiting, *(cost for cost in costs if cost is not None and cost.agree <= NOISE_MOST)]
    return {regime: min(allowed, key=lambda cost: cost.of(regime)) for regime in REGIMES}


def _late(seconds_T: F64, tau: float) -> float:
    """P(a worker needs more than tau), with a floor for few observations."""
    return max(float(np.mean(seconds_T > tau)), 0.5 / (len(seconds_T) + 1))


def _uncoded(seconds_TN: F64, tau: float, between: float = 0.0) -> Cost | None:
    """Each worker its own share, weight 1/(1-p)."""
    workers = seconds_TN.shape[1]
    p_N = np.array([_late(seconds_TN[:, i], tau) for i in range(workers)])
    if p_N.max() >= 1:
        return None  # a worker's data would never count
    c_N = row_costs(p_N)
    seconds = float(np.minimum(seconds_TN.max(axis=1), tau).mean()) + between
    return Cost(seconds, float(c_N.sum()) / workers**2, float(c_N.mean()), tau)


def _automatic(recorded: Recorded, regime: str) -> Cost:
    """The cost of these steps under the scheme `auto`."""
    spread = SHARE[regime] / (PARTITIONS * recorded.seconds_TN.shape[1])
    found = foresee(recorded.seconds_TN, PARTITIONS, spread, NOISE_MOST, recorded.outside_N, recorded.between)
    return Cost(found.seconds, found.noise, found.noise, None)


def finding(worth: Worth) -> Finding:
    """The verdict with its figures."""
    low, high = sorted(worth.gain("coded", regime) for regime in REGIMES)
    plain = sorted(worth.gain("deadline", regime) for regime in REGIMES)
    least = "at least " if worth.least else ""
    text = (
        f"worth coding? {worth.answer}: waiting for all takes {least}{worth.wait:.3g} s a step, the scheme auto "
        f"{_seconds(worth.coded)} for the same progress, {_span(low, high)} as fast; the best deadline without a code is "
        f"{_span(*plain)} as fast ({worth.workers} workers, {worth.steps} steps)"
    )
    if worth.answer == "yes":
        return Finding("coding", "ok", text)
    if worth.answer == "no":
        return Finding("coding", "warn", text, 'code.scheme = "sync", straggler.deadline = "wait"')
    fix = (
        'compare code.scheme = "sync" and "auto" over a short run of your own; partitions that agree favour the latter'
    )
    return Finding("coding", "warn", text, fix)


def _seconds(costs: dict[str, Cost]) -> str:
    low, high = sorted(costs[regime].of(regime) for regime in REGIMES)
    return f"{low:.3g} s" if f"{low:.3g}" == f"{high:.3g}" else f"{low:.3g} to {high:.3g} s"


def _span(low: float, high: float) -> str:
    """A range of factors.

    >>> _span(1.2, 1.8), _span(1.0, 1.001)
    ('1.20 to 1.80 times', '1.00 times')
    """
    return f"{low:.2f} times" if f"{low:.2f}" == f"{high:.2f}" else f"{low:.2f} to {high:.2f} times"
