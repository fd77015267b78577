"""Which signals the launcher hears: what its parent ignores (nohup, &) stays ignored."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from gcdist.launcher.loop import _Signals

HUP, TERM = signal.SIGHUP, signal.SIGTERM


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (HUP, TERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_closed_terminal_is_heard_unless_it_is_ignored() -> None:
    signal.signal(HUP, signal.SIG_DFL)
    with _Signals() as signals:
        os.kill(os.getpid(), HUP)
        asked = signals.next(10.0)
        assert asked is not None
        assert (asked.number, asked.reached) == (HUP, False)  # the master has to be told
    signal.signal(HUP, signal.SIG_IGN)
    with _Signals() as signals:
        os.kill(os.getpid(), HUP)
        os.kill(os.getpid(), TERM)
        asked = signals.next(10.0)
        assert asked is not None
        assert asked.number == TERM
        assert signals.next(0.0) is None
    assert signal.getsignal(HUP) is signal.SIG_IGN
