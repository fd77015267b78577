"""The worker machine, event by event."""

from __future__ import annotations

from typing import Any

import pytest

from gcdist.protocol import Assignment, Head, Round, WorkerMachine
from gcdist.protocol.messages import Tick, Wake
from gcdist.protocol.order import partition_order
from gcdist.protocol.worker_io import (
    Abort,
    Aborted,
    Announced,
    Astray,
    Commit,
    Compute,
    Connect,
    Discard,
    Encode,
    EncodedRow,
    Exit,
    Linked,
    LinkLost,
    Load,
    PartDone,
    Prefetch,
    Refused,
    Released,
    RoundIn,
    Send,
    SendCredit,
    SendFailed,
    SendLeaving,
    SentRow,
    Sigterm,
    Take,
    UserError,
    Zero,
)

PLAN = Assignment((2,), (((0, 1.0), (3, 0.5)),), ((4,),))


def sent(step: int, shift: int = 0, beta: float = 0.0, plan: int = 0, assignment: Assignment | None = None) -> RoundIn:
    return RoundIn(float(step), Round(step, plan, step, None, (shift,), (beta,), assignment), "theta")


def linked() -> WorkerMachine:
    machine = WorkerMachine()
    assert machine.handle(Linked(0.0, 1)) == [SendCredit(-1, "fresh")]
    return machine


def at_phase(phase: str, step: int = 0) -> WorkerMachine:
    """A machine with the round of ``step`` in hand."""
    machine = linked()
    machine.handle(sent(step, assignment=PLAN))
    if phase in ("encoding", "sending"):
        machine.handle(PartDone(1.0, step, 0))
        machine.handle(PartDone(2.0, step, 3))
    if phase == "sending":
        machine.handle(EncodedRow(3.0, step, 2, 8, "m"))
    return machine


def finish(machine: WorkerMachine, step: int) -> None:
    for event in (
        PartDone(1.0, step, 0),
        PartDone(1.0, step, 3),
        EncodedRow(1.0, step, 2, 8, "m"),
        SentRow(1.0, step, 2),
    ):
        last = machine.handle(event)
    assert last == [SendCredit(step, "sent")]


def test_a_round_from_load_to_credit() -> None:
    machine = linked()
    round_in = sent(5, assignment=PLAN)
    assert machine.handle(round_in) == [
        Load(round_in.round, "theta"),
        Prefetch(5, (0, 3)),
        Compute(5, 2, 0, 1.0),
    ]
    assert machine.handle(PartDone(5.1, 5, 0)) == [Compute(5, 2, 3, 0.5)]
    assert machine.handle(PartDone(5.2, 5, 3)) == [Encode(5, 2, 2, 2)]
    assert machine.handle(EncodedRow(5.3, 5, 2, 8, "m")) == [Send(Head(5, 0, 2, 2, 0, 8), "m")]
    assert machine.handle(SentRow(5.4, 5, 2)) == [SendCredit(5, "sent")]


def test_the_assignment_of_a_round_that_was_dropped_as_stale_is_loaded_with_the_next() -> None:
    machine = linked()
    machine.handle(Announced(0.0, 1))  # it took the place of the older announcement, before round 0
    dropped = sent(0, assignment=PLAN)
    assert machine.handle(dropped) == [Take(dropped.round, "theta"), SendCredit(0, "stale")]
    load = machine.handle(sent(1))[0]
    assert load == Load(sent(1, assignment=PLAN).round, "theta")


def test_rows_go_one_after_the_other() -> None:
    machine = linked()
    both = Assignment((0, 1), (((0, 1.0),), ((1, 1.0),)), ((4,), (4,)))
    machine.handle(RoundIn(0.0, Round(0, 0, 0, None, (0, 0), (0.0, 0.0), both), "theta"))
    assert machine.handle(PartDone(0.1, 0, 0)) == [Encode(0, 0, 1, 1)]
    assert isinstance(machine.handle(EncodedRow(0.2, 0, 0, 8, "m"))[0], Send)
    assert machine.handle(SentRow(0.3, 0, 0)) == [Compute(0, 1, 1, 1.0)]
    assert machine.handle(PartDone(0.4, 0, 1)) == [Encode(0, 1, 1, 1)]
    assert isinstance(machine.handle(EncodedRow(0.5, 0, 1, 8, "m"))[0], Send)
    assert machine.handle(SentRow(0.6, 0, 1)) == [SendCredit(0, "sent")]


