"""A gloo pair between two doctors, made like the links of a run: whether it connects, and its speed."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from gcdist.transport import StoreSource, listening_address
from gcdist.transport.channel import HEADER_TAG, Channel, as_tensor

CONNECT_SECONDS = 4.0
PIECE = 256 << 10
ECHOES = 10


@dataclass(frozen=True, slots=True)
class Paired:
    """Seconds of a round trip of 8 bytes (median); bytes a second to the master and from it."""

    round_trip: float
    up: float
    down: float


def answer(source: StoreSource, seconds: float) -> None:
    """The server's side; ChannelError."""
    channel = Channel(source.client(), "pair", 0, listening_address(source.host, source.port), CONNECT_SECONDS)
    small = np.zeros(8, np.uint8)
    for _ in range(ECHOES):
        channel.receive(as_tensor(small), HEADER_TAG).wait(seconds)
        channel.send(as_tensor(small), HEADER_TAG).wait(seconds)
    channel.receive(as_tensor(small), HEADER_TAG).wait(seconds)
    pieces = int(small.view("<i8")[0])
    if not 1 <= pieces <= 400:
        raise ValueError(f"{pieces} pieces asked for")
    body = np.zeros(PIECE, np.uint8)
    for _ in range(pieces):
        channel.receive(as_tensor(body), HEADER_TAG).wait(seconds)
    channel.send(as_tensor(small), HEADER_TAG).wait(seconds)
    for _ in range(pieces):
        channel.send(as_tensor(body), HEADER_TAG).wait(seconds)
    channel.receive(as_tensor(small), HEADER_TAG).wait(seconds)  # the other end has received all


def probe(source: StoreSource, pieces: int, seconds: float) -> Paired:
    """The client's side, ``pieces`` of 256 KiB each way; ChannelError, JoinError."""
    channel = Channel(source.client(), "pair", 1, listening_address(source.host, source.port), CONNECT_SECONDS)
    small, times = np.zeros(8, np.uint8), []
    for _ in range(ECHOES):
        begun = time.monotonic()
        channel.send(as_tensor(small), HEADER_TAG).wait(seconds)
        channel.receive(as_tensor(small), HEADER_TAG).wait(seconds)
        times.append(time.monotonic() - begun)
    small.view("<i8")[0] = pieces
    channel.send(as_tensor(small), HEADER_TAG).wait(seconds)
    body, begun = np.zeros(PIECE, np.uint8), time.monotonic()
    for _ in range(pieces):
        channel.send(as_tensor(body), HEADER_TAG).wait(seconds)
    channel.receive(as_tensor(small), HEADER_TAG).wait(seconds)
    middle = time.monotonic()
    for _ in range(pieces):
        channel.receive(as_tensor(body), HEADER_TAG).wait(seconds)
    end = time.monotonic()
    channel.send(as_tensor(small), HEADER_TAG).wait(seconds)
    amount = pieces * PIECE
    return Paired(sorted(times)[ECHOES // 2], amount / (middle - begun), amount / (end - middle))
