from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcdist.transport.framing import (
    FIRST_INTERNAL,
    HEAD_BYTES,
    HEADER_BYTES,
    INLINE_BYTES,
    META_BYTES,
    Frame,
    FrameError,
    check_frame,
    cuts,
    decode,
    digest,
    encode,
    fault,
    inline_frame,
)
from gcdist.types import U8


def noise(n: int, seed: int = 0) -> U8:
    return np.random.default_rng(seed).integers(0, 256, n, dtype=np.uint8)


arrays = st.none() | st.binary(max_size=300).map(lambda b: np.frombuffer(b, np.uint8))


@given(kind=st.integers(0, FIRST_INTERNAL - 1), head=st.binary(max_size=HEAD_BYTES), meta=arrays, data=arrays)
@settings(derandomize=True, deadline=None, max_examples=200)
def test_a_small_frame_is_one_message(kind: int, head: bytes, meta: U8 | None, data: U8 | None) -> None:
    message, rest = encode(Frame(kind, head, meta, data))
    assert not rest
    header = decode(message, 300)
    assert header.whole
    frame = inline_frame(header, np.concatenate([message, noise(50)]))
    assert fault(header, digest(frame.meta), digest(frame.data)) is None
    assert (frame.kind, frame.head) == (kind, head)
    for sent, came in ((meta, frame.meta), (data, frame.data)):
        assert (sent is None) == (came is None)
        if sent is not None and came is not None:
            np.testing.assert_array_equal(sent, came)
    assert frame.data_digest == digest(data)


FULL = INLINE_BYTES


@pytest.mark.parametrize(
    ("sizes", "inline"),
    [
        ((None, 0), (0, 0)),
        ((None, FULL), (0, FULL)),
        ((None, FULL + 1), (0, 0)),
        ((10, FULL - 10), (10, FULL - 10)),
        ((10, FULL - 9), (10, 0)),  # a small meta is there with the header, however large the data
        ((FULL + 1, 10), (0, 10)),
        ((FULL + 1, FULL + 1), (0, 0)),
    ],
)
def test_what_travels_in_the_header(sizes: tuple[int | None, int], inline: tuple[int, int]) -> None:
    meta, data = (None if n is None else noise(n) for n in sizes)
    message, rest = encode(Frame(1, b"", meta, data), 4096)
    header = decode(message, FULL + 1)
    assert header.inline == inline
    assert len(message) == HEADER_BYTES + sum(inline)
    assert (header.meta_bytes, header.data_bytes, header.piece_bytes) == (*sizes, 4096)
    frame = inline_frame(header, message)
    for sent, came in ((meta, frame.meta), (data, frame.data)):
        assert (came is None) == (sent is None or any(sent is array for array in rest))
        assert came is None or (sent is not None and np.array_equal(sent, came))
    assert header.whole == (not rest)


@given(at=st.integers(0, HEADER_BYTES - 1), bit=st.integers(0, 7))
@settings(derandomize=True, deadline=None, max_examples=300)
def test_any_flipped_bit_of_a_header_is_seen(at: int, bit: int) -> None:
    message, _ = encode(Frame(3, b"head", noise(10), noise(20)))
    message[at] ^= 1 << bit
    with pytest.raises(FrameError):
        decode(message, 100)


@given(at=st.integers(HEADER_BYTES, HEADER_BYTES + 29))
@settings(derandomize=True, deadline=None, max_examples=30)
def test_any_flipped_byte_of_a_body_is_a_fault(at: int) -> None:
    message, _ = encode(Frame(3, b"head", noise(10), noise(20)))
    message[at] ^= 255
    header = decode(message, 100)
    frame = inline_frame(header, message)
    wrong = fault(header, digest(frame.meta), digest(frame.data))
    assert wrong is not None
    assert ("meta" if at < HEADER_BYTES + 10 else "data") in wrong


def test_limits_are_checked_before_anything_is_received() -> None:
    with pytest.raises(FrameError, match="announces 20001 bytes of data; at most 20000"):
        decode(encode(Frame(1, b"", None, noise(20001)))[0], 20000)
    with pytest.raises(FrameError, match="not a gcdist header"):
        decode(noise(HEADER_BYTES), 100)


@pytest.mark.parametrize(
    ("frame", "says"),
    [
        (Frame(FIRST_INTERNAL), "kind is 240; allowed are 0 to 239"),
        (Frame(-1), "kind is -1"),
        (Frame(0, bytes(HEAD_BYTES + 1)), "head has 97 bytes; at most 96"),
        (Frame(0, b"", np.zeros(META_BYTES + 1, np.uint8)), "meta has 67108865 bytes"),
        (Frame(0, b"", None, np.zeros(101, np.uint8)), "data has 101 bytes; at most 100"),
        (Frame(0, b"", None, np.zeros((2, 2), np.uint8)), "contiguous uint8 vector"),
        (Frame(0, b"", None, np.zeros(9, np.uint8)[::2]), "contiguous uint8 vector"),
    ],
)
def test_a_frame_that_cannot_be_sent_is_refused(frame: Frame, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        check_frame(frame, 100)


def test_a_digest_known_before_is_used() -> None:
    data = noise(50)
    same = encode(Frame(1, b"", None, data, digest(data)))[0]
    np.testing.assert_array_equal(same, encode(Frame(1, b"", None, data))[0])
    wrong = encode(Frame(1, b"", None, data, 1))[0]
    assert fault(decode(wrong, 50), 0, digest(data)) is not None
    assert fault(decode(same, 50), 0, digest(data)) is None


@given(n=st.integers(0, 1000), piece=st.integers(1, 300))
@settings(derandomize=True, deadline=None, max_examples=100)
def test_pieces_cover_exactly_once(n: int, piece: int) -> None:
    taken = [i for c in cuts(n, piece) for i in range(c.start, c.stop)]
    assert taken == list(range(n))
    assert all(c.stop - c.start <= piece for c in cuts(n, piece))
