"""The verdict of a run in words: slow, flaky and dead workers with the reason, and other points of note.

A worker is compared with the faster ones of the run: the lower quartile over the workers of the median time of a round, of
its part at the worker, and of its part on the link. The part with the larger excess is the reason.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from gcdist.observe import bytes_text
from gcdist.observe.summary import SUSPECT
from gcdist.report.figures import WorkerFigures, worker_figures
from gcdist.report.reading import Run

SLOWER = 1.5  # times the faster workers' round
NOTICED = 0.1  # of a step's time: a smaller delay is not reported
UNSTEADY = 3.0  # times its own median, in one of twenty rounds: a worker above it is unsteady
FLAKY = 2  # times lost and back
WORDS = 3  # most troubled workers in the end-of-run summary
Kind: TypeAlias = Literal["dead", "flaky", "link", "computing", "data", "slow", "unsteady"]
GRAVE: tuple[Kind, ...] = ("dead", "flaky", "link", "computing", "data", "slow", "unsteady")


@dataclass(frozen=True, slots=True)
class Trouble:
    """One worker that needs attention."""

    worker: int
    kind: Kind
    text: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The run in words: one line on the whole, the troubled workers, and further notes."""

    state: Literal["running", "done", "halted"]
    headline: str
    troubles: tuple[Trouble, ...]
    notes: tuple[str, ...]
    workers: tuple[WorkerFigures, ...]

    def lines(self) -> list[str]:
        """All of it, a line each."""
        return [self.headline, *(trouble.text for trouble in self.troubles), *self.notes]


def judge(run: Run) -> Verdict:
    """The verdict on a run."""
    workers = worker_figures(run)
    troubles = [trouble for each in workers if (trouble := _trouble(run, each, workers)) is not None]
    troubles.sort(key=lambda each: (GRAVE.index(each.kind), each.worker))
    state, why = run.state()
    return Verdict(
        state, _headline(run, state, why, troubles), tuple(troubles), tuple(_notes(run, workers)), tuple(workers)
    )


def _headline(run: Run, state: str, why: str, troubles: list[Trouble]) -> str:
    if not run.steps:
        return f"No step is recorded{f': {why}' if why else ''}."
    seconds = float(np.nan_to_num(run.series["seconds"][-1]))
    done = f"{run.steps} of {run.wanted}" if run.wanted and run.wanted != run.steps else f"{run.steps}"
    text = f"{done} steps in {seconds_text(seconds)}, {seconds_text(seconds / run.steps)} a step"
    waiting = run.summary.get("waiting_seconds")
    if isinstance(waiting, float) and seconds > 0:
        least = "at least " if run.summary.get("waiting_at_least") else ""
        times = f"{seconds_text(waiting)} ({waiting / seconds:.2g} times)"
        text += f"; waiting for all workers would have taken {least}{times}"
    if state == "halted":
        text += f". The run was halted: {why}"
    if state == "running":
        text += " so far"
    names = _named(sorted({each.worker for each in troubles}))
    if not names:
        return f"{text}. No worker stands out."
    return f"{text}. {names} need{'s' if len(troubles) == 1 else ''} a look."


def _named(ranks: list[int]) -> str:
    if not ranks:
        return ""
    shown = ", ".join(map(str, ranks[:12])) + (f" and {len(ranks) - 12} more" if len(ranks) > 12 else "")
    return f"Worker{'s' if len(ranks) > 1 else ''} {shown}"


