"""Messages survive their bytes; other bytes raise CodecError and nothing else."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcdist.protocol import Assignment, Head, Hello, Round
from gcdist.protocol.codec import (
    CodecError,
    Kind,
    pack_credit,
    pack_failed,
    pack_fault,
    pack_head,
    pack_hello,
    pack_round,
    pack_step,
    unpack_credit,
    unpack_failed,
    unpack_fault,
    unpack_head,
    unpack_hello,
    unpack_round,
    unpack_step,
)
from gcdist.protocol.messages import CreditWhy, Fault, SampleSketch, ValueSketch
from gcdist.types import Corruption, FaultKind

exactly = settings(derandomize=True, deadline=None, max_examples=200)
int64 = st.integers(-(2**63), 2**63 - 1)
finite = st.floats(allow_nan=False, allow_infinity=False)
text = st.text(st.characters(exclude_categories=["Cs"]))
assignments = st.builds(
    Assignment,
    st.lists(int64).map(tuple),
    st.lists(st.lists(st.tuples(int64, finite)).map(tuple)).map(tuple),
    st.lists(st.lists(st.integers(0, 32)).map(tuple)).map(tuple),
    st.none() | st.lists(int64).map(tuple),
)
rounds = st.builds(
    Round,
    int64,
    int64,
    int64,
    st.none() | int64,
    st.lists(int64).map(tuple),
    st.lists(finite).map(tuple),
    st.none() | assignments,
    st.none() | finite,
)
sketches = st.builds(ValueSketch, text, st.lists(finite, max_size=3).map(tuple))
samples = st.builds(SampleSketch, int64, int64, st.lists(sketches, max_size=2).map(tuple))
hellos = st.builds(
    Hello,
    text,
    int64,
    text,
    text,
    int64,
    text,
    text,
    st.none() | st.lists(int64).map(tuple),
    st.lists(samples, max_size=2).map(tuple),
    text,
)
faults = st.builds(
    Fault,
    st.sampled_from(get_args(FaultKind)),
    st.none() | finite,
    st.none() | finite,
    st.sampled_from(get_args(Corruption)),
    st.none() | finite,
)
UNPACK: list[Callable[[bytes], Any]] = [
    unpack_head,
    unpack_credit,
    unpack_step,
    unpack_failed,
    unpack_round,
    unpack_hello,
    unpack_fault,
]


@exactly
@given(st.builds(Head, *[int64] * 6))
def test_heads(head: Head) -> None:
    raw = pack_head(head)
    assert len(raw) == 48
    assert unpack_head(raw) == head


@exactly
@given(int64, st.sampled_from(get_args(CreditWhy)), st.floats(0, allow_infinity=False))
def test_credits(step: int, why: CreditWhy, held: float) -> None:
    assert unpack_credit(pack_credit(step, why, held)) == (step, why, held)


@pytest.mark.parametrize("held", [-1.0, float("nan"), float("inf")])
def test_a_credit_with_impossible_seconds_is_refused(held: float) -> None:
    with pytest.raises(CodecError, match="seconds, must be 0 or more"):
        unpack_credit(pack_credit(1, "sent", held))


@exactly
@given(int64, int64)
def test_steps_and_failures(step: int, partition: int) -> None:
    assert unpack_step(pack_step(step)) == step
    assert unpack_failed(pack_failed(step, partition)) == (step, partition)


@exactly
@given(rounds)
def test_rounds_keep_every_bit(sent: Round) -> None:
    back = unpack_round(pack_round(sent))
    assert back == sent
    assert [b.hex() for b in back.beta] == [b.hex() for b in sent.beta]  # -0.0 == 0.0, but not here


@exactly
@given(hellos)
def test_hellos(hello: Hello) -> None:
    assert unpack_hello(pack_hello(hello)) == hello


@exactly
@given(faults)
def test_faults(fault: Fault) -> None:
    assert unpack_fault(pack_fault(fault)) == fault


@pytest.mark.parametrize("unpack", UNPACK, ids=lambda f: f.__name__)
@exactly
@given(raw=st.binary(max_size=80) | st.text().map(lambda s: s.encode(errors="replace")))
def test_garbage_is_a_codec_error(unpack: Callable[[bytes], Any], raw: bytes) -> None:
    with contextlib.suppress(CodecError):
        unpack(raw)


@exactly
@given(rounds, st.data())
def test_a_damaged_round_is_a_round_or_a_codec_error(sent: Round, data: st.DataObject) -> None:
    raw = bytearray(pack_round(sent))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    del raw[data.draw(st.integers(0, len(raw))) :]
    with contextlib.suppress(CodecError):
        unpack_round(bytes(raw))


@pytest.mark.parametrize(
    "raw",
    [b"", b"{}", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b"1e999", b'{"step": 1' + b"0" * 5000 + b"}"],
    ids=range(8),
)
@pytest.mark.parametrize("unpack", UNPACK, ids=lambda f: f.__name__)
def test_hostile_bytes(unpack: Callable[[bytes], Any], raw: bytes) -> None:
    with pytest.raises(CodecError):
        unpack(raw)


def test_what_is_wrong_is_said() -> None:
    with pytest.raises(CodecError, match="message head: 3 bytes, must be 48"):
        unpack_head(b"abc")
    with pytest.raises(CodecError, match="credit: reason 7, must be below 7"):
        unpack_credit(pack_step(1) + b"\x07" + bytes(8))


def test_kinds_leave_room_for_the_transport() -> None:
    assert all(kind < 240 for kind in Kind)
