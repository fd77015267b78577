"""Whose turn it is among callers, without a network and without a clock."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from gcdist.transport.tls_strangers import (
    CALLS_A_SECOND,
    CALLS_AT_ONCE,
    HANDSHAKES_A_SECOND,
    HANDSHAKES_AT_ONCE,
    MOST_STRANGERS,
    Callers,
    Stranger,
)


@pytest.fixture
def lines() -> Iterator[list[socket.socket]]:
    made: list[socket.socket] = []
    yield made
    for one in made:
        one.close()


def stranger(lines: list[socket.socket], address: str, until: float = 10.0) -> Stranger:
    lines.append(socket.socket())
    return Stranger(lines[-1], address, until)


def test_the_address_with_the_most_callers_loses_its_oldest(lines: list[socket.socket]) -> None:
    callers = Callers(0.0)
    few = [stranger(lines, f"10.0.0.{i}") for i in range(6)]
    many = [stranger(lines, "192.0.2.1") for _ in range(MOST_STRANGERS)]
    for one in few:
        assert callers.add(one) is None
    gone = []
    for one in many:
        if (out := callers.add(one)) is not None:
            callers.remove(out)
            gone.append(out)
    assert gone == many[: len(few)]
    assert all(one in callers.all.values() for one in few)
    assert len(callers.all) == MOST_STRANGERS


def test_a_flood_of_handshakes_lets_others_through(lines: list[socket.socket]) -> None:
    callers, now = Callers(0.0), 1.0
    flood = [stranger(lines, "192.0.2.1") for _ in range(300)]
    for one in flood:
        callers.all[one.connection.fileno()] = one
    assert sum(callers.may_begin(one, now) for one in flood) == HANDSHAKES_AT_ONCE
    honest = stranger(lines, "10.0.0.1")
    assert not callers.may_begin(honest, now)  # nobody has one now
    assert callers.turns(now) == []
    now = callers.next_at(now) + 1e-9
    assert callers.turns(now) == [honest]  # before the 44 that were there first
    assert len(callers.turns(now + 0.5)) == pytest.approx(HANDSHAKES_A_SECOND / 2, abs=1)


def test_time_is_over_for_each_alone(lines: list[socket.socket]) -> None:
    callers = Callers(0.0)
    early, late = stranger(lines, "a", 5.0), stranger(lines, "b", 6.0)
    for one in (late, early):
        callers.add(one)
    assert callers.next_at(0.0) == 5.0
    assert callers.overdue(5.5) == [early]
    callers.remove(early)
    assert callers.overdue(5.5) == []
    assert callers.next_at(5.5) == 6.0


def test_so_many_calls_are_accepted_a_second() -> None:
    callers = Callers(0.0)
    assert sum(callers.calls.take(0.0) for _ in range(5000)) == CALLS_AT_ONCE
    assert sum(callers.calls.take(1.0) for _ in range(5000)) == CALLS_A_SECOND
