"""Stopped, cut off and slow workers on a virtual clock: what the master hears, and when."""

from __future__ import annotations

import pytest

from gcdist.protocol import Peer
from gcdist.simulator.clock import Clock
from gcdist.simulator.outages import Outages


class World:
    """One worker whose link is silent after 5 s and lost after 10 s without a word."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.heard: list[tuple[float, str]] = []
        self.outages = Outages(
            self.clock,
            5.0,
            10.0,
            lambda peer, seconds: self.hear(f"silent {seconds:g}"),
            lambda peer, reason: self.hear(reason),
            lambda slot: Peer(slot, 1),
            lambda slot: self.hear("wakes"),
        )

    def hear(self, text: str) -> None:
        self.heard.append((self.clock.now, text))

    def run(self, until: float) -> None:
        while (at := self.clock.next_at()) is not None and at <= until:
            self.clock.step()
        self.clock.now = until


@pytest.mark.parametrize("kind", ["stop", "cut"])
@pytest.mark.parametrize("seconds", [4.0, 7.0, 12.0])
def test_silence_comes_first_then_loss(kind: str, seconds: float) -> None:
    world = World()
    getattr(world.outages, kind)(0, seconds)
    world.run(20.0)
    expected = [(5.0, "silent 5"), (7.0, "silent 0")] if seconds == 7.0 else []
    if seconds == 12.0:  # it is told of no more: its link is gone, and a new one begins unheard of
        expected = [(5.0, "silent 5"), (10.0, "nothing heard for 10.0 s"), (12.0, "silent 0")]
    assert [each for each in world.heard if each[1] != "wakes"] == expected
    assert [each for each in world.heard if each[1] == "wakes"] == ([(seconds, "wakes")] if kind == "stop" else [])


def test_a_second_stop_prolongs_the_first() -> None:
    world = World()
    world.outages.stop(0, 2.0)
    world.run(1.0)
    world.outages.stop(0, 3.0)
    world.run(2.5)
    assert world.outages.is_stopped(0)
    assert world.heard == []
    world.run(4.0)
    assert not world.outages.is_stopped(0)
    assert world.heard == [(4.0, "wakes")]


def test_a_cut_heals_and_a_slow_link_gets_fast_again() -> None:
    world = World()
    world.outages.cut(0, 3.0)
    world.outages.slow(0, 6.0, 1000.0)
    assert (world.outages.healed_at(0), world.outages.rate(0), world.outages.rate(1)) == (3.0, 1000.0, None)
    world.run(6.0)
    assert world.outages.rate(0) is None
    assert world.outages.healed_at(0) <= world.clock.now


def test_a_process_that_is_born_again_is_not_stopped_and_nothing_is_told_of_the_old_one() -> None:
    world = World()
    world.outages.stop(0, 8.0)
    world.run(2.0)
    world.outages.reborn(0)
    assert not world.outages.is_stopped(0)
    world.run(20.0)
    assert [text for _, text in world.heard if text != "wakes"] == []
