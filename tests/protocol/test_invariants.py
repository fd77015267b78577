"""The invariants of docs/protocol.md over thousands of random schedules of both machines (world.py, spec.py)."""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_array

from gcdist.protocol import Head, MasterMachine, Peer, Round, WorkerMachine
from gcdist.protocol import master_io as m
from gcdist.protocol import worker_io as w
from gcdist.protocol.master_state import Outstanding
from gcdist.types import Plan, StepTerms
from tests.protocol.book import SEEN
from tests.protocol.plans import HELLO, Weighing
from tests.protocol.spec import failures

SCHEDULES = 2000
TEETH = 800  # schedules in which a broken machine must be found out

Found = tuple[dict[int, list[str]], Counter[str]]


@pytest.fixture(scope="module")
def found() -> Found:
    """What breaks, by invariant, and what the schedules reached."""
    SEEN.clear()
    return failures(range(SCHEDULES)), SEEN.copy()


def test_no_deadlock_and_everybody_is_released(found: Found) -> None:
    """Every step ends, a calm step at the end gets every row, after Stop every worker exits with code 0."""
    broken, seen = found
    assert not broken[0], broken[0][:3]
    assert seen["calm"] > SCHEDULES / 2


def test_invariant_1_every_step_closes_once_and_in_time(found: Found) -> None:
    assert not found[0][1], found[0][1][:3]


def test_invariant_2_a_row_counts_at_most_once(found: Found) -> None:
    assert not found[0][2], found[0][2][:3]


def test_invariant_3_a_message_counts_by_its_stamp(found: Found) -> None:
    assert not found[0][3], found[0][3][:3]


def test_invariant_4_rounds_only_against_credit(found: Found) -> None:
    assert not found[0][4], found[0][4][:3]


def test_invariant_5_a_message_is_its_round_s_or_its_link_closes(found: Found) -> None:
    assert not found[0][5], found[0][5][:3]


def test_invariant_6_weights_and_deadline_are_fixed_at_the_opening(found: Found) -> None:
    assert not found[0][6], found[0][6][:3]


def test_invariant_7_shifts_are_equal_at_both_ends(found: Found) -> None:
    assert not found[0][7], found[0][7][:3]


def test_invariant_8_acceptance_is_settled_and_holders_are_taken_out(found: Found) -> None:
    assert not found[0][8], found[0][8][:3]


def test_invariant_9_stale_work_is_dropped(found: Found) -> None:
    assert not found[0][9], found[0][9][:3]


def test_invariant_10_a_row_is_its_plan_s_alone(found: Found) -> None:
    """The machines' part; that g_j itself depends on (seed, t, j) alone is tested with the gradients."""
    assert not found[0][10], found[0][10][:3]


def test_invariant_11_equal_events_give_equal_instructions(found: Found) -> None:
    assert not found[0][11], found[0][11][:3]


def test_invariant_12_differences_begin_at_what_a_worker_has(found: Found) -> None:
    """The bits of the replicas themselves: exchange/test_replica_schedules.py."""
    assert not found[0][12], found[0][12][:3]


@pytest.mark.parametrize(
    "situation",
    [
        "close complete",
        "close deadline",
        "close count",
        "close stop",
        "message: count",
        "message: probe",
        "message: late",
        "message: broken",
        "message: stranger",
        "counted in time, handled after the deadline",
        "late message moved the shift",
        "kept",
        "closed a cheat's link",
        "replaced before it was lost",
        "equal shifts that are not zero",
        "a partition for a step that is over",
        "Commit",
        "Discard",
        "Zero",
        "Abort",
        "SendFailed",
        "SendLeaving",
        "differences over skipped versions",
    ],
)
def test_the_schedules_reach(situation: str, found: Found) -> None:
    assert found[1][situation] >= 80, found[1]


# --- the tests have teeth: each broken machine is found out by the test of its invariant ---


class SleepsThroughDeadlines(MasterMachine):
    def handle(self, event: m.MasterEvent) -> list[m.MasterInstruction]:
        if self._open is not None and self._open.closes < event.at < self._open.closes + 0.05:
            self._open.closes = event.at + 1e-9
        return super().handle(event)


