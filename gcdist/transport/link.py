"""A link over one gloo pair.

Three threads a link. The *reader* always has headers posted, and detects the close of the peer's end within
milliseconds. The *body* thread receives pieces: a transfer cut in its middle blocks it until the piece's own timeout,
which the reader must not share. The *sender* sends frames, and beats when idle.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import SimpleQueue

import numpy as np
import xxhash

from gcdist.transport.base import BaseLink, LinkSettings, Loop
from gcdist.transport.channel import HEADER_TAG, PIECE_TAG, Channel, ChannelError, Pending, as_tensor
from gcdist.transport.events import Emit, In
from gcdist.transport.framing import (
    BEAT,
    HEADER_BYTES,
    MESSAGE_BYTES,
    Frame,
    Header,
    cuts,
    decode,
    digest,
    encode,
    fault,
    inline_frame,
)
from gcdist.types import U8

HEADERS_AHEAD = 4  # receives posted for headers, so that small frames need no round trip
PIECES_AHEAD = 4  # operations under way for a body, at either end
FOREVER = 86400.0  # s; a header may wait long behind a body, so the watch judges silence

_Ahead = deque[Pending]  # operations begun by one thread and not yet waited for, in order


class GlooLink(BaseLink):
    """A `Link` over a connected `Channel`."""

    def __init__(
        self,
        channel: Channel,
        emit: Emit,
        settings: LinkSettings,
        *,
        name: str = "",
        allocate: Callable[[int], U8] | None = None,
    ) -> None:
        super().__init__(emit, settings, name=name, allocate=allocate)
        self._channel: Channel | None = channel
        self._bodies: SimpleQueue[tuple[Header, Frame] | None] = SimpleQueue()
        self._body_done = threading.Event()
        self._body_done.set()

    def _loops(self) -> dict[str, Loop]:
        channel = self._channel
        assert channel is not None
        loops = {"read": self._read, "body": self._receive_bodies, "send": self._send_all}
        made: dict[str, Loop] = {}
        for what, loop in loops.items():
            ahead = _Ahead()
            made[what] = (partial(loop, channel, ahead), partial(self._settle, ahead))
        return made

    def _settle(self, ahead: _Ahead) -> None:
        while ahead:  # no operation may be dropped before its end; the pair closes, so all end
            with suppress(ChannelError):
                ahead.popleft().wait(self.settings.piece_timeout)

    def _sever(self) -> None:
        self._bodies.put(None)
        self._body_done.set()
        channel = self._channel
        if channel is not None:
            channel.sever()

    def _release(self) -> None:
        self._channel = None  # frees the descriptor

    # reader

    def _read(self, channel: Channel, ahead: _Ahead) -> None:
        messages = deque(np.zeros(MESSAGE_BYTES, np.uint8) for _ in range(HEADERS_AHEAD))
        for message in messages:
            ahead.append(channel.receive(as_tensor(message), HEADER_TAG))
        while True:
            ahead.popleft().wait(FOREVER)
            self._cut()
            message = messages[0]
            messages.rotate(-1)
            header = decode(message, self.settings.max_bytes)
            frame = inline_frame(header, message)
            self._in_headers += HEADER_BYTES + sum(header.inline)
            self._hear()
            if header.kind != BEAT:
                self._body_done.wait()
                if self._leaves(header, frame):
                    return
                if header.whole:
                    self._data_in += header.data_bytes or 0
                    self._tell(In(self, frame, fault(header, digest(frame.meta), digest(frame.data))))
                else:
                    self._body_done.clear()
                    self._bodies.put((header, frame))
                del frame  # the consumer's now
            message[:HEADER_BYTES] = 0  # the rest of an earlier message must not count as a header
            ahead.append(channel.receive(as_tensor(message), HEADER_TAG))

    # body

    def _receive_bodies(self, channel: Channel, ahead: _Ahead) -> None:
        while (item := self._bodies.get()) is not None:
            header, begun = item
            meta, meta_digest = self._completed(begun.meta, header.meta_bytes, header.piece_bytes, channel, ahead)
            data, data_digest = self._completed(begun.data, header.data_bytes, header.piece_bytes, channel, ahead)
            self._data_in += header.data_bytes or 0
            frame = Frame(header.kind, header.head, meta, data, header.data_digest)
            self._tell(In(self, frame, fault(header, meta_digest, data_digest)))
            del item, begun, meta, data, frame  # the consumer's now
            self._body_done.set()

    def _completed(
        self, array: U8 | None, nbytes: int | None, piece_bytes: int, channel: Channel, ahead: _Ahead
    ) -> tuple[U8 | None, int]:
        """An array, from the header message or received now in pieces, and its digest."""
        if array is not None or nbytes is None:
            return array, digest(array)
        array = self._allocate(nbytes)
        tensor, hasher = as_tensor(array), xxhash.xxh3_64()
        coming = cuts(len(array), piece_bytes)
        for come in cuts(len(array), piece_bytes):
            for cut in itertools.islice(coming, PIECES_AHEAD - len(ahead)):
                ahead.append(channel.receive(tensor[cut], PIECE_TAG))
            ahead.popleft().wait(self.settings.piece_timeout)
            self._cut()
            piece = array[come]
            hasher.update(piece.data)  # while later pieces arrive
            self._in_pieces += len(piece)
            self._hear()
        return array, hasher.intdigest()

    # sender

    def _send_all(self, channel: Channel, ahead: _Ahead) -> None:
        while (item := self._next()) is not None:
            self._send(item.frame, channel, ahead)
            self._left(item)
            del item

    def _send(self, frame: Frame, channel: Channel, ahead: _Ahead) -> None:
        size, timeout = self.settings.piece_bytes, self.settings.lost_after
        message, rest = encode(frame, size)
        coming = (array[cut] for array in rest for cut in cuts(len(array), size))
        self._cut()
        ahead.append(channel.send(as_tensor(message), HEADER_TAG))
        moving = deque((message,))
        while moving:  # the first pieces do not wait for the header to leave
            for piece in itertools.islice(coming, 1 + PIECES_AHEAD - len(ahead)):
                ahead.append(channel.send(as_tensor(piece), PIECE_TAG))
                moving.append(piece)
            ahead.popleft().wait(timeout)
            timeout = self.settings.piece_timeout
            self._cut()
            self._count_out(moving.popleft())
