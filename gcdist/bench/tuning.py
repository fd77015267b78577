"""Step size and deadline of each scheme, chosen in the simulator on other seeds than the benchmark's.

Grids are geometric and grow while the best point is on an edge: a choice on an edge is no choice. Step size first, then
the deadline, then the step size again beside the best deadline. All that was tried is kept and printed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from gcdist.bench.cells import Cell, Deadline, Outcome
from gcdist.types import RunHaltedError

LR_FACTOR, DEADLINE_FACTOR = 2.0, 1.5
GROW_MOST = 8  # points that a grid may grow by
START_PACES = 2.0  # the first deadline
LONGEST_PACES = 1000.0  # beyond it nothing changes


@dataclass(slots=True)
class Choice:
    """What was chosen, and all that was tried: (lr, deadline, cost)."""

    lr: float
    deadline: Deadline
    cost: float
    reached: bool
    tried: list[tuple[float, Deadline, float]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @staticmethod
    def read(values: Mapping[str, Any]) -> Choice:
        """What `as_dict` gave; JSON has null for infinity."""

        def number(x: float | None) -> float:
            return math.inf if x is None else x

        tried = [(lr, deadline, number(cost)) for lr, deadline, cost in values["tried"]]
        return Choice(values["lr"], values["deadline"], number(values["cost"]), values["reached"], tried)


def cost_of(outcomes: Sequence[Outcome], cell: Cell) -> float:
    """Mean seconds to the target; a run without counts as its budget and more, by how far it was (in log loss).

    A run that diverged or stopped costs infinity.
    """
    costs = []
    for outcome in outcomes:
        if outcome.status == "reached":
            costs.append(outcome.seconds)
        elif outcome.status == "budget":
            last = [row[2] for row in outcome.curve[-5:]]
            level = sum(last) / len(last)
            costs.append(cell.budget * (1.5 + math.log10(max(level / cell.target, 1.0))))
        else:
            costs.append(math.inf)
    return sum(costs) / len(costs)


def tune(cell: Cell, seeds: Sequence[int], lr: float, run: Callable[[Cell], Outcome]) -> Choice:
    """The best step size, and deadline where the scheme has one to tune.

    Args:
        cell: the benchmark's cell; its seed, lr and deadline are replaced.
        seeds: of the simulated runs; not the benchmark's.
        lr: where the search begins.
        run: the simulator.

    Raises:
        RunHaltedError: a grid grew ``GROW_MOST`` times and its best point is still on its edge.
    """
    known: dict[tuple[float, Deadline], float] = {}

    def cost(lr: float, deadline: Deadline) -> float:
        key = (lr, deadline)
        if key not in known:
            # one run that takes longer makes a mean that is worse than the best: it need not go on
            longest = len(seeds) * min(known.values(), default=math.inf)
            tried = replace(cell, budget=min(cell.budget, longest))
            known[key] = cost_of([run(tried.with_choice(lr, deadline, seed)) for seed in seeds], tried)
        return known[key]

    what = cell.what
    deadline: Deadline = START_PACES * cell.pace if what.tunes == "deadline" else what.deadline
    lr = _search(lambda x: cost(x, deadline), lr, LR_FACTOR, "lr", 1e-6, 1e6)
    if what.tunes == "deadline":
        most = min(LONGEST_PACES * cell.pace, cell.budget)
        deadline = _search(lambda x: cost(lr, x), START_PACES * cell.pace, DEADLINE_FACTOR, "deadline", 1e-3, most)
        lr = _search(lambda x: cost(x, deadline), lr, LR_FACTOR, "lr", 1e-6, 1e6)
    best = cost(lr, deadline)
    tried = [(a, b, c) for (a, b), c in known.items()]
    return Choice(lr, deadline, best, best <= cell.budget, tried)


def _search(cost: Callable[[float], float], start: float, factor: float, name: str, least: float, most: float) -> float:
    """The best of a geometric grid around ``start``, with a worse or equal neighbour on both sides.

    Where every point fails, the grid grows to smaller step sizes and to longer deadlines. ``least`` and ``most`` are no
    edges: beyond them the value has no meaning.
    """
    values = {i: cost(_point(start, factor, i)) for i in (0, -1, 1)}
    for _ in range(GROW_MOST):
        at = min(values, key=lambda i: (values[i], abs(i)))
        low, high = min(values), max(values)
        if math.isinf(values[at]):
            beyond = low - 1 if name == "lr" else high + 1
        elif at in (low, high):
            beyond = at - 1 if at == low else at + 1
        else:
            break
        x = _point(start, factor, beyond)
        if not least <= x <= most:
            break
        values[beyond] = cost(x)
    at = min(values, key=lambda i: (values[i], abs(i)))
    x = _point(start, factor, at)
    edge = at in (min(values), max(values)) and least * factor <= x <= most / factor
    if edge and math.isfinite(values[at]):
        raise RunHaltedError(f"tuning: the best {name} = {x:g} is on the edge of its grid of {len(values)} points")
    return x


def _point(start: float, factor: float, i: int) -> float:
    return float(f"{start * factor**i:.6g}")
