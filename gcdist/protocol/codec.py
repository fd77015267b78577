"""The protocol's messages as bytes: fixed structs for the frequent ones, validated JSON for the rest.

Nothing of a peer is ever unpickled.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import get_args

from pydantic import TypeAdapter, ValidationError

from gcdist.protocol.messages import CreditWhy, Fault, Head, Hello, Round

_HEAD = struct.Struct("<qqqqqq")
HEAD_NBYTES = _HEAD.size
_CREDIT = struct.Struct("<qBd")
_STEP = struct.Struct("<q")
_WELCOME = struct.Struct("<qq")
_FAILED = struct.Struct("<qq")
_WHYS: tuple[CreditWhy, ...] = get_args(CreditWhy)
_ROUND = TypeAdapter(Round)
_HELLO = TypeAdapter(Hello)
_FAULT = TypeAdapter(Fault)


class Kind(IntEnum):
    """What a frame carries."""

    ANNOUNCE = 16
    ROUND = 17
    RELEASE = 18
    WELCOME = 19
    REFUSE = 20
    FAULT = 21
    CREDIT = 32
    MESSAGE = 33
    FAILED = 34
    LEAVING = 35
    LOG = 36  # a text for the worker's log file; the machines never see it


class CodecError(ValueError):
    """A peer's bytes are not a message of this protocol."""


def _unpack(form: struct.Struct, raw: bytes, what: str) -> tuple[int, ...]:
    if len(raw) != form.size:
        raise CodecError(f"{what}: {len(raw)} bytes, must be {form.size}")
    return form.unpack(raw)


def pack_head(head: Head) -> bytes:
    """Head as 48 bytes.

    >>> unpack_head(pack_head(Head(7, 1, 3, 8, 2, 100)))
    Head(step=7, plan_id=1, row=3, done=8, shift=2, nbytes=100)
    """
    return _HEAD.pack(*head)


def unpack_head(raw: bytes) -> Head:
    """The reverse of ``pack_head``; CodecError."""
    return Head(*_unpack(_HEAD, raw, "message head"))


def pack_credit(step: int, why: CreditWhy, held: float = 0.0) -> bytes:
    """A credit: the round it ends, why, and how many seconds the worker had it."""
    return _CREDIT.pack(step, _WHYS.index(why), held)


def unpack_credit(raw: bytes) -> tuple[int, CreditWhy, float]:
    """The reverse of ``pack_credit``; CodecError."""
    if len(raw) != _CREDIT.size:
        raise CodecError(f"credit: {len(raw)} bytes, must be {_CREDIT.size}")
    step, why, held = _CREDIT.unpack(raw)
    if why >= len(_WHYS):
        raise CodecError(f"credit: reason {why}, must be below {len(_WHYS)}")
    if not 0 <= held < float("inf"):
        raise CodecError(f"credit: {held} seconds, must be 0 or more")
    return step, _WHYS[why], held


def pack_step(step: int) -> bytes:
    """A step number (announcements)."""
    return _STEP.pack(step)


def unpack_step(raw: bytes) -> int:
    """The reverse of ``pack_step``; CodecError."""
    return _unpack(_STEP, raw, "step")[0]


def pack_failed(step: int, partition: int) -> bytes:
    """The place of a user's error; its text travels beside it."""
    return _FAILED.pack(step, partition)


def unpack_failed(raw: bytes) -> tuple[int, int]:
    """The reverse of ``pack_failed``; CodecError."""
    step, partition = _unpack(_FAILED, raw, "failure")
    return step, partition


def pack_round(sent: Round) -> bytes:
    """A round without its parameters. Floats keep every bit."""
    return _ROUND.dump_json(sent)


def unpack_round(raw: bytes) -> Round:
    """The reverse of ``pack_round``; CodecError."""
    try:
        return _ROUND.validate_json(raw)
    except ValidationError as error:
        raise CodecError(f"round: {error.errors()[0]['msg']}") from None


def pack_hello(hello: Hello) -> bytes:
    """A worker's Hello."""
    return _HELLO.dump_json(hello)


def unpack_hello(raw: bytes) -> Hello:
    """The reverse of ``pack_hello``; CodecError."""
    try:
        return _HELLO.validate_json(raw)
    except ValidationError as error:
        raise CodecError(f"hello: {error.errors()[0]['msg']}") from None


def pack_welcome(worker: int, inc: int) -> bytes:
    """The master's welcome: the worker's index and the number of its life."""
    return _WELCOME.pack(worker, inc)


def unpack_welcome(raw: bytes) -> tuple[int, int]:
    """The reverse of ``pack_welcome``; CodecError."""
    worker, inc = _unpack(_WELCOME, raw, "welcome")
    return worker, inc


def pack_fault(fault: Fault) -> bytes:
    """A fault that a worker is to inject into itself."""
    return _FAULT.dump_json(fault)


def unpack_fault(raw: bytes) -> Fault:
    """The reverse of ``pack_fault``; CodecError."""
    try:
        return _FAULT.validate_json(raw)
    except ValidationError as error:
        raise CodecError(f"fault: {error.errors()[0]['msg']}") from None
