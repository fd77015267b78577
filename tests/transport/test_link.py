from __future__ import annotations

import threading

import numpy as np
import pytest

from gcdist.transport import INLINE_BYTES, Down, Frame, In, LinkSettings, Sent
from gcdist.transport.framing import HEADER_BYTES
from gcdist.types import U8
from tests.transport.conftest import WAIT, House, eventually, ours

PIECE = LinkSettings().piece_bytes


def noise(n: int, seed: int = 0) -> U8:
    return np.random.default_rng(seed).integers(0, 256, n, dtype=np.uint8)


def same(a: U8 | None, b: U8 | None) -> bool:
    return a is b if a is None or b is None else bool(np.array_equal(a, b))


def test_frames_of_all_sizes_come_whole_in_order_and_counted(house: House) -> None:
    master, worker = house.pair()
    sizes = [
        0,
        1,
        INLINE_BYTES - 1,
        INLINE_BYTES,
        INLINE_BYTES + 1,
        PIECE - 1,
        PIECE,
        PIECE + 1,
        4 * PIECE + 1,
        40 << 20,
    ]
    sent = [(None, noise(n, n)) for n in sizes] + [(noise(n, n + 1), noise(3)) for n in sizes[:-1]] + [(None, None)]
    for i, (meta, data) in enumerate(sent):
        for array in (meta, data):
            if array is not None:
                array.flags.writeable = False  # parameters are read-only
        master.link.post(Frame(i, bytes([i]), meta, data), note=i)
    for i, (meta, data) in enumerate(sent):
        came = worker.get(In)
        assert came.fault is None
        assert came.link is worker.link
        assert (came.frame.kind, came.frame.head) == (i, bytes([i]))
        for a, b in ((meta, came.frame.meta), (data, came.frame.data)):
            assert same(a, b)
        assert master.get(Sent).note == i
    total = sum(0 if a is None else len(a) for pair in sent for a in pair)
    data_total = sum(0 if data is None else len(data) for _, data in sent)
    beats = master.link.bytes_out - total - len(sent) * HEADER_BYTES
    assert beats % HEADER_BYTES == 0
    assert master.link.data_out == worker.link.data_in == data_total
    assert worker.link.bytes_in >= total + len(sent) * HEADER_BYTES


def test_both_directions_at_once_from_several_threads(house: House) -> None:
    master, worker = house.pair()
    each, threads = 40, 4

    def talk(end: House, start: int) -> None:
        for i in range(each):
            n = (start + i) * 997 % (2 * PIECE)
            end.link.post(Frame(start, i.to_bytes(2), None, noise(n, start * each + i)))  # type: ignore[attr-defined]

    talkers = [threading.Thread(target=talk, args=(end, start)) for end in (master, worker) for start in range(threads)]
    for thread in talkers:
        thread.start()
    for end in (master, worker):
        seen: dict[int, list[int]] = {start: [] for start in range(threads)}
        for _ in range(each * threads):
            came = end.get(In)
            i = int.from_bytes(came.frame.head)
            assert came.fault is None
            assert same(came.frame.data, noise((came.frame.kind + i) * 997 % (2 * PIECE), came.frame.kind * each + i))
            seen[came.frame.kind].append(i)
        assert all(order == list(range(each)) for order in seen.values())
    for thread in talkers:
        thread.join(WAIT)


def test_the_newest_takes_the_place_of_a_waiting_one(house: House) -> None:
    gate = threading.Event()

    def slow(n: int) -> U8:
        assert gate.wait(WAIT)
        return np.empty(n, np.uint8)

    master, worker = house.pair(allocate=slow)
    big = noise(20 * PIECE)
    master.link.post(Frame(9, b"", None, big))  # the receiver holds it up; what is posted now waits
    for step in range(50):
        master.link.post(Frame(1, bytes([step])), newest=True, note=step)
        master.link.post(Frame(2, bytes([step])), note=step)
    gate.set()
    assert same(worker.get(In).frame.data, big)
    came = [worker.get(In).frame for _ in range(51)]
    assert [f.head[0] for f in came if f.kind == 2] == list(range(50))
    assert [f.head[0] for f in came if f.kind == 1] == [49]
    notes = [master.get(Sent).note for _ in range(51)]
    assert notes[0] == 49  # at the place of the first
    assert notes[1:] == list(range(50))


