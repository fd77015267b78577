"""The master machine: who is let in, who goes, and whose link is closed."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import Any

import pytest

from gcdist.protocol import MasterMachine, Peer
from gcdist.protocol.master_io import (
    Accumulate,
    Admit,
    Announce,
    Arrived,
    CloseLink,
    CloseStep,
    Credit,
    Drop,
    DropWhy,
    Failed,
    Joined,
    Leave,
    Leaving,
    Lost,
    Observe,
    Refuse,
    Replan,
    SendRound,
    Silent,
    TakeOut,
)
from gcdist.protocol.messages import Tick
from gcdist.report.reading import _GONE as GONE
from gcdist.report.reading import _JOINED as JOINED
from gcdist.types import Closing
from tests.protocol.one_master import TWO, A, B, arrived, master, only, opening
from tests.protocol.plans import HELLO, make_plan


def test_join_and_credit() -> None:
    machine = MasterMachine(2, HELLO)
    assert machine.handle(Joined(0.0, A, HELLO)) == [Admit(A), Replan("worker 1 joined")]
    assert machine.members.live().tolist() == [True, False]
    assert machine.members.ready().tolist() == [False, False]
    assert machine.handle(Credit(0.1, A, -1, "fresh")) == []
    assert machine.members.ready().tolist() == [True, False]
    assert machine.members.peers() == (A,)


@pytest.mark.parametrize(
    "message",
    [
        arrived(1.1, A, 1, 0),
        arrived(1.1, A, 0, 1),
        arrived(1.1, A, 0, 0, plan=1),
        arrived(1.1, A, 0, 0, shift=1),
        arrived(1.1, A, 0, 0, fault="bad checksum"),
    ],
    ids=["step", "row", "plan", "shift", "fault"],
)
def test_a_message_that_was_not_asked_for_closes_its_link_alone(message: Arrived) -> None:
    machine = master(A, B)
    machine.handle(opening(0, make_plan(0, TWO)))
    out = machine.handle(message)
    reason = message.fault or out[0].text  # type: ignore[union-attr]
    assert out == [
        Drop(A, message.head.step, DropWhy.BROKEN, reason),
        CloseLink(A, reason),
        Replan(f"worker 1 closed: {reason}"),
    ]
    assert machine.members.live().tolist() == [False, True]
    assert machine.handle(arrived(1.2, A, 0, 0)) == [Drop(A, 0, DropWhy.UNLINKED)]
    assert machine.handle(arrived(1.3, B, 0, 1))[-1] == CloseStep(0, Closing(), (1,), "complete")


def test_a_duplicate_closes_the_link() -> None:
    machine = master(A, B)
    machine.handle(opening(0, make_plan(0, TWO)))
    machine.handle(arrived(1.1, A, 0, 0))
    assert only(machine.handle(arrived(1.2, A, 0, 0)), CloseLink, Accumulate) != []
    assert machine.members.live().tolist() == [False, True]


@pytest.mark.parametrize(
    ("step", "why"), [(0, "fresh"), (-1, "fresh"), (1, "stale"), (0, "sent")], ids=["fresh", "again", "step", "unsent"]
)
def test_a_credit_out_of_turn_closes_the_link(step: int, why: Any) -> None:
    machine = master(A, B)
    machine.handle(opening(0, make_plan(0, TWO)))
    assert [t.peer for t in only(machine.handle(Credit(1.1, A, step, why)), CloseLink)] == [A]


def test_two_credits_close_the_link() -> None:
    machine = master(A)
    assert only(machine.handle(Credit(0.1, A, -1, "fresh")), CloseLink)


def test_strangers_change_nothing() -> None:
    machine = master(A)
    machine.handle(opening(0, make_plan(0, TWO)))
    stranger = Peer(0, 99)
    assert machine.handle(Credit(1.1, stranger, -1, "fresh")) == []
    assert machine.handle(Lost(1.1, stranger, "gone")) == []
    assert machine.handle(Leaving(1.1, stranger)) == []
    assert machine.handle(Silent(1.1, stranger, 5.0)) == []
    assert machine.handle(Failed(1.1, stranger, 0, 0, "boom")) == []
    assert machine.handle(arrived(1.1, stranger, 0, 0)) == [Drop(stranger, 0, DropWhy.UNLINKED)]
    assert machine.members.live().tolist() == [True, False]


@pytest.mark.parametrize(
    ("key", "value", "word"),
    [
        ("protocol", 2, "protocol number: 2, the master has 1"),
        ("version", "0.2", "gcdist version: '0.2'"),
        ("fingerprint", "other", "model"),
        ("samples", 99, "number of samples in the data set: 99, the master has 100"),
        ("config", "else", "config"),
    ],
)
def test_a_hello_that_differs_is_refused_by_name(key: str, value: Any, word: str) -> None:
    out = MasterMachine(2, HELLO).handle(Joined(0.0, A, HELLO._replace(**{key: value})))
    assert [type(t) for t in out] == [Refuse]
    assert f"worker 1 differs in its {word}" in out[0].reason  # type: ignore[union-attr]


def test_a_worker_without_a_place_is_refused() -> None:
    [refuse] = MasterMachine(2, HELLO).handle(Joined(0.0, Peer(2, 1), HELLO))
    assert refuse == Refuse(Peer(2, 1), "worker 3 has no place: this run has workers 1 to 2")


def test_an_older_incarnation_is_refused_even_after_the_newer_is_gone() -> None:
    machine = master(Peer(0, 5))
    machine.handle(Lost(0.1, Peer(0, 5), "gone"))
    assert machine.handle(Joined(0.2, Peer(0, 4), HELLO)) == [Refuse(Peer(0, 4), "worker 1 has a newer link already")]


def test_a_newer_link_replaces_the_old_one() -> None:
    machine = master(A, B)
    machine.handle(opening(0, make_plan(0, TWO)))
    newer = Peer(0, 7)
    assert machine.handle(Joined(1.1, newer, HELLO)) == [
        CloseLink(A, "replaced by a newer link of the same worker"),
        Replan("worker 1 joined again"),
        Admit(newer),
        Replan("worker 1 joined"),
        Announce(newer, 0),
    ]
    assert machine.handle(Credit(1.2, newer, -1, "fresh")) == []  # its row of step 0 is written off
    assert machine.handle(Lost(1.3, A, "gone")) == []
    out = machine.handle(opening(1, make_plan(0, TWO), at=3.0))
    sent = {t.peer: t.round for t in only(out, SendRound)}
    assert sent[newer].assignment is not None


def test_a_loss_writes_rows_off_and_takes_shifts_out() -> None:
    machine = master(A, B)
    plan = make_plan(0, TWO)
    machine.handle(opening(0, plan, beta=1.0))
    machine.handle(arrived(1.1, A, 0, 0))
    machine.handle(Tick(2.0))
    assert machine.handle(Lost(2.1, A, "no beat")) == [TakeOut(0), Replan("worker 1 lost: no beat")]
    out = machine.handle(opening(1, plan, at=3.0, deadline=inf, beta=1.0))
    assert not only(out, CloseStep)
    assert machine.handle(Lost(3.5, B, "no beat"))[-1] == CloseStep(1, Closing(), (), "complete")


def test_a_worker_that_is_lost_in_a_step_was_ready_as_it_opened() -> None:
    """Its outcome is a miss of a ready worker: counted as one of a busy worker, busy ones would look the less reliable."""
    machine = master(A, B)
    machine.handle(opening(0, make_plan(0, TWO)))
    machine.handle(Lost(1.2, A, "no beat"))
    seen = {t.seen.worker: t.seen for t in only(machine.handle(Tick(2.0)), Observe)}
    assert (seen[A.worker].censored, seen[A.worker].ready) == (True, True)


def test_a_loss_stamped_before_the_opening_takes_no_negative_time() -> None:
    machine = master(A)
    machine.handle(opening(0, make_plan(0, TWO), at=1.0, deadline=inf))
    out = machine.handle(Lost(0.9, A, "no beat"))
    assert [t.seen.seconds for t in only(out, Observe)] == [0.0]


def test_leaving_is_released_at_once() -> None:
    machine = master(A, B)
    assert machine.handle(Leaving(0.5, A)) == [Leave(A), Replan("worker 1 is leaving")]
    assert machine.handle(Credit(0.6, A, -1, "stale")) == []


def test_a_silent_worker_is_not_ready_but_still_live() -> None:
    machine = master(A)
    assert machine.handle(Silent(0.5, A, 6.0)) == []
    assert (machine.members.live()[0], machine.members.ready()[0]) == (True, False)
    out = machine.handle(opening(0, make_plan(0, TWO)))
    assert [t.peer for t in only(out, SendRound)] == [A]
    machine.handle(Silent(1.2, A, 0.0))
    seen = only(machine.handle(arrived(1.3, A, 0, 0)), Observe)[0].seen
    assert not seen.ready  # as it was at the opening


def test_ready_is_who_has_no_older_work_that_is_known_of() -> None:
    """Not who came to nothing by its cut while the partition that it had begun goes on."""
    machine = master(A, B)
    plan = replace(make_plan(0, TWO), partial=True)
    machine.handle(opening(0, plan))
    machine.handle(Credit(1.5, A, 0, "busy"))
    machine.handle(arrived(1.6, B, 0, 1, done=1))
    assert machine.members.ready().tolist() == [False, True]  # B's credit is under way
    machine.handle(Credit(1.7, B, 0, "sent"))
    out = machine.handle(opening(1, plan, at=3.0))
    assert [told.peer for told in only(out, SendRound)] == [A, B]
    seen = only(machine.handle(arrived(3.1, A, 1, 0)), Observe)[0].seen
    assert not seen.ready  # as it was at the opening
    machine.handle(Credit(3.2, A, 1, "sent"))
    assert machine.members.ready().tolist() == [True, False]


def test_a_peer_that_went_astray_is_told_of_in_one_line() -> None:
    machine, plan = master(A), make_plan(0, [(0, 4, {0: 1.0})])
    machine.handle(opening(1, plan))
    out = machine.handle(Credit(1.1, A, 1, "astray"))
    assert only(out, Drop) == [Drop(A, 1, DropWhy.ASTRAY)]


def test_the_report_reads_who_came_and_went_from_what_the_machine_says() -> None:
    """The texts of ``members`` events are read again by `gcdist report`."""
    machine = master(A, B)
    again = machine.handle(Joined(0.5, Peer(0, 3), HELLO))
    leaving = machine.handle(Leaving(0.6, B))
    lost = machine.handle(Lost(0.7, Peer(0, 3), "killed"))
    machine.handle(Joined(0.8, Peer(1, 4), HELLO))
    broken = machine.handle(arrived(0.9, Peer(1, 4), 0, 0, fault="bad checksum"))
    texts = [each.reason for out in (again, leaving, lost, broken) for each in only(out, Replan)]
    assert [bool(JOINED.match(text)) for text in texts] == [False, True, False, False, False]
    gone = [match for text in texts if (match := GONE.match(text)) is not None]
    assert [(int(match[1]), next(filter(None, match.groups()[1:]))) for match in gone] == [
        (2, "leaving"),
        (1, "killed"),
        (2, "bad checksum"),
    ]


def test_a_worker_at_another_run_of_its_script_is_released_or_comes_again() -> None:
    second = HELLO._replace(run=2)
    machine = MasterMachine(2, second)
    assert machine.handle(Joined(0.0, A, HELLO)) == [Leave(A)]  # that run is over: it goes on to the next one
    [told] = machine.handle(Joined(0.0, B, second._replace(run=3)))
    assert told == CloseLink(B, "worker 2 is ahead: at run 3 of its script, the master at 2")
    assert machine.handle(Joined(0.0, Peer(0, 3), second))[0] == Admit(Peer(0, 3))