def _trouble(run: Run, me: WorkerFigures, workers: list[WorkerFigures]) -> Trouble | None:
    if me.gone is not None:
        since = run.steps - int(np.searchsorted(run.step_T, me.gone))
        why = f" ({me.why.splitlines()[0]})" if me.why else ""
        if me.counted == 0 and not me.why:
            text = f"Worker {me.worker} never came."
        else:
            text = f"Worker {me.worker} is dead: it was lost before step {me.gone}{why} and away for the last {since} steps."
        return Trouble(me.worker, "dead", text)
    if max(me.spells, me.lost) >= FLAKY:
        text = (
            f"Worker {me.worker} is flaky: it was lost {max(me.spells, me.lost)} times and came back; "
            f"away in {_percent(me.away)} of the steps. {_cost(me)}"
        )
        return Trouble(me.worker, "flaky", text)
    fast = _quartile([each.seconds for each in workers])
    step = float(np.nanmedian(run.series["step_seconds"])) if run.steps else math.nan
    notice = NOTICED * min(fast, step)
    if me.seconds > SLOWER * fast and me.seconds - fast > notice:
        return _slow(me, workers, fast)
    # a part may exceed the faster workers' although the whole does not, if the plan gives the worker little
    for kind, mine, theirs in (
        ("link", me.link, _quartile([each.link for each in workers])),
        ("computing", _each(me), _quartile([_each(each) for each in workers])),
    ):
        weight = 1.0 if kind == "link" else max(1.0, _quartile([each.load for each in workers]))
        if mine > 2 * theirs and weight * (mine - theirs) > 2 * notice:
            return _slow(me, workers, fast)
    if me.slowest > UNSTEADY * me.seconds and me.slowest > SLOWER * fast + notice and me.rate < 0.95:
        text = (
            f"Worker {me.worker} is unsteady: a round takes {seconds_text(me.seconds)} as a rule, but one in twenty "
            f"{seconds_text(me.slowest)} or more; {_counted(me)}. {_cost(me)}"
        )
        return Trouble(me.worker, "unsteady", text)
    return None


def _slow(me: WorkerFigures, workers: list[WorkerFigures], fast: float) -> Trouble:
    counted = _counted(me)
    round_text = f"{'more than ' if me.least else ''}{seconds_text(me.seconds)}"
    if not math.isfinite(me.held):
        text = (
            f"Worker {me.worker} is slow: a round takes {round_text}, of the faster workers "
            f"{seconds_text(fast)}; {counted}. This folder does not tell its link from its computing. {_cost(me)}"
        )
        return Trouble(me.worker, "slow", text)
    held, link = _quartile([each.held for each in workers]), _quartile([each.link for each in workers])
    if me.link - link > max(me.held - held, _share(me, workers)):
        speed = f": {rate_text(me.bits_a_second)} over both ways" if math.isfinite(me.bits_a_second) else ""
        size = f" for {bytes_text(me.link_bytes)}" if me.link_bytes > 0 else ""
        text = (
            f"Worker {me.worker} is slow because of its link{speed}. {seconds_text(me.link)} of its "
            f"{round_text} a round are on the link{size} (the faster workers: {seconds_text(link)}), "
            f"{seconds_text(me.held)} at the worker; {counted}. {_cost(me)}"
        )
        return Trouble(me.worker, "link", text)
    if me.data - _quartile([each.data for each in workers]) > 0.5 * (me.held - held) > 0:
        text = (
            f"Worker {me.worker} is slow because of reading its data: it waits {seconds_text(me.data)} a round for batches; "
            f"{counted}. {_cost(me)}"
        )
        return Trouble(me.worker, "data", text)
    each = ""
    if _each(me) > SLOWER * _quartile([_each(other) for other in workers]):
        each = f", {seconds_text(_each(me))} a partition ({seconds_text(_quartile([_each(o) for o in workers]))})"
    unfinished = f"; {me.dropped} of its rounds were dropped unfinished" if me.dropped else ""
    text = (
        f"Worker {me.worker} is slow because of its computing: {seconds_text(me.held)} of a round at the worker (the faster "
        f"workers: {seconds_text(held)}){each}, {seconds_text(me.link)} on the link; {counted}{unfinished}. {_cost(me)}"
    )
    return Trouble(me.worker, "computing", text)


def _counted(me: WorkerFigures) -> str:
    if not me.asked:
        return "the plans asked it for no gradient"
    timed = me.present - me.asked
    rest = f", in {timed} others the plan only timed it" if timed > 0.05 * me.present else ""
    return f"it counted in {me.counted} of {me.asked} steps{rest}"


def _each(me: WorkerFigures) -> float:
    """Seconds of computing a partition."""
    return me.compute / me.load if me.load > 0 else math.nan


def _share(me: WorkerFigures, workers: list[WorkerFigures]) -> float:
    """Seconds by which its computing would exceed that of the faster workers at their load."""
    load = _quartile([each.load for each in workers])
    excess = (_each(me) - _quartile([_each(each) for each in workers])) * load
    return excess if math.isfinite(excess) else 0.0


