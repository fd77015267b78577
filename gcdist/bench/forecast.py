"""The doctor's forecast for a scenario: an even share's delays, as many steps as a run took, the machine's own seconds."""

from __future__ import annotations

import numpy as np

from gcdist.bench.cells import Cell
from gcdist.bench.machine import Machine
from gcdist.doctor.recorded import Recorded
from gcdist.doctor.worth import LEAST_STEPS, REGIMES, Worth, weigh
from gcdist.straggler import make_delays


def forecast(cell: Cell, steps: int, machine: Machine | None) -> Worth | None:
    """The doctor's comparison for the cell's delays, workers and seed; None: none are injected.

    Args:
        cell: of a scheme that plans.
        steps: of a run; its first ones have little to choose by.
        machine: what its links take and the master between two steps; None: nothing.
    """
    config = cell.config()
    if config.inject.model == "none":
        return None
    delays = make_delays(config.inject.model, cell.workers, **config.inject.params())
    share, workers = float(cell.even_share), range(cell.workers)
    seconds = [[delays.seconds(i, t, share, cell.seed) for i in workers] for t in range(max(steps, LEAST_STEPS))]
    constants = {} if machine is None else machine.section(cell)
    outside = sum(constants.get(name, 0.0) for name in ("latency", "link_seconds", "encode_seconds"))
    return weigh(
        Recorded(
            np.array(seconds),
            outside_N=np.full(cell.workers, outside),
            between=constants.get("master_seconds", 0.0),
        )
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