class ClosesAtTheFirstArrival(MasterMachine):
    def _close_if_done(self, at: float) -> None:
        if self._open is not None and self._open.counted:
            self._close(at, "complete")
        else:
            super()._close_if_done(at)


class CountsEachLife(MasterMachine):
    def _gone(self, at: float, peer: Peer, reason: str) -> None:
        super()._gone(at, peer, reason)
        if self._open is not None and self._installed is not None and peer.worker in self._installed.assignments:
            self._open.settled.difference_update(self._installed.assignments[peer.worker].rows)


class TellsRowsThatDidNotCount(MasterMachine):
    def _close(self, at: float, why: Any) -> None:
        super()._close(at, why)
        close = self._out[-1]
        assert isinstance(close, m.CloseStep)
        self._out[-1] = replace(close, rows=tuple(sorted(close.rows)))


class CountsByHandling(MasterMachine):
    """Counts what is handled while no Tick has come, whatever its stamp."""

    def handle(self, event: m.MasterEvent) -> list[m.MasterInstruction]:
        if self._open is not None and isinstance(event, m.Arrived):
            self._open.closes = max(self._open.closes, event.at)
        return super().handle(event)


class SendsWithoutCredit(MasterMachine):
    def _opened(self, event: m.OpenStep) -> None:
        super()._opened(event)
        for state in self._peers.values():
            self._send(state, event.at)


class DoesNotCompare(MasterMachine):
    def _arrived(self, event: m.Arrived) -> None:
        state = self.members.state_of(event.peer)
        if state and state.outstanding and event.head.row in state.outstanding.shift:
            state.outstanding.shift[event.head.row] = event.head.shift
        super()._arrived(event)


class SendsThePlanOnceForEver(MasterMachine):
    def _send(self, state: Any, at: float) -> None:
        if state.plan_sent >= 0 and self._installed is not None:
            state.plan_sent = self._installed.plan.plan_id
        super()._send(state, at)


class WeighsByWhoIsHere(MasterMachine):
    def handle(self, event: m.MasterEvent) -> list[m.MasterInstruction]:
        missing = int((~self.members.live()).sum())
        return [
            replace(t, use=replace(t.use, weight=t.use.weight * (1 + missing)))
            if isinstance(t, m.Accumulate) and t.use.weight
            else t
            for t in super().handle(event)
        ]


class ForgetsLateAcceptance(MasterMachine):
    def _late(self, event: m.Arrived, owed: Outstanding) -> None:
        before = self._shifts.get(event.head.row)
        super()._late(event, owed)
        if before is not None and event.head.row in self._shifts:
            self._shifts[event.head.row] = before


class MovesByAnOlderVector(MasterMachine):
    def _late(self, event: m.Arrived, owed: Outstanding) -> None:
        assert self._installed is not None
        super()._late(event, replace(owed, trained=self._installed.plan.trained))


class KeepsShiftsOfAnOlderVector(MasterMachine):
    def _install(self, plan: Plan) -> None:
        if self._installed is not None:
            before = replace(self._installed.plan, trained=plan.trained)
            self._installed = replace(self._installed, plan=before)
        super()._install(plan)


class KeepsShiftsOfTheGone(MasterMachine):
    def _gone(self, at: float, peer: Peer, reason: str) -> None:
        kept, self._shifts = self._shifts, {}
        super()._gone(at, peer, reason)
        self._shifts = kept


class SendsBeforeTheVerdict(MasterMachine):
    """Gives the next round while a message may still be on its way."""

    def _opened(self, event: m.OpenStep) -> None:
        for state in self._peers.values():
            state.credit, state.outstanding = True, None
        super()._opened(event)


class NeverStale(WorkerMachine):
    def _stale(self) -> bool:
        return False


class AlwaysCommits(WorkerMachine):
    def _settle(self, row: int, version: int, beta: float) -> bool:
        return super()._settle(
            row, version + 1 if row in self._held and self._held[row].pending else version, beta or 1.0
        )