CUT = Assignment((2,), (((0, 1.0), (3, 0.5), (4, 0.5)),), ((4,),), None, True)


def cut_round(machine: WorkerMachine, cut: float) -> list[Any]:
    """A round of step 0 at time 10 that is cut after so many seconds; what it begins with."""
    return machine.handle(RoundIn(10.0, Round(0, 0, 0, None, (0,), (0.0,), CUT, cut), "theta"))


def test_a_row_is_cut_where_it_is() -> None:
    machine = linked()
    order = [j for j, _ in partition_order(0, 0, 2, CUT.parts[0])]
    out = cut_round(machine, 1.5)
    assert [type(told) for told in out] == [Load, Prefetch, Wake, Compute]
    assert out[1] == Prefetch(0, tuple(order))
    assert out[2] == Wake(11.5)
    coefficient = dict(CUT.parts[0])
    assert out[3] == Compute(0, 2, order[0], coefficient[order[0]])
    assert machine.handle(PartDone(10.5, 0, order[0])) == [Compute(0, 2, order[1], coefficient[order[1]])]
    assert machine.handle(Tick(11.4)) == []
    assert machine.handle(Tick(11.5)) == [Abort(0), Encode(0, 2, 1, 3)]
    assert machine.handle(PartDone(11.6, 0, order[1])) == []  # it was under way: too late
    assert machine.handle(EncodedRow(11.7, 0, 2, 8, "m")) == [Send(Head(0, 0, 2, 1, 0, 8), "m")]
    assert machine.handle(SentRow(11.8, 0, 2)) == [SendCredit(0, "sent")]


def test_a_row_of_which_nothing_is_done_by_its_cut_is_a_credit_and_no_message() -> None:
    machine = linked()
    cut_round(machine, 1.5)
    assert machine.handle(Tick(11.5)) == [Abort(0), SendCredit(0, "cut")]
    assert machine.handle(Aborted(11.5, 0)) == []


def test_a_complete_row_is_not_touched_by_its_cut() -> None:
    machine = linked()
    cut_round(machine, 1.5)
    for j, _ in partition_order(0, 0, 2, CUT.parts[0]):
        last = machine.handle(PartDone(10.5, 0, j))
    assert last == [Encode(0, 2, 3, 3)]
    assert machine.handle(Tick(11.5)) == []
    assert machine.handle(EncodedRow(11.7, 0, 2, 8, "m")) == [Send(Head(0, 0, 2, 3, 0, 8), "m")]


def test_rows_not_begun_by_the_cut_do_not_go() -> None:
    machine = linked()
    both = Assignment((0, 1), (((0, 1.0),), ((1, 1.0),)), ((4,), (4,)), None, True)
    machine.handle(RoundIn(0.0, Round(0, 0, 0, None, (0, 0), (0.0, 0.0), both, 1.0), "theta"))
    machine.handle(PartDone(0.5, 0, 0))
    machine.handle(EncodedRow(0.6, 0, 0, 8, "m"))
    assert machine.handle(Tick(1.0)) == []
    assert machine.handle(SentRow(1.1, 0, 0)) == [SendCredit(0, "cut")]


def test_who_is_told_of_a_newer_step_drops_a_row_that_would_be_cut() -> None:
    machine = linked()
    cut_round(machine, 1.5)
    machine.handle(PartDone(10.5, 0, partition_order(0, 0, 2, CUT.parts[0])[0][0]))
    assert machine.handle(Announced(11.0, 1)) == [Abort(0)]
    assert machine.handle(Tick(11.5)) == [Abort(0), SendCredit(0, "stale")]


def test_newest_wins_while_computing() -> None:
    machine = at_phase("computing")
    assert machine.handle(Announced(0.5, 0)) == []
    assert machine.handle(Announced(0.6, 1)) == [Abort(0)]
    assert machine.handle(PartDone(1.0, 0, 0)) == [SendCredit(0, "stale")]
    assert machine.handle(PartDone(1.1, 0, 3)) == []


def test_newest_wins_inside_a_partition() -> None:
    machine = at_phase("computing")
    machine.handle(Announced(0.6, 1))
    assert machine.handle(Aborted(0.7, 0)) == [SendCredit(0, "stale")]


def test_newest_wins_while_encoding() -> None:
    machine = at_phase("encoding")
    assert machine.handle(Announced(2.5, 1)) == [Abort(0), SendCredit(0, "stale")]
    assert machine.handle(EncodedRow(2.6, 0, 2, 8, "m")) == []


