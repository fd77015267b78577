"""Figures of each worker of a run: seconds of its rounds and their parts, its arrivals, its cost to the others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gcdist.observe import WorkerRound
from gcdist.report.reading import Run, absences, losses
from gcdist.types import F64, Mask

WARM = 5  # first steps, left out as warm-up; at most a fifth of the run
PARTS = ("computing", "data", "other", "link", "idle", "away")  # of a worker's time


@dataclass(frozen=True, slots=True)
class WorkerFigures:
    """One worker. Times are medians over its rounds, in seconds; NaN: not known.

    A dropped round counts as censored at its length (Kaplan-Meier). Rounds that were only timed are left out, because
    they are shorter on the link.
    """

    worker: int  # 1..n
    present: int  # steps that opened with the worker present
    asked: int  # of them, steps whose plan asked it for a gradient; the others only timed it
    counted: int  # of these, steps that counted its message
    planned: float  # planned arrival rate; NaN: none
    sigmas: float  # (observed - planned) over its standard deviation
    seconds: float  # of a round
    least: bool  # ``seconds`` is a lower bound, because it finished few rounds
    slowest: float  # 95% quantile of them
    held: float  # at the worker
    link: float  # both ways
    compute: float
    data: float
    load: float  # partitions
    link_bytes: float  # of a round, both ways
    bits_a_second: float  # on the link, over all of its rounds
    parts: dict[str, float]  # share of the run's time, by `PARTS`; empty: not known
    dropped: int  # unfinished rounds
    cost: float  # seconds a step that the master waited for it
    spells: int  # absences that ended
    lost: int  # times that its link was lost
    away: float  # share of the steps
    gone: int | None  # first step of its absence at the end of the run
    why: str  # of the last loss

    @property
    def rate(self) -> float:
        """Share of the steps that asked it for a gradient and counted it."""
        return self.counted / self.asked if self.asked else math.nan


def worker_figures(run: Run) -> list[WorkerFigures]:
    """The figures of every worker, in order."""
    rounds: dict[int, list[WorkerRound]] = {worker: [] for worker in range(1, run.workers + 1)}
    for each in run.rounds:
        if each.worker in rounds:
            rounds[each.worker].append(each)
    warm = min(WARM, run.steps // 5)
    arrivals_TN = arrival_seconds(run)
    asked_TN = asked(run)
    cost_N = waiting_for(run, arrivals_TN, asked_TN, warm)
    told = {entry.get("rank"): entry for entry in run.summary.get("arrivals", ()) if isinstance(entry, dict)}
    lost = losses(run)
    return [
        _figures(run, i, rounds[i + 1], warm, asked_TN[:, i], cost_N, told.get(i + 1, {}), lost.get(i + 1, []))
        for i in range(run.workers)
    ]


def _figures(
    run: Run,
    i: int,
    rounds: list[WorkerRound],
    warm: int,
    asked_T: Mask,
    cost_N: F64,
    told: dict[str, float],
    lost: list[tuple[int, str]],
) -> WorkerFigures:
    away_T, arrived_T = run.away_TN[:, i], run.arrived_TN[:, i]
    spells = list(absences(away_T))
    gone = int(run.step_T[spells[-1][0]]) if spells and spells[-1][1] == run.steps else None
    first = int(run.step_T[warm]) if run.steps > warm else 0
    used = [each for each in rounds if each.step >= first and each.end != "lost"] or rounds
    most = max((each.up for each in used), default=0)
    done = [each for each in used if each.end in ("counted", "late") and each.up >= most / 4]
    dropped = [each for each in used if each.end not in ("counted", "late")]
    seconds, least = typical([each.seconds for each in done], [each.seconds for each in dropped])
    links = [each for each in done if each.link is not None] or [each for each in used if each.link is not None]
    link_seconds = sum(each.link or 0.0 for each in links)
    link_bytes = [float(each.up + each.down) for each in links]
    promised = told.get("steps", 0) > 0
    return WorkerFigures(
        worker=i + 1,
        present=int((~away_T).sum()),
        asked=int((asked_T & ~away_T).sum()),
        counted=int(arrived_T.sum()),
        planned=float(told["planned"]) if promised else math.nan,
        sigmas=float(told["sigmas"]) if promised else 0.0,
        seconds=seconds,
        least=least,
        slowest=float(np.quantile([each.seconds for each in used], 0.95)) if used else math.nan,
        held=typical(_known([each.held for each in done]), _known([each.held for each in dropped]))[0],
        link=typical(_known([each.link for each in done]), _known([each.link for each in dropped]))[0],
        compute=_middle([each.compute for each in used if each.compute]),
        data=_middle([each.data for each in used if each.compute]),
        load=_middle([float(each.load) for each in used if each.load]),
        link_bytes=_middle(link_bytes),
        bits_a_second=8 * sum(link_bytes) / link_seconds if link_seconds > 0 and sum(link_bytes) > 0 else math.nan,
        parts=_parts(run, rounds, away_T) if run.split else {},
        dropped=len([each for each in rounds if each.end == "stale"]),
        cost=float(cost_N[i]),
        spells=len(spells) - (gone is not None),
        lost=len(lost),
        away=float(away_T.mean()) if run.steps else 0.0,
        gone=gone,
        why=lost[-1][1] if lost else "",
    )


def _parts(run: Run, rounds: list[WorkerRound], away_T: Mask) -> dict[str, float]:
    """Shares of the run's wall clock. Steps without the worker are away; time without a round is idle."""
    length_T = np.diff(np.concatenate([[0.0], np.nan_to_num(run.series["seconds"])]))
    total = float(length_T.sum())
    if total <= 0:
        return {}
    seconds = dict.fromkeys(PARTS, 0.0)
    seconds["away"] = float(length_T[away_T].sum())
    for each in rounds:
        held = each.seconds if each.held is None else min(each.held, each.seconds)
        compute, data = min(each.compute or 0.0, held), min(each.data or 0.0, held)
        compute = min(compute, held - data)
        seconds["computing"] += compute
        seconds["data"] += data
        seconds["other"] += held - compute - data
        seconds["link"] += each.seconds - held
    seconds["idle"] = max(0.0, total - sum(seconds.values()))
    whole = sum(seconds.values())
    return {name: value / whole for name, value in seconds.items()}


