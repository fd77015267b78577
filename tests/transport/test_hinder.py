"""Links that are hindered on purpose, and joins that never finish: nobody else is held up."""

from __future__ import annotations

import time

import numpy as np
import pytest

from gcdist.transport import Down, Frame, In, LinkSettings, Silent
from tests.transport.conftest import House, eventually, gloo_only, ours

SHORT = {"settings": LinkSettings(beat=0.1, silent_after=0.4, lost_after=20.0)}
LOST = {"settings": LinkSettings(beat=0.1, silent_after=0.3, lost_after=0.9, piece_timeout=1.0)}
PATIENT = {"settings": LinkSettings(connect_timeout=2.0)}


@pytest.mark.parametrize("house", [SHORT], indirect=True)
def test_a_cut_that_heals_delays_and_loses_nothing(house: House) -> None:
    master, worker = house.pair()
    healed = time.monotonic() + 1.5
    worker.link.hinder(healed)
    for i in range(3):
        master.link.post(Frame(i, b"down", None, np.zeros(100_000 * i, np.uint8)))
        worker.link.post(Frame(i, b"up"))
    assert master.get(Silent).seconds >= 0.4
    assert master.get(Silent).seconds == 0.0
    assert time.monotonic() >= healed
    assert [master.until(In).frame.kind for _ in range(3)] == [0, 1, 2]
    assert [worker.until(In).frame.kind for _ in range(3)] == [0, 1, 2]


@pytest.mark.parametrize("house", [LOST], indirect=True)
def test_a_long_cut_is_a_loss_at_both_ends(house: House) -> None:
    master, worker = house.pair()
    worker.link.hinder(time.monotonic() + 60.0)
    master.until(Silent)
    reasons = [end.until(Down).reason for end in (master, worker)]
    assert any("nothing heard" in reason for reason in reasons)  # whoever is first ends it for both


def test_a_slow_link_keeps_to_its_rate(house: House) -> None:
    master, worker = house.pair()
    begun = time.monotonic()
    worker.link.hinder(begun + 60.0, 2e6)
    worker.link.post(Frame(1, b"", None, np.zeros(2_000_000, np.uint8)), note="sent")
    worker.link.post(Frame(2))
    while master.until(In).frame.kind != 2:
        pass
    assert time.monotonic() - begun > 0.9


@gloo_only
def test_tickets_whose_takers_are_gone_hold_nobody_up(house: House) -> None:
    store = house.source.client()
    store.add(f"gcdist/{house.source.run_id}/tickets", 64)
    house.pair()
    # no thread waits for them; the one that built this link ends by itself
    assert eventually(lambda: not any(name.startswith("gcdist-join-") for name in ours()), 5.0)


@gloo_only
@pytest.mark.parametrize("house", [PATIENT], indirect=True)
def test_takers_that_vanish_while_they_join_hold_nobody_up_for_long(house: House) -> None:
    store, keys = house.source.client(), f"gcdist/{house.source.run_id}/"
    last, master = store.add(keys + "tickets", 64), store.add(keys + "master", 0)
    for ticket in range(last - 63, last + 1):
        store.set(f"{keys}link/{master}/{ticket}/here/1", "")
    assert eventually(lambda: any(name.startswith("gcdist-join-") for name in ours()))
    house.pair()  # its ticket is the newest: the next place that is free is its own
