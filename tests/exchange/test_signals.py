"""Which signals are one wish and which are two."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from gcdist.exchange.signals import REPEAT_SECONDS, WISHES, on_signals


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in WISHES}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where pytest runs in the background
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_repeats_are_the_same_wish_and_a_later_one_is_a_second() -> None:
    now, heard = [100.0], list[str]()
    undo = on_signals(lambda name, number: heard.append(name), clock=lambda: now[0])
    os.kill(os.getpid(), signal.SIGTERM)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(os.getpid(), number)
    assert heard == ["SIGTERM"]
    undo()  # the run is closed while more ways bring the wish: they are ignored still
    os.kill(os.getpid(), signal.SIGTERM)
    now[0] += REPEAT_SECONDS + 0.1
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize("number", WISHES)
def test_each_of_them_is_a_wish(number: int) -> None:
    heard = list[int]()
    undo = on_signals(lambda name, number: heard.append(number))
    os.kill(os.getpid(), number)
    assert heard == [number]
    undo()


def test_without_a_wish_all_is_as_before() -> None:
    before = [signal.getsignal(number) for number in WISHES]
    on_signals(lambda name, number: None)()
    assert [signal.getsignal(number) for number in WISHES] == before


def test_nohup_is_respected() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    on_signals(lambda name, number: pytest.fail("heard"))
    os.kill(os.getpid(), signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