def arrival_seconds(run: Run) -> F64:
    """Seconds (T, N) from a step's opening to each counted message; NaN without a counted message, or without data."""
    place = {int(step): t for t, step in enumerate(run.step_T)}
    opened_T = run.opened_T
    found_TN = np.full(run.arrived_TN.shape, np.nan)
    for each in run.rounds:
        t = place.get(each.step)
        if t is not None and each.end == "counted" and 1 <= each.worker <= run.workers:
            found_TN[t, each.worker - 1] = each.sent + each.seconds - opened_T[t]
    return found_TN


def asked(run: Run) -> Mask:
    """Whether the step's plan asked the worker for a gradient, (T, N); True without a file of the plan."""
    asked_TN = np.ones(run.arrived_TN.shape, bool)
    for number, plan in run.plans.items():
        for row in plan["rows"]:
            index, widths = row["index"], row.get("bits")
            if 0 <= index < run.workers and isinstance(widths, list) and not any(widths):
                asked_TN[run.plan_T == number, index] = False
    return asked_TN | run.arrived_TN


def typical(done: list[float], dropped: list[float]) -> tuple[float, bool]:
    """The Kaplan-Meier median of times, some of them right-censored; True: the median is longer than this value.

    >>> typical([1.0, 2.0, 3.0], []), typical([3.0], [1.0, 1.0, 1.0]), typical([1.0], [2.0, 2.0])
    ((2.0, False), (3.0, False), (2.0, True))
    """
    survival, left = 1.0, len(done) + len(dropped)
    if not left:
        return math.nan, False
    # an observed time comes before an equal censored one
    for seconds, known in sorted([(value, 0) for value in done] + [(value, 1) for value in dropped]):
        if known == 0:
            survival *= 1 - 1 / left
            if survival <= 0.5 + 1e-12:
                return seconds, False
        left -= 1
    return max(done + dropped), True


def waiting_for(run: Run, arrivals_TN: F64, asked_TN: Mask, warm: int) -> F64:
    """Seconds a step, (N,), that the master waited for each worker after half of the others had arrived.

    The time between two messages of the later half belongs to the worker of the second message. The time from the last
    counted message to the close belongs in equal parts to the workers that missed the step.
    """
    cost_N = np.zeros(run.workers)
    if run.steps <= warm:
        return cost_N
    for t in range(warm, run.steps):
        came = np.flatnonzero(np.isfinite(arrivals_TN[t]))
        if not len(came):
            continue
        order = came[np.argsort(arrivals_TN[t, came])]
        times = arrivals_TN[t, order]
        for k in range(max(1, (len(order) + 1) // 2), len(order)):
            cost_N[order[k]] += times[k] - times[k - 1]
        missing = np.flatnonzero(~run.arrived_TN[t] & ~run.away_TN[t] & asked_TN[t])
        if len(missing) and np.isfinite(run.series["step_seconds"][t]):
            cost_N[missing] += max(0.0, run.series["step_seconds"][t] - times[-1]) / len(missing)
    return cost_N / (run.steps - warm)


def _known(values: list[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _middle(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else math.nan