def _cost(me: WorkerFigures) -> str:
    if me.cost < 0.0005:
        return "The others waited for it not at all."
    return f"The others waited {seconds_text(me.cost)} a step for it."


def _notes(run: Run, workers: list[WorkerFigures]) -> list[str]:
    notes = []
    wrong = [each for each in workers if abs(each.sigmas) > SUSPECT]
    if wrong:
        worst = max(wrong, key=lambda each: abs(each.sigmas))
        notes.append(
            f"The promised arrival rate was wrong for {_named([each.worker for each in wrong]).lower()}: worker "
            f"{worst.worker} was promised {_percent(worst.planned)} and came to {_percent(worst.rate)} "
            f"({worst.sigmas:+.1f} sigmas): the gradient was biased there."
        )
    planned, seen = run.series["noise_planned"], run.series["noise_observed"]
    both = np.isfinite(planned) & np.isfinite(seen) & (planned > 0)
    if both.sum() >= 20:
        times = float(np.median(seen[both])) / float(np.median(planned[both]))
        if times > 2:
            notes.append(
                f"The gradient's noise was {times:.2g} times what the plans say for partitions that agree: partitions "
                "differ, so absences cost more than planned."
            )
    up, full = run.summary.get("bytes_up"), run.summary.get("bytes_up_float32")
    down = float(np.nansum(run.series["bytes_down"])) if run.steps else 0.0
    if isinstance(up, int) and isinstance(full, int) and up > 0:
        whole = run.summary.get("bytes_down_float32")
        notes.append(
            f"Workers sent {bytes_text(up)}, {_against_float32(full / up)}; the master sent {bytes_text(down)}"
            + (f", {_against_float32(whole / down)}." if isinstance(whole, int) and down > 0 else ".")
        )
    ended = sum(why == "deadline" for why in run.why_T)
    if run.steps:
        notes.append(f"{ended} of {run.steps} steps ended at their deadline, the others earlier.")
    last = run.plans.get(int(run.plan_T[-1])) if run.steps else None
    if last and last.get("uncovered"):
        notes.append(f"Nobody held partitions {last['uncovered']} at the end: the estimate left them out.")
    errors = [event for event in run.events if event.get("kind") == "error"]
    if errors:
        notes.append(
            f"{len(errors)} errors of the user's code; the first: {str(errors[0].get('text')).splitlines()[0]}"
        )
    return notes


def _against_float32(times: float) -> str:
    """How many bytes float32 would have been, over those that were.

    >>> _against_float32(7.96), _against_float32(1.01), _against_float32(0.9)
    ('8 times less than in float32', 'as much as in float32', '1.1 times more than in float32')
    """
    if f"{times:.2g}" in ("1", "0.99"):
        return "as much as in float32"
    return f"{times:.2g} times less than in float32" if times > 1 else f"{1 / times:.2g} times more than in float32"


def _quartile(values: list[float]) -> float:
    """Lower quartile of the known values, by nearest rank below; NaN without one."""
    known = [value for value in values if math.isfinite(value)]
    return float(np.quantile(known, 0.25, method="lower")) if known else math.nan


def _percent(share: float) -> str:
    return f"{share:.0%}" if math.isfinite(share) else "none"


def seconds_text(seconds: float) -> str:
    """Seconds for people.

    >>> seconds_text(0.00123), seconds_text(0.31), seconds_text(12.34), seconds_text(7200.0)
    ('1.2 ms', '0.31 s', '12.3 s', '2.0 h')
    """
    if not math.isfinite(seconds):
        return "an unknown time"
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} h"
    if seconds >= 600:
        return f"{seconds / 60:.1f} min"
    if seconds >= 0.0995:
        return f"{seconds:.1f} s" if seconds >= 9.95 else f"{seconds:.2g} s"
    return f"{1e3 * seconds:.2g} ms"


def rate_text(bits_a_second: float) -> str:
    """Bits a second for people.

    >>> rate_text(9.4e6), rate_text(71_000)
    ('9.4 Mbit/s', '71 kbit/s')
    """
    for unit, size in (("Gbit/s", 1e9), ("Mbit/s", 1e6), ("kbit/s", 1e3)):
        if bits_a_second >= size:
            value = bits_a_second / size
            return f"{value:.3g} {unit}" if value >= 100 else f"{value:.2g} {unit}"
    return f"{bits_a_second:.0f} bit/s"
