"""The forecast of `gcdist doctor --trace` for a scenario, from recorded steps of an even share's delays."""

from __future__ import annotations

import numpy as np

from gcdist.bench.cells import Cell
from gcdist.doctor.worth import REGIMES, Worth, weigh
from gcdist.straggler import make_delays

STEPS = 400


def forecast(cell: Cell) -> Worth | None:
    """The doctor's comparison for the cell's delays, workers and seed; None: none are injected."""
    config = cell.config()
    if config.inject.model == "none":
        return None
    delays = make_delays(config.inject.model, cell.workers, **config.inject.params())
    share = float(cell.even_share)
    return weigh(
        np.array([[delays.seconds(i, t, share, cell.seed) for i in range(cell.workers)] for t in range(STEPS)])
    )


def forecast_text(worth: Worth) -> str:
    """The verdict and its range.

    >>> from gcdist.doctor.worth import Cost
    >>> wait = Cost(2.0, 0.0, 0.0, None)
    >>> one = {"agree": Cost(0.5, 0.0, 1.0, 0.4), "differ": Cost(1.0, 0.0, 0.0, 0.9)}
    >>> forecast_text(Worth(8, 400, 2.0, {"agree": wait, "differ": wait}, one, False))
    'yes, 2.00 to 4.00 times'
    """
    low, high = sorted(worth.gain("coded", regime) for regime in REGIMES)
    return f"{worth.answer}, {low:.2f} to {high:.2f} times"
