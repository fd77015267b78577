"""The master machine, event by event: rounds, messages, shifts, the end of a step."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import Any

import numpy as np
import pytest

from gcdist.protocol import Assignment, MasterMachine, Peer, Round
from gcdist.protocol.master_io import (
    Accumulate,
    Announce,
    CloseStep,
    Credit,
    Drop,
    DropWhy,
    Failed,
    Halt,
    Joined,
    Keep,
    Leave,
    Lost,
    Observe,
    Restore,
    SendRound,
    Settle,
    Stop,
    TakeOut,
)
from gcdist.protocol.messages import Tick, Wake
from gcdist.types import Closing, Seen, Use
from tests.protocol.one_master import TWO, A, B, arrived, master, only, opening
from tests.protocol.plans import HELLO, make_plan


def test_open_announces_to_the_busy_and_sends_against_credit() -> None:
    machine = master(A)
    machine.handle(Joined(0.0, B, HELLO))
    plan = make_plan(0, TWO)
    first = Assignment((0,), (((0, 1.0),),), ((4,),))
    assert machine.handle(opening(0, plan)) == [
        Wake(2.0),
        Announce(B, 0),
        SendRound(A, Round(0, 0, 0, None, (0,), (0.0,), first)),
    ]
    second = Assignment((1,), (((1, 0.5), (2, 0.5)),), ((4,),))
    assert machine.handle(Credit(1.5, B, -1, "fresh")) == [
        SendRound(B, Round(0, 0, 0, None, (0,), (0.0,), second)),
    ]


def test_a_plan_without_a_shift_takes_it_out_and_says_who_remembers() -> None:
    machine = master(A, B)
    machine.handle(opening(0, replace(make_plan(0, TWO), beta_R=np.array([0.5, 0.5])), beta=0.5))
    for peer, row in ((A, 0), (B, 1)):
        machine.handle(arrived(1.25, peer, 0, row))
        machine.handle(Credit(1.3, peer, 0, "sent"))
    out = machine.handle(opening(1, replace(make_plan(1, TWO), beta_R=np.array([0.0, 0.5])), at=2.0, beta=0.5))
    assert only(out, TakeOut) == [TakeOut(0)]
    sent = {told.peer: told.round for told in only(out, SendRound)}
    assert (sent[A].shift, sent[B].shift) == ((0,), (1,))
    assert [round.assignment.remember for round in (sent[A], sent[B]) if round.assignment] == [False, True]


def test_a_row_that_is_only_timed_has_no_shift() -> None:
    """Nothing is sent against it any more: it would stay in the estimate as long as the worker is idle."""
    machine = master(A, B)
    machine.handle(opening(0, make_plan(0, TWO), beta=0.5))
    for peer, row in ((A, 0), (B, 1)):
        machine.handle(arrived(1.25, peer, 0, row))
        machine.handle(Credit(1.3, peer, 0, "sent"))
    timed = make_plan(1, [(0, 0, {0: 0.0}), (1, 4, {0: 1.0, 1: 1.0, 2: 1.0})])
    assert timed.parts(0)
    out = machine.handle(opening(1, timed, at=2.0, beta=0.5))
    assert only(out, TakeOut) == [TakeOut(0)]
    assert {told.peer: told.round.shift for told in only(out, SendRound)} == {A: (0,), B: (1,)}


def test_arrivals_count_until_the_step_is_complete() -> None:
    machine = master(A, B)
    machine.handle(opening(3, make_plan(0, TWO)))
    assert machine.handle(arrived(1.25, B, 3, 1)) == [
        Observe(Seen(1, 1, 3, 2.0, 0.25, False, True, True)),
        Accumulate(3, 1, "m1", Use(2.0), late=False),
    ]
    assert machine.handle(Credit(1.3, B, 3, "sent")) == []
    assert machine.handle(arrived(1.5, A, 3, 0)) == [
        Observe(Seen(0, 0, 3, 1.0, 0.5, False, True, True)),
        Accumulate(3, 0, "m0", Use(2.0), late=False),
        CloseStep(3, Closing(), (1, 0), "complete"),
    ]
    machine.handle(Credit(1.6, A, 3, "sent"))
    out = machine.handle(opening(4, make_plan(0, TWO), at=2.0))
    assert [t.round.assignment for t in only(out, SendRound)] == [None, None]  # they have been sent plan 0


def test_kept_rows_get_their_weight_at_the_close() -> None:
    machine = master(A, B)
    machine.handle(opening(0, make_plan(0, TWO), keep=(0,)))
    assert only(machine.handle(arrived(1.1, A, 0, 0)), Keep) == [Keep(0, 0, "m0", Use(None))]
    out = machine.handle(arrived(1.2, B, 0, 1))
    assert out[-1] == CloseStep(0, Closing(kept=((0, 2.0),)), (0, 1), "complete")


def test_the_deadline_closes_and_what_was_missing_is_seen_censored() -> None:
    machine = master(A, B)
    machine.handle(opening(0, make_plan(0, TWO)))
    machine.handle(arrived(1.1, A, 0, 0))
    assert machine.handle(Tick(1.9)) == []
    assert machine.handle(Tick(2.25)) == [
        Observe(Seen(1, 1, 0, 2.0, 1.0, True, True, True)),
        CloseStep(0, Closing(), (0,), "deadline"),
    ]


def test_a_message_counts_by_its_stamp() -> None:
    machine = master(A, B)
    machine.handle(opening(0, make_plan(0, TWO)))
    assert only(machine.handle(arrived(2.0, A, 0, 0)), Accumulate)  # at the deadline, before the Tick
    out = machine.handle(arrived(2.001, B, 0, 1))  # stamped later: closes the step first
    assert only(out, CloseStep) == [CloseStep(0, Closing(), (0,), "deadline")]
    assert out[-1] == Drop(B, 0, DropWhy.LATE)


def test_a_count_closes() -> None:
    machine = master(A, B)
    machine.handle(opening(0, make_plan(0, TWO), deadline=inf, count=1))
    assert machine.handle(arrived(1.1, A, 0, 0))[-1] == CloseStep(0, Closing(), (0,), "count")


def test_stop_closes_and_releases() -> None:
    machine = master(A, B)
    machine.handle(opening(0, make_plan(0, TWO)))
    out = machine.handle(Stop(1.2, "SIGTERM"))
    assert only(out, CloseStep, Leave) == [CloseStep(0, Closing(), (), "stop"), Leave(A), Leave(B)]
    assert not machine.members.live().any()
    assert machine.handle(Joined(1.3, Peer(0, 9), HELLO)) == [Leave(Peer(0, 9))]
    assert machine.handle(Lost(1.4, A, "gone")) == []


def test_a_late_message_moves_the_shift_once() -> None:
    machine = master(A, B)
    plan = make_plan(0, TWO)
    machine.handle(opening(0, plan, beta=1.0, late_beta=0.5))
    machine.handle(Tick(2.0))
    out = machine.handle(arrived(2.5, A, 0, 0))
    assert out[-1] == Accumulate(0, 0, "m0", Use(0.0, 0.5), late=True)
    machine.handle(Credit(2.6, A, 0, "sent"))
    out = machine.handle(opening(1, plan, at=3.0, beta=1.0, late_beta=0.5))
    assert [(t.round.shift, t.round.beta) for t in only(out, SendRound)] == [((1,), (0.5,))]


def test_a_credit_without_its_message_writes_the_row_off() -> None:
    machine = master(A, B)
    machine.handle(opening(0, make_plan(0, TWO), deadline=inf))
    machine.handle(arrived(1.1, A, 0, 0))
    out = machine.handle(Credit(1.2, B, 0, "stale"))
    assert out[0] == Drop(B, 0, DropWhy.STALE)
    assert out[-1] == CloseStep(0, Closing(), (0,), "complete")


def test_three_failures_of_one_partition_halt() -> None:
    machine = master(A, B)
    machine.handle(opening(0, make_plan(0, TWO)))
    assert machine.handle(Failed(1.1, A, 0, 0, "boom")) == [Drop(A, 0, DropWhy.ERROR, "partition 0: boom")]
    machine.handle(Failed(1.2, A, 0, 0, "boom"))
    machine.handle(arrived(1.3, B, 0, 1))
    out = machine.handle(Failed(1.4, A, 0, 0, "boom"))
    assert out[-1] == Halt("partition 0 failed 3 times in a row: boom")


def test_an_arrival_forgives_failures() -> None:
    machine = master(A, B)
    machine.handle(opening(0, make_plan(0, TWO)))
    for at in (1.1, 1.2):
        machine.handle(Failed(at, B, 0, 1, "boom"))
    machine.handle(arrived(1.3, B, 0, 1))
    assert not only(machine.handle(Failed(1.4, B, 0, 1, "boom")), Halt)


def test_a_moved_row_is_taken_out_and_a_probe_is_only_timed() -> None:
    machine = master(A, B)
    machine.handle(opening(0, make_plan(0, TWO), beta=1.0))
    machine.handle(arrived(1.1, A, 0, 0))
    machine.handle(Credit(1.2, A, 0, "sent"))
    machine.handle(Tick(2.0))
    moved = make_plan(1, [(1, 4, {0: 1.0}), (0, 0, {0: 1.0})])
    out = machine.handle(opening(1, moved, at=3.0, beta=1.0))
    assert only(out, TakeOut) == [TakeOut(0)]
    [sent] = [t.round for t in only(out, SendRound)]
    assert (sent.assignment.rows, sent.assignment.bits, sent.shift) == ((1,), ((0,),), (0,))
    [seen] = machine.handle(arrived(3.1, A, 1, 1, plan=1, done=1))
    assert isinstance(seen, Observe)
    assert not seen.seen.censored


def test_a_late_message_of_a_row_that_moved_is_dropped() -> None:
    machine = master(A, B)
    machine.handle(opening(0, make_plan(0, TWO), late_beta=1.0))
    machine.handle(Tick(2.0))
    machine.handle(opening(1, make_plan(1, [(1, 4, {0: 1.0}), (0, 4, {1: 1.0})]), at=3.0, late_beta=1.0))
    assert machine.handle(arrived(3.1, A, 0, 0))[-1] == Drop(A, 0, DropWhy.LATE)


def test_another_vector_takes_all_shifts_out_and_drops_what_is_of_the_older_one() -> None:
    machine = master(A, B)
    machine.handle(opening(0, make_plan(0, TWO), beta=1.0, late_beta=1.0))
    machine.handle(arrived(1.1, B, 0, 1))
    machine.handle(Credit(1.2, B, 0, "sent"))
    machine.handle(Tick(2.0))
    out = machine.handle(opening(1, make_plan(1, TWO, trained=(0, 2)), at=3.0, beta=1.0, late_beta=1.0))
    assert only(out, TakeOut) == [TakeOut(1)]
    [sent] = [t.round for t in only(out, SendRound)]
    assert (sent.assignment.trained, sent.shift) == ((0, 2), (0,))
    assert machine.handle(arrived(3.1, A, 0, 0))[-1] == Drop(
        A, 0, DropWhy.LATE
    )  # both ends hold version 0, of another vector


def test_a_step_with_nobody_closes_at_once() -> None:
    machine = MasterMachine(2, HELLO)
    out = machine.handle(opening(0, make_plan(0, TWO), deadline=inf))
    assert out == [CloseStep(0, Closing(), (), "complete")]


def test_steps_are_opened_in_turn() -> None:
    machine = master(A)
    machine.handle(opening(3, make_plan(0, TWO)))
    with pytest.raises(ValueError, match="step 4 opened while step 3 is open"):
        machine.handle(opening(4, make_plan(0, TWO)))
    machine.handle(Tick(9.0))
    with pytest.raises(ValueError, match="step 3 opened after step 3"):
        machine.handle(opening(3, make_plan(0, TWO)))


def test_before_a_checkpoint_everybody_is_told_that_its_work_is_stale() -> None:
    machine = master(A, B)
    plan = make_plan(0, TWO)
    machine.handle(opening(3, plan))
    with pytest.raises(ValueError, match="settled for step 4 while step 3 is open"):
        machine.handle(Settle(1.1, 4))
    machine.handle(arrived(1.5, A, 3, 0))
    machine.handle(Credit(1.5, A, 3, "sent"))
    machine.handle(Tick(2.0))
    assert machine.handle(Settle(2.1, 4)) == [Announce(A, 4), Announce(B, 4)]
    assert only(machine.handle(Credit(2.2, B, 3, "stale")), Drop, SendRound) == [Drop(B, 3, DropWhy.STALE)]
    assert machine.members.ready().all()
    rounds = only(machine.handle(opening(4, plan, at=3.0)), SendRound)
    assert [told.peer for told in rounds] == [A, B]


def test_a_machine_goes_on_with_the_shifts_of_a_checkpoint() -> None:
    machine = master(A, B)
    plan = make_plan(0, TWO)
    machine.handle(opening(0, plan, beta=0.5))
    machine.handle(arrived(1.5, A, 0, 0))
    machine.handle(Credit(1.5, A, 0, "sent"))
    machine.handle(Tick(2.0))
    machine.handle(Credit(2.2, B, 0, "stale"))
    kept = machine.restoring(2.5)
    assert kept == Restore(2.5, ((0, A, 1, 0.5),), ())
    again = master(A, B)
    assert again.restoring(0.5) == Restore(0.5, (), (0, 1))
    assert again.handle(kept) == []
    assert again.restoring(2.5) == kept
    for each in (machine, again):
        sent = only(each.handle(opening(1, make_plan(1, TWO), at=3.0)), SendRound)
        assert [(told.round.shift, told.round.beta) for told in sent] == [((1,), (0.5,)), ((0,), (0.0,))]
        [seen] = only(each.handle(arrived(3.5, A, 1, 0, plan=1, shift=1)), Observe)
        assert not seen.seen.cold


def test_differences_begin_at_what_a_peer_s_last_round_brought() -> None:
    machine, plan = master(A, B), make_plan(0, TWO)

    def bases(step: int, since: int | None) -> dict[int, int | None]:
        out = machine.handle(replace(opening(step, plan, at=10.0 * step), since=since))
        return {told.peer.worker: told.round.base for told in only(out, SendRound)}

    def free(peer: Peer, step: int, why: Any) -> None:
        machine.handle(Credit(10.0 * step + 5, peer, step, why))

    assert bases(1, since=1) == {0: None, 1: None}
    free(A, 1, "stale")
    assert bases(2, since=1) == {0: 1}
    free(A, 2, "stale")
    free(B, 1, "stale")  # it has version 1, whose difference is not kept any more
    assert bases(3, since=2) == {0: 2, 1: None}
    free(A, 3, "astray")
    free(B, 3, "stale")
    assert bases(4, since=2) == {0: None, 1: 3}
    free(A, 4, "stale")
    free(B, 4, "stale")
    assert bases(5, since=5) == {0: None, 1: None}  # the vector has grown, say
    free(A, 5, "stale")
    assert bases(6, since=None) == {0: None}
