"""The accounts of a run: steps, arrivals, seconds, bytes, data, the newest evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gcdist.exchange.shift import segments_of
from gcdist.master.arrival_tally import ArrivalTally, Contradiction
from gcdist.master.coverage import Coverage
from gcdist.master.data_account import DataAccount
from gcdist.master.driver import MasterDriver
from gcdist.master.ledger import Ledger
from gcdist.master.noise_estimates import signal_and_energy
from gcdist.master.round_result import RoundResult
from gcdist.master.scheme import Scheme
from gcdist.master.wait_for_all import WaitForAllClock
from gcdist.observe import Summary
from gcdist.observe.summary import INJECTED
from gcdist.run.session import Session
from gcdist.types import Layout, Quantizer


class Accounts:
    """The accounts of one run, written by `Cluster` after each round and kept in its checkpoints."""

    def __init__(self, session: Session, driver: MasterDriver) -> None:
        self.next = 0  # the step to run
        self.trained = 0  # steps run, without those of `check_waiting`
        self.estimated = 0  # of them, with an estimate of the gradient
        self.seconds = 0.0  # when the last step had ended
        self.evaluation: dict[str, float] = {}  # the newest metrics
        self.evaluated_at = -1  # step of them
        self.arrivals = ArrivalTally(session.workers)
        self._contradiction = Contradiction(self.arrivals)
        self.waiting = WaitForAllClock(session.delays, session.config.seed, session.workers, len(session.sizes_K))
        self.ledger = Ledger(driver.port)
        self.data = DataAccount(session.config.data.prefetch)
        self.coverage = Coverage(session.sizes_K)
        self.sync_check: tuple[float, float] | None = None
        self._scheme: Scheme | None = None  # of the last step
        self._session = session
        self._driver = driver

    def add(self, result: RoundResult, scheme: Scheme) -> None:
        """Take in a finished round of training."""
        self.next += 1
        self.trained += 1
        self.estimated += result.gradient is not None
        self.arrivals.add(result)
        self.data.add(result, local=bool(self._driver.machine.members.holds()))
        if (line := self.coverage.add(result)) is not None:
            self._driver.say("warning", line)
        if scheme.known_p and scheme.code.unbiased and (line := self._contradiction.line()) is not None:
            self._driver.say("warning", line)
        self._scheme = scheme
        maker, plan = scheme.maker, result.plan
        rows = np.array([counted.row for counted in result.counted], np.int64)
        sidecars = [counted.sidecar for counted in result.counted]
        messages = list(zip(sidecars, plan.bits_RS[rows], strict=True))
        maker.calibrate(plan, messages, *signal_and_energy(result, maker.noise))
        worker_C, load_C = plan.worker_R[rows].tolist(), np.diff(plan.A_RK.indptr)[rows].tolist()
        for worker, load, sidecar in zip(worker_C, load_C, sidecars, strict=True):
            maker.changes.observe(worker, load, sidecar)
        self.waiting.add(result)
        self.ledger.step_seconds += result.seconds
        self.count_saved(result.messages, result.payload_bytes)
        self.ledger.saved_down += result.down_saved

    def count_saved(self, messages: int, payload_bytes: int) -> None:
        """Count the bytes that the same number of messages would have in float32."""
        self.ledger.saved_bytes += 4 * self._session.state.layout.d * messages - payload_bytes

    def check_waiting(
        self, steps: int, run_round: Callable[[int], RoundResult], on_step: Callable[[int], None] | None
    ) -> tuple[float, float] | None:
        """Time ``steps`` rounds that wait for all: seconds taken and seconds estimated; None without an estimate."""
        taken = floors = 0.0
        first = self.next + 1  # the round before it brings the new plan, and is not timed
        for number in range(self.next, first + steps):
            result = run_round(number)
            if number >= first:
                taken += result.seconds
                floors += self.waiting.floor(number)
            elif self.waiting.overhead is None:  # no step of the run had everybody: the untimed one tells
                self.waiting.measure(result)
            if on_step is not None:
                on_step(number - first + 1)
        self.next = first + steps
        expected, measured = self.waiting.of(floors, steps), self._waiting_by_times()
        if not self._injected:
            expected = None if measured is None else measured[0] * steps
        self.sync_check = None if expected is None else (taken, expected)
        return self.sync_check

    @property
    def _injected(self) -> bool:
        """Whether the delays are known: they were injected."""
        return self._session.config.inject.model != "none"

    def _waiting_by_times(self) -> tuple[float, bool] | None:
        """Mean seconds of a step that waits for all by the measured times, and whether that is a lower bound."""
        if self._scheme is None:
            return None
        return self.waiting.by_times(self._scheme.rule.arrivals, self._scheme.maker.laws)

    def summary(self, metrics: Mapping[str, float] | None, folder: Path) -> Summary:
        """The run so far."""
        session, ledger = self._session, self.ledger
        measured = None if self._injected or self.data.local else self._waiting_by_times()
        total = self.waiting.total() if self._injected and not self.data.local else None
        if measured is not None:
            total = measured[0] * self.trained
        return Summary(
            scheme=session.code.name,
            quantizer=bits_line(session.quantizer, session.state.layout, session.config.quantizer.bits),
            workers=session.workers,
            steps=self.trained,
            metrics=dict(metrics or {}),
            wall_seconds=self.seconds,
            waiting_seconds=None if total is None else total + max(0.0, self.seconds - ledger.step_seconds),
            waiting_check=self.sync_check,
            waiting_by=INJECTED if measured is None else "measured times",
            waiting_at_least=measured is not None and measured[1],
            arrivals=self.arrivals.rates(),
            bytes_up=ledger.bytes_up,
            bytes_up_float32=ledger.bytes_up + ledger.saved_bytes,
            bytes_down=ledger.bytes_down,
            bytes_down_float32=ledger.bytes_down + ledger.saved_down,
            folder=folder,
            evaluation_seconds=ledger.paused.get("evaluation", 0.0),
            checkpoint_seconds=ledger.paused.get("checkpoint", 0.0),
            notes=self.data.notes(),
            samples_counted=self.coverage.share,
            steps_without_gradient=self.coverage.without_gradient,
            partitions_missed=self.coverage.incomplete,
            partitions=self.coverage.partitions(),
        )

    def state_dict(self) -> dict[str, Any]:
        """The accounts so far, for a checkpoint."""
        return {
            "trained": self.trained,
            "estimated": self.estimated,
            "seconds": self.seconds,
            "evaluation": {"step": self.evaluated_at, "metrics": dict(self.evaluation)},
            "arrivals": self.arrivals.state_dict(),
            "waiting": self.waiting.state_dict(),
            "ledger": self.ledger.state_dict(),
            "data": self.data.state_dict(),
            "coverage": self.coverage.state_dict(),
        }

    def load_state_dict(self, step: int, state: Mapping[str, Any]) -> str | None:
        """Take what `state_dict` gave, before the run begins; ``step``: the one to run.

        Returns:
            Why arrivals are learned anew (other workers than then); None: they go on.
        """
        self.next, self.trained, self.estimated = step, state["trained"], state["estimated"]
        self.seconds = state["seconds"]
        self.evaluated_at, self.evaluation = state["evaluation"]["step"], dict(state["evaluation"]["metrics"])
        self.ledger.load_state_dict(state["ledger"])
        self.data.load_state_dict(state["data"])
        self.coverage.load_state_dict(state["coverage"])
        try:
            self.arrivals.load_state_dict(state["arrivals"])
            self.waiting.load_state_dict(state["waiting"])
        except ValueError as error:
            return str(error)
        return None


def bits_line(quantizer: Quantizer, layout: Layout, bits: int) -> str:
    """The quantizer and its bits; in brackets the bits a coordinate of a whole message, if they differ."""
    sent = 8 * segments_of(quantizer, layout).nbytes(bits) / layout.d
    more = f" ({sent:.2f} with scales and small parameters)" if sent > bits else ""
    return f"{quantizer.name}, {bits} bits{more}"
