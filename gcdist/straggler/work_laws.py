"""Each worker's speed: seconds until the first partition of its row is done, and seconds of each further one.

Every message tells when its partitions were done (`WorkTimes`). A cut row tells nothing of the partitions behind the cut:
its further partitions are taken to come at the pace of those that were done. Older steps weigh less. A worker of which
little was seen yet is taken to be like the others; one whose last row was slow is expected to stay slow as often as slow
rows were followed by others (`Spells`); one that has changed for long loses its past.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isnan
from typing import Any

import numpy as np

from gcdist.straggler.order import quantile
from gcdist.straggler.row_window import PARTS, RowWindow
from gcdist.straggler.slowdown import LEAST_ROWS, Slowdown
from gcdist.straggler.spells import MATTERS, Spells
from gcdist.straggler.spells import PAST as FEWEST
from gcdist.types import F64, I64, Plan, Seen

HALF_LIFE = 25.0  # steps after which an observation weighs half
OTHERS = 2.0  # rows that the others' rows count for beside a worker's own ...
OWN = 5  # ... of which so many are enough
POOL = 64  # rows of the others that are looked at, at most
CHANGED = 12  # rows in a row that are all longer, or all shorter, than the worker's past: it has changed
LASTING = 24  # rows of a slow spell from which on it is the worker's usual speed
FACTOR = 1.5  # so many times the 90% quantile of its past, or shorter than the 10% quantile over this
NEAR = 1.4  # below FACTOR: a row that is not so much longer or shorter than 90% of the past is not unlike it
PAST = 8  # rows before them that are needed to tell
DOUBTED = 2  # rows in a row of which nothing was done, where arrivals contradict what was promised
LATELY = 20  # steps
AT_ONCE = 32  # loads whose outcomes are worked out by one operation; more would take much memory
ACCIDENT = 4.0  # an overhead beyond so many times (mean + 3 mean deviations) is one, unless another follows
BEYOND = 2.0  # a row of which nothing was done by its cut is taken to begin at this multiple of it ...
LONGER = 3  # ... or, where the worker has so many rows that are longer still, at the median of the newest of them
BELIEF = 0.995  # factor of that median for each such row: after some hundred of them it is tried anew


class WorkLaws:
    """The times of each worker's last rows, and the seconds of its link.

    ``overhead`` of a worker is what a step takes of it outside its row: the round's way down, encoding, and the message's
    way up. Its mean and mean deviation are exponential averages, as in TCP's estimate of round-trip times (Jacobson 1988).
    A single message that is held up for long (a cable that was out) changes neither (ours): cuts that leave time for another
    one like it would come before anything is done, for many steps, of which no promise knows.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._rows = [RowWindow() for _ in range(workers)]
        # start and pace of the first round, of workers of which nothing else is known
        self._cold: dict[int, tuple[float, float]] = {}
        self._cold_overhead: set[int] = set()
        self._accidents: set[int] = set()  # workers of which the newest overhead was an accident
        self.changed: set[int] = set()  # workers that lost their past; whoever has taken that in clears it
        self._overhead_N = np.full(workers, np.nan)
        self._deviation_N = np.zeros(workers)
        self._heard_N = np.full(workers, -1)  # step of each worker's newest message
        self._slowdown = Slowdown(workers)
        self.spells = Spells(workers)

    def observe(self, seen: Seen) -> None:
        """Take in the outcome of a partial row; outcomes of other rows say nothing.

        A worker's first round counts until the second one is in.
        """
        worker = seen.worker
        if seen.work is None or not seen.work.done:
            if seen.censored and not seen.cold and np.isfinite(self._overhead_N[worker]):
                begun = max(seen.seconds - self._overhead_N[worker], 0.0)
                self._slowdown.judge(worker, seen.step, begun, self._rows[worker].start_T, complete=False)
                self.spells.judge(worker, begun, self._usual(worker, 1), complete=False)
                guess = self._beyond(worker, begun)
                self._add(worker, guess, guess, guessed=True)
            return
        done = seen.work.done
        start, pace = done[0], (done[-1] - done[0]) / (len(done) - 1) if len(done) > 1 else done[0]
        rows = self._rows[worker]
        if not seen.cold:
            if len(rows) >= LEAST_ROWS:  # with fewer nothing can be told
                self._slowdown.judge(worker, seen.step, done[-1], rows.seconds_T(len(done)))
            if len(rows) >= FEWEST:
                self.spells.judge(worker, start + (PARTS - 1) * pace, self._usual(worker, PARTS))
            self._add(worker, start, pace)
        elif not len(rows):
            self._cold[worker] = start, pace
        if seen.step > self._heard_N[worker]:
            self._heard_N[worker] = seen.step
        if seen.overhead is not None:
            self._learn_overhead(worker, max(0.0, seen.overhead), seen.cold)

    def _beyond(self, worker: int, begun: float) -> float:
        """When the first partition is taken to be done of a row of which nothing was done after ``begun`` seconds.

        What is cut from a law is like what else is known of its tail, as in the product-limit estimate (Kaplan, Meier 1958).
        """
        start_T = self._rows[worker].start_T
        longer_T = start_T[start_T > BEYOND * begun]
        if len(longer_T) < LONGER:
            return BEYOND * begun
        return max(BEYOND * begun, BELIEF * float(np.median(longer_T[-LONGER:])))

    def _add(self, worker: int, start: float, pace: float, guessed: bool = False) -> None:
        """Add a row. If all the last rows of a worker are unlike its past, the past is forgotten."""
        self._cold.pop(worker, None)
        rows = self._rows[worker]
        slow = self.spells.slow(worker)
        rows.add(start, pace, guessed, again=slow > 1)
        new = LASTING if slow >= LASTING else CHANGED if self._is_new(rows) else 0
        if new:
            rows.keep(new)
            self.spells.forget(worker)
            self.changed.add(worker)

    @staticmethod
    def _is_new(rows: RowWindow) -> bool:
        """Whether all the last rows were unlike those before."""
        if len(rows) < CHANGED + PAST:
            return False
        time_T = rows.seconds_T(PARTS)
        past_T, last_T = time_T[:-CHANGED], time_T[-CHANGED:]
        newest, most = time_T.item(-1), 0.9 * (len(past_T) - 1)
        longer, shorter = past_T < newest / NEAR, past_T > newest * NEAR  # than how many the newest row was, by far
        if np.count_nonzero(longer) < most and np.count_nonzero(shorter) < most:
            return False  # the usual case
        slower = last_T.min() > FACTOR * quantile(past_T, 0.9)
        return bool(slower or last_T.max() < quantile(past_T, 0.1) / FACTOR)

    def _usual(self, worker: int, parts: int) -> F64:
        """Seconds of so many partitions in each remembered row outside slow spells, (T,)."""
        rows = self._rows[worker]
        before = len(rows) - self.spells.slow(worker)
        seconds_T: F64 = rows.seconds_T(parts)[:before]
        return seconds_T[~rows.again_T[:before]] if rows.agains else seconds_T

    def follow(self) -> bool:
        """If everybody has become slower, take the remembered times as so much longer; whether that was so."""
        if not self._slowdown.found():
            return False
        for worker, (new, ratio) in enumerate(self._slowdown.take()):
            if new and self._rows[worker].stretch(ratio, but=new):
                self.spells.forget(worker)
                self.changed.add(worker)
        return True

    def doubt(self) -> None:
        """Arrivals contradict what was promised: workers of which nothing was done lately keep only these rows."""
        for worker, rows in enumerate(self._rows):
            done = np.flatnonzero(~rows.guessed_T)
            lately = len(rows) - 1 - int(done[-1]) if len(done) else 0
            if lately >= DOUBTED:
                rows.keep(lately)
                self.spells.forget(worker)

    def _learn_overhead(self, worker: int, seconds: float, cold: bool) -> None:
        mean, deviation = self._overhead_N.item(worker), self._deviation_N.item(worker)
        if isnan(mean) or worker in self._cold_overhead:
            self._cold_overhead.discard(worker)
            if cold:
                self._cold_overhead.add(worker)
            self._overhead_N[worker], self._deviation_N[worker] = seconds, seconds / 2
            return
        if seconds > ACCIDENT * (mean + 3 * deviation) and worker not in self._accidents:
            self._accidents.add(worker)
            return
        self._accidents.discard(worker)
        self._deviation_N[worker] = deviation + 0.25 * (abs(seconds - mean) - deviation)
        self._overhead_N[worker] = mean + 0.125 * (seconds - mean)

    @property
    def known_N(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Workers whose times have been seen, (N,)."""
        return np.array([len(rows) > 0 or i in self._cold for i, rows in enumerate(self._rows)])

    def overhead_N(self, deviations: float = 0.0) -> F64:
        """Mean overhead plus so many mean deviations, seconds (N,); of a worker never seen: the largest of the others."""
        bound_N = self._overhead_N + deviations * self._deviation_N
        most = np.nanmax(bound_N) if np.isfinite(bound_N).any() else 0.0
        return np.where(np.isnan(bound_N), most, bound_N)

    def deviation(self) -> float:
        """The largest mean deviation of an overhead, seconds, of those heard of lately: others' would stay as they were."""
        lately_N = self._heard_N >= self._heard_N.max(initial=0) - LATELY
        return float(self._deviation_N[lately_N].max(initial=0.0))

    def table(self, worker: int) -> tuple[F64, F64, F64]:
        """(start, pace, weight) of the rows seen of a worker, each (T,); weights sum to 1. Empty: nothing was seen.

        Below `OWN` rows, the newest rows of the others count beside them. In a slow spell its rows have the chance that it
        lasts; outside, rows that followed slow ones say nothing.
        """
        rows = self._rows[worker]
        if not len(rows):
            first = self._first(worker)
            start_T, pace_T, weight_T = first[:, 0], first[:, 1], np.ones(len(first))
        else:
            weight_T = 0.5 ** (np.arange(len(rows))[::-1] / HALF_LIFE)
            start_T, pace_T, weight_T = rows.start_T, rows.pace_T, weight_T * self._like_the_next(worker, weight_T)
        if 0 < len(start_T) < OWN and self.workers > 1 and len(pool := self._pool(worker)):
            share = OTHERS * (1 - len(start_T) / OWN) / len(pool)
            weight_T = np.concatenate([weight_T, np.full(len(pool), share)])
            start_T, pace_T = np.concatenate([start_T, pool[:, 0]]), np.concatenate([pace_T, pool[:, 1]])
        return start_T, pace_T, weight_T / max(weight_T.sum(), 1e-300)

    def _like_the_next(self, worker: int, weight_T: F64) -> F64:
        """Factors of the rows' weights (T,): how much more or less they tell of the next row than by their age alone."""
        again_T, factor_T = self._rows[worker].again_T, np.ones(len(weight_T))
        last = min(self.spells.rows(worker), len(weight_T))
        if self.spells.persistence <= MATTERS or (not last and again_T.all()):
            return factor_T
        factor_T[again_T] = 0.0
        if last:
            spell_T = np.arange(len(weight_T)) >= len(weight_T) - last
            others, lasts = float((weight_T * factor_T)[~spell_T].sum()), self.spells.persistence
            factor_T[spell_T] = lasts / float(weight_T[spell_T].sum())
            factor_T[~spell_T] *= (1 - lasts) / others if others > 0 else 0.0
        return factor_T

    def _pool(self, worker: int) -> F64:
        """Start and pace of the newest rows of other workers, (T, 2), the next ones by number if there are many."""
        pool: list[F64] = []
        for ahead in range(1, self.workers):
            other = (worker + ahead) % self.workers
            rows = self._rows[other]
            newest = np.array([[rows.start_T[-1], rows.pace_T[-1]]]) if len(rows) else self._first(other)
            pool += [newest] if len(newest) else []
            if len(pool) >= POOL:
                break
        return np.concatenate(pool) if pool else np.zeros((0, 2))

    def _first(self, worker: int) -> F64:
        return np.array([self._cold[worker]]) if worker in self._cold else np.zeros((0, 2))

    def whole_rows(self, worker: int, load: int) -> tuple[F64, float]:
        """Seconds until a row of so many partitions was done in each remembered step (T,), the worker's overhead included.

        Rows of which nothing was done are left out; the second is their share.
        """
        rows = self._rows[worker]
        seconds_T = rows.seconds_T(load)[~rows.guessed_T]
        return seconds_T + self.overhead_N()[worker], 1 - len(seconds_T) / max(1, len(rows))

    def row_seconds(self, worker: int, load: int, chance: float) -> float:
        """Seconds after which a whole row of so many partitions is in with this chance; 0 of a worker never seen."""
        start_T, pace_T, weight_T = self.table(worker)
        if not len(start_T):
            return 0.0
        time_T = start_T + pace_T * (load - 1)
        order = np.argsort(time_T)
        at = np.searchsorted(np.cumsum(weight_T[order]), chance * (1 - 1e-12))
        return float(time_T[order][min(int(at), len(order) - 1)] + self.overhead_N()[worker])

    def count(self, worker: int) -> int:
        """Number of remembered rows of a worker."""
        return len(self._rows[worker])

    def outcomes(self, worker: int, load_L: I64, cut_G: F64) -> tuple[F64, F64]:
        """Outcomes of rows of these loads at each cut, in seconds since the round's receipt.

        Returns:
            ``P(m = 0)`` (G,), and ``E[l^2/m - l | m >= 1]`` (G, L), the factor of S_i^2 in math section 10.
        """
        start_T, pace_T, weight_T = self.table(worker)
        if not len(start_T):
            return np.zeros(len(cut_G)), np.zeros((len(cut_G), len(load_L)))
        u_GT = _done(start_T, pace_T, cut_G)
        weight_GT = weight_T * (u_GT >= 1)
        some_G = weight_GT.sum(axis=1)
        inverse_GT = 1.0 / np.maximum(u_GT, 1.0)
        excess_GL = np.zeros((len(cut_G), len(load_L)))
        for begin in range(0, len(load_L), AT_ONCE):
            load_L1 = load_L[begin : begin + AT_ONCE, None]
            over_GLT = np.maximum(0.0, load_L1 * inverse_GT[:, None, :] - 1.0)
            excess_GL[:, begin : begin + AT_ONCE] = (weight_GT[:, None, :] * load_L1 * over_GLT).sum(axis=2)
        return 1.0 - some_G, excess_GL / np.maximum(some_G, 1e-12)[:, None]

    def nothing(self, worker: int, cut: float) -> float:
        """P(no partition of the worker's row is done by the cut), seconds since the round's receipt."""
        return float(self.outcomes(worker, np.ones(1, np.int64), np.array([cut]))[0][0])

    def excess_R(self, plan: Plan, cut_N: F64) -> F64:
        """``E[l^2/m - l | m >= 1]`` of each row of a plan whose workers are cut at these seconds, (R,); 0 without data."""
        load_R, weighted_R = np.diff(plan.A_RK.indptr).astype(np.int64), plan.weighted_R()
        excess_R = np.zeros(plan.rows)
        for row in np.flatnonzero(weighted_R & (load_R > 1)):
            worker = int(plan.worker_R[row])
            excess_R[row] = self.outcomes(worker, load_R[row : row + 1], cut_N[worker : worker + 1])[1][0, 0]
        return excess_R

    def complete(self, worker: int, load: int, seconds_G: F64) -> F64:
        """P(the whole row is done by so many seconds) (G,)."""
        start_T, pace_T, weight_T = self.table(worker)
        if not len(start_T):
            return np.ones(len(seconds_G))
        share_G: F64 = (weight_T * (start_T + pace_T * (load - 1) <= seconds_G[:, None] + 1e-12)).sum(axis=1)
        return share_G

    def state_dict(self) -> dict[str, Any]:
        """What was learned, for a checkpoint."""
        return {
            "rows": [rows.state() for rows in self._rows],
            "overhead": self._overhead_N.copy(),
            "deviation": self._deviation_N.copy(),
            "heard": self._heard_N.tolist(),
            "cold": [[worker, *row] for worker, row in sorted(self._cold.items())],
            "cold_overhead": sorted(self._cold_overhead),
            "accidents": sorted(self._accidents),
            "changed": sorted(self.changed),
            "slowdown": self._slowdown.state_dict(),
            "spells": self.spells.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what `state_dict` gave; ValueError if it is of another number of workers."""
        if len(state["rows"]) != self.workers:
            raise ValueError(f"times of {len(state['rows'])} workers, not {self.workers}")
        self._rows = [RowWindow.of(rows) for rows in state["rows"]]
        self._overhead_N[:], self._deviation_N[:] = state["overhead"], state["deviation"]
        self._heard_N[:] = state.get("heard", -1)
        self._cold = {int(worker): (start, pace) for worker, start, pace in state.get("cold", ())}
        self._accidents = set(state.get("accidents", ()))
        self._cold_overhead, self.changed = set(state.get("cold_overhead", ())), set(state.get("changed", ()))
        if "spells" in state:
            self.spells.load_state_dict(state["spells"])
        if "slowdown" in state:
            self._slowdown.load_state_dict(state["slowdown"])


def _done(start_T: F64, pace_T: F64, cut_G: F64) -> F64:
    """Partitions that a row without end has done by each cut in each remembered step, (G, T)."""
    left_GT = cut_G[:, None] - start_T[None, :]
    with np.errstate(divide="ignore", invalid="ignore"):
        more_GT = np.where(pace_T > 0, np.floor(left_GT / pace_T + 1e-9), np.inf)
    return np.where(left_GT >= 0, 1.0 + more_GT, 0.0)