class ComputesTwice(WorkerMachine):
    def _round(self, event: Any) -> None:
        super()._round(event)
        if self._work is not None:
            self._work.todo.extendleft(list(self._work.todo)[:1])


class DropsStaleParameters(WorkerMachine):
    def _round(self, event: Any) -> None:
        super()._round(event)
        self._out = [told for told in self._out if not isinstance(told, w.Take)]


class TrustsTheAstray(MasterMachine):
    def _credited(self, event: m.Credit) -> None:
        super()._credited(replace(event, why="failed") if event.why == "astray" else event)


class SendsWhatIsNotKept(MasterMachine):
    def _opened(self, event: m.OpenStep) -> None:
        super()._opened(event if event.since is None else replace(event, since=-1))


class Tosses(MasterMachine):
    def _joined(self, at: float, peer: Peer, hello: Any) -> None:
        if random.random() < 0.1:
            self._out.append(m.Refuse(peer, "no", differs=False))
        else:
            super()._joined(at, peer, hello)


@pytest.mark.parametrize(
    ("invariant", "broken"),
    [
        (1, SleepsThroughDeadlines),
        (1, ClosesAtTheFirstArrival),
        (2, CountsEachLife),
        (2, TellsRowsThatDidNotCount),
        (3, CountsByHandling),
        (3, SleepsThroughDeadlines),
        (3, MovesByAnOlderVector),
        (4, SendsWithoutCredit),
        (5, DoesNotCompare),
        (5, SendsThePlanOnceForEver),
        (6, WeighsByWhoIsHere),
        (7, ForgetsLateAcceptance),
        (7, AlwaysCommits),
        (8, KeepsShiftsOfTheGone),
        (8, KeepsShiftsOfAnOlderVector),
        (8, SendsBeforeTheVerdict),
        (9, NeverStale),
        (10, ComputesTwice),
        (11, Tosses),
        (12, DropsStaleParameters),
        (12, TrustsTheAstray),
        (12, SendsWhatIsNotKept),
    ],
)
def test_a_broken_machine_is_found_out(invariant: int, broken: type[Any]) -> None:
    master = broken if issubclass(broken, MasterMachine) else MasterMachine
    worker = broken if issubclass(broken, WorkerMachine) else WorkerMachine
    assert failures(range(TEETH), master, worker, only=invariant)[invariant]


# --- what is not a matter of schedules ---


def test_invariant_11_ten_thousand_workers() -> None:
    """A step of 10,000 workers; the bound is generous (0.5 s was measured on one idle core)."""
    n = 10_000
    master = MasterMachine(n, HELLO)
    plan = Plan(
        0,
        csr_array((np.ones(n), np.arange(n), np.arange(n + 1)), shape=(n, n)),
        np.arange(n),
        np.full((n, 1), 4, np.uint8),
        np.full(n, 0.1),
        np.ones(n, bool),
    )
    peers = [Peer(i, i + 1) for i in range(n)]
    for peer in peers:
        master.handle(m.Joined(0.0, peer, HELLO))
        master.handle(m.Credit(0.0, peer, -1, "fresh"))
    began = time.process_time()
    terms = StepTerms(10.0, np.full(n, 0.1))
    decoder = Weighing(np.full(n, 1 / 0.9), np.ones(n, bool), np.ones(n), 0.0, frozenset())
    out = master.handle(m.OpenStep(1.0, 0, 0, plan, terms, decoder))
    rounds: dict[Peer, Round] = {t.peer: t.round for t in out if isinstance(t, m.SendRound)}
    assert len(rounds) == n
    largest = 0
    for peer in peers:
        head = (0, 0, peer.worker, 1, 0, 8)
        out = master.handle(m.Arrived(2.0, peer, Head(*head), None))
        largest = max(largest, len(out) if peer != peers[-1] else 0)
        master.handle(m.Credit(2.0, peer, 0, "sent"))
    assert largest == 2  # Observe and Accumulate, whoever many there are
    assert any(isinstance(t, m.CloseStep) and len(t.rows) == n for t in out)
    assert time.process_time() - began < 15