def test_what_is_being_sent_is_sent() -> None:
    machine = at_phase("sending")
    assert machine.handle(Announced(3.5, 1)) == []
    assert machine.handle(SentRow(3.6, 0, 2)) == [SendCredit(0, "sent")]


def test_a_round_that_is_stale_when_it_comes_is_not_begun() -> None:
    machine = linked()
    machine.handle(Announced(0.5, 4))
    late = sent(3, assignment=PLAN)
    assert machine.handle(late) == [Take(late.round, "theta"), SendCredit(3, "stale")]


def test_a_worker_whose_parameters_are_not_the_master_s_drops_the_round_and_says_so() -> None:
    machine = at_phase("computing", step=3)
    assert machine.handle(Astray(3.1, 2)) == []  # of a round that is over
    assert machine.handle(Astray(3.1, 3)) == [Abort(3), SendCredit(3, "astray")]
    assert machine.handle(PartDone(3.2, 3, 0)) == []


def test_older_announcements_change_nothing() -> None:
    machine = at_phase("computing", step=5)
    assert machine.handle(Announced(0.5, 3)) == []


@pytest.mark.parametrize(
    ("shift", "beta", "verdict"),
    [(1, 0.7, [Commit(2, 0.7)]), (0, 0.0, [Discard(2)])],
)
def test_the_version_settles_the_pending_message(shift: int, beta: float, verdict: list[Any]) -> None:
    machine = at_phase("sending")
    machine.handle(SentRow(1.0, 0, 2))
    out = machine.handle(sent(1, shift, beta))
    assert out[:-3] == verdict
    assert isinstance(out[-3], Load)


def test_zero_when_the_master_has_started_anew() -> None:
    machine = at_phase("sending")
    machine.handle(SentRow(1.0, 0, 2))
    machine.handle(sent(1, 1, 1.0))
    finish(machine, 1)
    assert machine.handle(sent(2, 0))[0] == Zero(2)
    finish(machine, 2)
    assert machine.handle(sent(3, 0))[0] == Discard(2)


def test_nothing_pending_nothing_to_settle() -> None:
    machine = at_phase("computing")
    machine.handle(Announced(0.5, 1))
    machine.handle(PartDone(0.6, 0, 0))
    assert isinstance(machine.handle(sent(1))[0], Load)


def test_a_version_that_cannot_be_ends_the_process() -> None:
    machine = at_phase("sending")
    machine.handle(SentRow(1.0, 0, 2))
    [told] = machine.handle(sent(1, 5, 1.0))
    assert told == Exit(1, "the master holds version 5 of the shift of row 2, this worker 0")


@pytest.mark.parametrize(
    "wrong",
    [
        sent(1),
        sent(1, plan=3),
        RoundIn(1.0, Round(1, 0, 1, None, (0, 0), (0.0,), PLAN), "theta"),
        RoundIn(1.0, Round(1, 0, 1, None, (0,), (), PLAN), "theta"),
        RoundIn(1.0, Round(1, 0, 1, None, (0,), (0.0,), PLAN._replace(bits=())), "theta"),
    ],
    ids=["no plan", "other plan", "shift", "beta", "bits"],
)
def test_a_round_that_does_not_fit_ends_the_process(wrong: RoundIn) -> None:
    [told] = linked().handle(wrong)
    assert isinstance(told, Exit)
    assert told.code == 1


def test_a_round_while_one_is_in_hand_ends_the_process() -> None:
    assert [type(t) for t in at_phase("computing").handle(sent(1))] == [Exit]


def test_a_row_that_moved_away_is_zeroed() -> None:
    machine = at_phase("sending")
    machine.handle(SentRow(1.0, 0, 2))
    other = Assignment((4,), (((0, 1.0),),), ((4,),))
    out = machine.handle(sent(1, plan=1, assignment=other))
    assert out[0] == Zero(2)
    assert out[-1] == Compute(1, 4, 0, 1.0)


def test_a_lost_link_zeroes_what_was_shifted_and_forgets_the_plan() -> None:
    machine = at_phase("sending")
    assert machine.handle(LinkLost(3.5, "reset")) == [Zero(2), Connect(0.5)]
    assert machine.handle(SentRow(3.6, 0, 2)) == []
    machine.handle(Linked(4.0, 2))
    [told] = machine.handle(sent(1))
    assert isinstance(told, Exit)  # a new life must be sent the plan again


