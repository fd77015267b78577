"""The queue of all events: stamps in order, timers, and a tick behind everything that was stamped before it."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from gcdist.exchange.inbox import Inbox, SharedInbox

Note = tuple[str, float]


def note(name: str) -> Callable[[float], Note]:
    return lambda at: (name, at)


class Clock:
    """A clock that stands still until it is moved."""

    now = 10.0

    def __call__(self) -> float:
        return self.now


def made() -> tuple[Inbox[Note], Clock]:
    clock = Clock()
    return Inbox(note("tick"), clock), clock


def test_events_come_in_order_with_their_stamps() -> None:
    inbox, clock = made()
    inbox.put(note("a"))
    clock.now = 11.0
    inbox.put(note("b"))
    clock.now = 20.0
    assert [inbox.get(), inbox.get()] == [("a", 10.0), ("b", 11.0)]


def test_a_tick_comes_when_time_is_up_and_behind_all_that_was_stamped() -> None:
    inbox, clock = made()
    inbox.put(note("in time"))
    clock.now = 15.0
    inbox.put(note("late"))
    assert [inbox.get(12.0) for _ in range(3)] == [("in time", 10.0), ("late", 15.0), ("tick", 15.0)]


def test_timers_take_their_place_among_events() -> None:
    inbox, clock = made()
    inbox.later(12.0, note("second timer"))
    inbox.later(11.0, note("first timer"))
    inbox.put(note("before"))
    clock.now = 13.0
    inbox.put(note("after"))
    names = [inbox.get(13.0)[0] for _ in range(5)]
    assert names == ["before", "first timer", "second timer", "after", "tick"]


def test_a_timer_is_never_early_and_one_in_the_past_is_due_now() -> None:
    inbox, clock = made()
    inbox.later(12.0, note("timer"))
    assert inbox.get(10.0) == ("tick", 10.0)
    inbox.later(3.0, note("past"))
    assert inbox.get() == ("past", 10.0)
    clock.now = 12.5
    assert inbox.get() == ("timer", 12.5)


def test_cancel_forgets_the_timers_of_one_tag() -> None:
    inbox, clock = made()
    inbox.later(11.0, note("a"), tag=1)
    inbox.later(11.0, note("b"), tag=2)
    inbox.later(12.0, note("c"), tag=1)
    inbox.cancel(1)
    clock.now = 13.0
    assert [inbox.get(13.0)[0] for _ in range(2)] == ["b", "tick"]


def test_stamps_rise_over_everything_that_is_handed_out() -> None:
    inbox, clock = made()
    stamps = []
    for i in range(50):
        clock.now += 0.5
        inbox.later(clock.now + (i * 7 % 5), note("timer"))
        inbox.put(note("event"))
        if i % 3 == 0:
            stamps.append(inbox.get(clock.now)[1])
    clock.now += 10
    while (event := inbox.get(clock.now))[0] != "tick":
        stamps.append(event[1])
    assert len(stamps) == 100
    assert stamps == sorted(stamps)


def test_many_threads_lose_nothing_and_keep_their_own_order() -> None:
    inbox: Inbox[tuple[float, int, int]] = Inbox(lambda at: (at, -1, -1))
    threads, each = 8, 500

    def send(thread: int) -> None:
        for i in range(each):
            inbox.put(lambda at: (at, thread, i))  # noqa: B023 put() calls it at once

    running = [threading.Thread(target=send, args=(t,)) for t in range(threads)]
    for thread in running:
        thread.start()
    got = [inbox.get() for _ in range(threads * each)]
    for thread in running:
        thread.join()
    assert inbox.get(inbox.now())[1] == -1
    assert [at for at, _, _ in got] == sorted(at for at, _, _ in got)
    for t in range(threads):
        assert [i for _, thread_of, i in got if thread_of == t] == list(range(each))


def test_a_waiting_reader_is_woken() -> None:
    inbox: Inbox[Note] = Inbox(note("tick"))
    got: list[Note] = []
    reader = threading.Thread(target=lambda: got.append(inbox.get(inbox.now() + 60.0)))
    reader.start()
    inbox.put(note("event"))
    reader.join(30.0)
    assert [name for name, _ in got] == ["event"]


def shared() -> tuple[SharedInbox[Note], Clock]:
    clock = Clock()
    return SharedInbox(note("tick"), clock), clock


def test_poll_gives_what_is_ready_and_never_waits() -> None:
    inbox, clock = made()
    assert inbox.poll() is None
    inbox.later(12.0, note("timer"))
    inbox.put(note("event"))
    assert [inbox.poll(), inbox.poll()] == [("event", 10.0), None]
    clock.now = 12.0
    assert inbox.poll() == ("timer", 12.0)


def test_the_first_thread_is_woken_by_an_event_and_by_a_call() -> None:
    inbox, _ = shared()
    seen: list[Note | None] = []

    def first() -> None:
        for _ in range(2):
            inbox.attend()
            seen.append(inbox.poll())

    thread = threading.Thread(target=first)
    thread.start()
    inbox.put(note("event"))
    while not seen:
        pass
    inbox.call()
    thread.join(60.0)
    assert seen == [("event", 10.0), None]


def test_a_call_before_the_wait_is_not_lost() -> None:
    inbox, _ = shared()
    inbox.call()
    inbox.attend()  # would wait for ever


def test_the_second_thread_takes_events_only_while_the_first_is_away() -> None:
    inbox, clock = shared()
    seen: list[Note | None] = []

    def second() -> None:
        while inbox.stand_in():
            seen.append(inbox.poll())

    inbox.back()
    inbox.put(note("for the first"))
    thread = threading.Thread(target=second)
    thread.start()
    assert inbox.poll() == ("for the first", 10.0)
    inbox.put(note("was not handled"))
    inbox.leave()
    while not seen:
        pass
    clock.now = 11.0
    inbox.put(note("while it is away"))
    while len(seen) < 2:
        pass
    inbox.back()
    inbox.over()
    thread.join(60.0)
    assert seen == [("was not handled", 10.0), ("while it is away", 11.0)]


def test_a_timer_set_before_the_first_thread_left_is_the_seconds() -> None:
    inbox: SharedInbox[Note] = SharedInbox(note("tick"))
    seen: list[Note | None] = []

    def second() -> None:
        while inbox.stand_in():
            seen.append(inbox.poll())

    thread = threading.Thread(target=second)
    thread.start()
    inbox.back()
    due = inbox.now() + 0.01
    inbox.later(due, note("cut"))
    inbox.leave()
    while not seen:
        pass
    inbox.over()
    thread.join(60.0)
    [cut] = seen
    assert cut is not None
    assert cut[1] >= due


def test_a_timer_that_is_over_keeps_nobody_awake_while_the_first_thread_is_busy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The second thread used to look again and again until the first one had come to its end."""
    inbox: SharedInbox[object] = SharedInbox(lambda at: at, lambda: 10.0)
    waits: list[float | None] = []

    def wait(seconds: float | None = None) -> bool:
        waits.append(seconds)
        inbox.over()
        return True

    inbox.back()
    inbox.later(10.0, lambda at: at)
    monkeypatch.setattr(inbox._ready, "wait", wait)
    assert not inbox.stand_in()
    assert waits == [1.0]