def test_received_data_lies_where_the_consumer_wants_it(house: House) -> None:
    pool = np.zeros(3 * PIECE, np.uint8)
    master, worker = house.pair(allocate=lambda n: pool[:n])
    for seed in range(2):
        data = noise(2 * PIECE + 5, seed)
        master.link.post(Frame(1, b"", noise(PIECE), data))
        came = worker.get(In).frame
        assert came.data is not None
        assert np.shares_memory(came.data, pool)
        assert same(came.data, data)


def test_close_tells_both_ends_once(house: House) -> None:
    master, worker = house.pair()
    master.link.close("enough of it")
    master.link.close("again")
    worker.link.close("me too")
    assert master.get(Down).reason == "enough of it"
    assert worker.get(Down).reason in ("me too", "closed by the other end: enough of it")
    assert master.link.join(WAIT)
    assert worker.link.join(WAIT)
    master.link.post(Frame(1))  # no error after the end
    assert master.events.empty()
    assert worker.events.empty()


def test_a_link_has_so_many_threads(house: House) -> None:
    """As docs/security.md says: over TLS two at each end, over gloo three."""

    def pairs() -> float:
        ends = sum(name.startswith(("gcdist-master-", "gcdist-worker-")) for name in ours())  # joining has other names
        return ends / (2 * (2 if house.kind == "tls" else 3))

    house.pair()
    assert eventually(lambda: pairs() == 1)
    house.pair()
    assert eventually(lambda: pairs() == 2)


def test_the_other_end_hears_the_reason(house: House) -> None:
    master, worker = house.pair()
    worker.link.close("leaving: spot notice")
    assert worker.get(Down).reason == "leaving: spot notice"
    assert master.get(Down).reason == "closed by the other end: leaving: spot notice"


def test_draining_lets_queued_frames_leave_first(house: House) -> None:
    master, worker = house.pair()
    data = noise(8 * PIECE)
    for i in range(5):
        master.link.post(Frame(i, b"", None, data), note=i)
    master.link.close("done", drain_seconds=WAIT)
    master.link.post(Frame(77))  # too late
    for i in range(5):
        assert worker.get(In).frame.kind == i
        assert master.get(Sent).note == i
    assert worker.get(Down).reason == "closed by the other end: done"
    assert master.get(Down).reason == "done"


def test_links_are_independent(house: House) -> None:
    pairs = [house.pair() for _ in range(3)]
    assert sorted(worker.ticket for _, worker in pairs) == sorted(master.ticket for master, _ in pairs)
    pairs[1][0].link.close("only this one")
    pairs[1][1].get(Down)
    for i in (0, 2):
        master, worker = pairs[i]
        worker.link.post(Frame(4, b"", None, noise(3 * PIECE)))
        assert same(master.get(In).frame.data, noise(3 * PIECE))


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"beat": 0.0}, "beat is 0.0; it must be positive"),
        ({"silent_after": 0.5}, "must be in rising order"),
        ({"lost_after": 4.0}, "must be in rising order"),
        ({"piece_bytes": 10}, "piece_bytes is 10; allowed are 1024"),
        ({"max_bytes": -1}, "max_bytes is -1"),
    ],
)
def test_settings_are_checked(bad: dict[str, float], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        LinkSettings(**bad)  # type: ignore[arg-type]


def test_a_frame_over_the_limit_is_refused_at_home(house: House) -> None:
    master, _ = house.pair()
    with pytest.raises(ValueError, match="kind is 255"):
        master.link.post(Frame(255))