@pytest.mark.parametrize("phase", ["computing", "encoding"])
def test_a_lost_link_aborts_work(phase: str) -> None:
    machine = at_phase(phase)
    assert machine.handle(LinkLost(3.5, "reset")) == [Abort(0), Connect(0.5)]
    assert machine.handle(PartDone(3.6, 0, 0)) == []


def test_back_off_doubles_to_the_cap_and_starts_again_after_a_link() -> None:
    machine = WorkerMachine(retry_first=0.5, retry_most=3.0)
    waits = [machine.handle(LinkLost(0.0, "no answer")) for _ in range(5)]
    assert waits == [[Connect(0.5)], [Connect(1.0)], [Connect(2.0)], [Connect(3.0)], [Connect(3.0)]]
    machine.handle(Linked(1.0, 1))
    assert machine.handle(LinkLost(2.0, "reset")) == [Connect(0.5)]


def test_refused_exits_with_2() -> None:
    assert linked().handle(Refused(1.0, "other model")) == [Exit(2, "the master refused this worker: other model")]


def test_released_exits_with_0() -> None:
    assert linked().handle(Released(1.0)) == [Exit(0, "released by the master")]


def test_sigterm_without_a_link_exits() -> None:
    assert WorkerMachine().handle(Sigterm(1.0)) == [Exit(0, "asked to end")]


def test_sigterm_asks_to_be_released_and_has_patience() -> None:
    machine = at_phase("computing")
    assert machine.handle(Sigterm(1.0)) == [SendLeaving(), Wake(6.0)]
    assert machine.handle(Sigterm(1.1)) == []
    assert machine.handle(PartDone(1.2, 0, 0)) == [SendCredit(0, "stale")]
    assert machine.handle(Tick(5.9)) == []
    assert machine.handle(Tick(6.0)) == [Exit(0, "asked to end; the master did not answer")]


def test_sigterm_and_then_no_link() -> None:
    machine = linked()
    machine.handle(Sigterm(1.0))
    assert machine.handle(LinkLost(1.5, "reset")) == [Exit(0, "asked to end; the link is gone (reset)")]


@pytest.mark.parametrize("phase", ["computing", "encoding"])
def test_a_user_error_is_told_and_the_worker_goes_on(phase: str) -> None:
    machine = at_phase(phase)
    assert machine.handle(UserError(2.5, 0, 3, "boom")) == [SendFailed(0, 3, "boom"), SendCredit(0, "failed")]
    assert isinstance(machine.handle(sent(1))[0], Load)


def test_answers_of_dropped_work_are_ignored() -> None:
    machine = at_phase("sending", step=7)
    for event in (
        PartDone(4.0, 7, 0),
        PartDone(4.0, 6, 0),
        Aborted(4.0, 7),
        EncodedRow(4.0, 7, 2, 8, "m"),
        SentRow(4.0, 6, 2),
        SentRow(4.0, 7, 9),
        UserError(4.0, 7, 0, "boom"),
    ):
        assert machine.handle(event) == []


def test_catching_up_leads_where_the_events_lead() -> None:
    """Rounds of a shifted, partial row: whole, cut, committed, discarded; the same state and instructions that matter."""
    partial = PLAN._replace(partial=True)
    both = linked(), linked()
    version, cut, plan = 0, 0.5, partial
    matter = (Load, Commit, Discard, Zero, Send, SendCredit)
    for step in range(8):
        committed = step % 3 == 1
        version = version + committed if step != 5 else 0  # then the master begins anew
        round_in = RoundIn(
            float(step),
            Round(step, 0, step, None, (version,), (0.5 * committed,), plan if step == 0 else None, cut),
            "theta",
        )
        done = 2 - step % 2
        slow, quick = both
        told = slow.handle(round_in)
        for _, (partition, _) in zip(range(done), partition_order(0, step, 2, PLAN.parts[0]), strict=False):
            told += slow.handle(PartDone(step + 0.1, step, partition))
        if done == 1:
            told += slow.handle(Tick(step + cut))
        assert told[-1] == Encode(step, 2, done, 2)
        assert quick.foreseen(round_in.round) == plan
        assert quick.catch_up(round_in, done) == [each for each in told if isinstance(each, matter)]
        for event in (EncodedRow(step + 0.6, step, 2, 8, "m"), SentRow(step + 0.7, step, 2)):
            assert quick.handle(event) == slow.handle(event)
        assert quick == slow
    assert linked().foreseen(sent(0).round) is None  # it would be refused: there is no plan
    stale = linked()
    stale.handle(Announced(0.0, 1))
    assert stale.foreseen(sent(0, assignment=PLAN).round) is None
