"""Step size, deadline and samples of a step of each scheme, chosen in the simulator on other seeds than the benchmark's.

Grids are geometric and grow while the best point is on an edge, because the optimum may lie beyond it. Step size first,
then the deadline, then the step size again beside the best deadline; all of it again with half the samples of a step,
and half of these, while that is at most a tenth slower, else with twice as many. All trials are kept and printed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from gcdist.bench.cells import Cell, Deadline, Outcome
from gcdist.types import RunHaltedError

LR_FACTOR, DEADLINE_FACTOR = 2.0, 1.5
GROW_MOST = 8  # most points added to a grid
START_PACES = 2.0  # the first deadline
RACE = 1.5  # times the least cost so far: a longer run is stopped, and the other seeds are skipped
NEAR = 1.1  # times the least cost: two seeds tell no smaller difference, so the search for samples of a step goes on
LONGEST_PACES = 1000.0  # a longer deadline changes nothing


@dataclass(slots=True)
class Choice:
    """The choice and all trials: (lr, deadline, share, cost). ``share``: see `Cell`."""

    lr: float
    deadline: Deadline
    share: int | None
    cost: float
    reached: bool
    tried: list[tuple[float, Deadline, int | None, float]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @staticmethod
    def read(values: Mapping[str, Any]) -> Choice:
        """From the result of `as_dict`; JSON has null for infinity."""

        def number(x: float | None) -> float:
            return math.inf if x is None else x

        tried = [(lr, deadline, share, number(cost)) for lr, deadline, share, cost in values["tried"]]
        return Choice(
            values["lr"], values["deadline"], values["share"], number(values["cost"]), values["reached"], tried
        )


def cost_of(outcomes: Sequence[Outcome], cell: Cell) -> float:
    """Mean seconds to the target; a run without it costs its budget plus a penalty for the remaining log loss.

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


@dataclass(frozen=True, slots=True)
class _Point:
    """One point of the search."""

    lr: float
    deadline: Deadline
    share: int | None


def tune(
    cell: Cell, seeds: Sequence[int], lr: float, run: Callable[[Cell], Outcome], shares: Sequence[int] = ()
) -> Choice:
    """The best step size, deadline where the scheme has one to tune, and samples of a step.

    Args:
        cell: the benchmark's cell; its seed, lr, deadline and share are replaced.
        seeds: of the simulated runs; not the benchmark's.
        lr: the start of the search.
        run: the simulator.
        shares: candidates for the partitions of an even share, ascending, its own included; (): it stays.

    Raises:
        RunHaltedError: a grid grew ``GROW_MOST`` times and its best point is still on its edge.
    """
    known: dict[_Point, float] = {}

    def cost(point: _Point) -> float:
        if point not in known:
            known[point] = _cost(cell, point, seeds, run, min(known.values(), default=math.inf))
        return known[point]

    what = cell.what
    first = START_PACES * what.start * cell.pace if what.tunes == "deadline" else what.deadline
    own = cell.even_share
    best = _tuned(cell, _Point(lr, first, own if shares else cell.share), cost)
    for others in ([x for x in reversed(shares) if x < own], [x for x in shares if x > own]):
        for share in others if best.share in (None, own) else ():
            found = _tuned(cell, _scaled(best, share), cost)
            if not cost(found) < NEAR * cost(best):
                break
            best = min(best, found, key=cost)
    tried = [(point.lr, point.deadline, point.share, found) for point, found in known.items()]
    return Choice(best.lr, best.deadline, best.share, cost(best), cost(best) <= cell.budget, tried)


def tune_timeout(cell: Cell, like: Choice, run: Callable[[Cell], Outcome]) -> Choice:
    """The best timeout of another project's scheme, one real run each, then the most samples that ``like`` has tried.

    Args:
        cell: with a seed that is not the benchmark's; its step size, deadline and share are replaced.
        like: the choice of the scheme whose step size and samples it takes.
        run: a real run.
    """
    tried: list[tuple[float, Deadline, int | None, float]] = []

    def attempt(lr: float, seconds: float, share: int | None) -> None:
        least = min((found[3] for found in tried), default=math.inf)
        trial = replace(cell, budget=min(cell.budget, RACE * least))
        tried.append((lr, seconds, share, cost_of([run(trial.with_choice(lr, seconds, share))], trial)))

    for seconds in cell.what.patience:
        attempt(like.lr, seconds, like.share)
    best = min(tried, key=lambda found: found[3])
    largest = max((share for *_, share, _ in like.tried if share is not None), default=None)
    if largest is not None and like.share is not None and largest > like.share and isinstance(best[1], float):
        lr = min((t for t in like.tried if t[2] == largest), key=lambda found: found[3])[0]
        attempt(lr, best[1], largest)
    lr, deadline, share, cost = min(tried, key=lambda found: found[3])
    return Choice(lr, deadline, share, cost, cost <= cell.budget, tried)


def _cost(cell: Cell, point: _Point, seeds: Sequence[int], run: Callable[[Cell], Outcome], least: float) -> float:
    """The cost of one point; a run stops at ``RACE`` times ``least``, that of the best before, without more seeds."""
    tried = replace(cell, budget=min(cell.budget, RACE * least))
    outcomes: list[Outcome] = []
    for seed in seeds:
        outcomes.append(run(tried.with_choice(point.lr, point.deadline, point.share, seed)))
        if outcomes[-1].status != "reached":
            break
    return cost_of(outcomes, tried)


def _tuned(cell: Cell, start: _Point, cost: Callable[[_Point], float]) -> _Point:
    """The best step size and deadline at the start's samples of a step."""
    best = start

    def lr_of(point: _Point) -> float:
        return _search(lambda x: cost(replace(point, lr=x)), point.lr, LR_FACTOR, "lr", 1e-6, 1e6)

    best = replace(best, lr=lr_of(best))
    if isinstance(best.deadline, float) and cell.what.tunes == "deadline":
        most = min(LONGEST_PACES * cell.pace, cell.budget)
        at = best
        deadline = _search(
            lambda x: cost(replace(at, deadline=x)), best.deadline, DEADLINE_FACTOR, "deadline", 1e-3, most
        )
        best = replace(best, deadline=deadline)
        best = replace(best, lr=lr_of(best))
    return best


def _scaled(point: _Point, share: int) -> _Point:
    """The start of the search with another number of samples: time is proportional to it, noise to its root."""
    assert point.share is not None
    factor = share / point.share
    deadline = _round(point.deadline * factor) if isinstance(point.deadline, float) else point.deadline
    return _Point(_round(point.lr * factor**0.5), deadline, share)


def _search(cost: Callable[[float], float], start: float, factor: float, name: str, least: float, most: float) -> float:
    """The best of a geometric grid around ``start``, with a worse or equal neighbour on both sides.

    Where every point fails, the grid grows to smaller step sizes and to longer deadlines. ``least`` and ``most`` do not
    count as edges, because values beyond them have no meaning.
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
    return _round(start * factor**i)


def _round(x: float) -> float:
    return float(f"{x:.6g}")
