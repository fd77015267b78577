"""A link over one TLS connection: the same frames as over gloo, one after the other.

Two threads a link: the *reader* and the *sender*. OpenSSL's object for a connection serves one thread at a time, so TLS runs
between two buffers in memory and the lock covers only encryption and decryption, not waits for the network. Bytes
move in few large calls of the system; data is decrypted at its final place in memory.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import xxhash

from gcdist.transport.base import BaseLink, Item, LinkSettings, Loop
from gcdist.transport.channel import ChannelError
from gcdist.transport.events import Emit, In
from gcdist.transport.framing import (
    BEAT,
    HEADER_BYTES,
    MESSAGE_BYTES,
    Frame,
    cuts,
    decode,
    digest,
    encode,
    fault,
    inline_frame,
)
from gcdist.types import U8

CHUNK_BYTES = 256 << 10  # most bytes in one call of the system


def prepare(connection: socket.socket) -> None:
    """Small messages leave at once."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class Wire:
    """An established TLS connection: one thread may receive while another one sends."""

    def __init__(
        self, connection: socket.socket, tls: ssl.SSLObject, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO
    ) -> None:
        self._socket = connection
        self._tls = tls
        self._incoming = incoming
        self._outgoing = outgoing
        self._lock = threading.Lock()
        self._buffer = memoryview(bytearray(CHUNK_BYTES))

    def receive(self, into: memoryview) -> None:
        """Fill ``into``; ChannelError if the connection ends before."""
        while len(into := self._decrypt(into)):
            self._pull()

    def _decrypt(self, into: memoryview) -> memoryview:
        """Fill ``into`` from the bytes that are here; returns the part that is still empty."""
        read: Callable[[int, memoryview], int] = self._tls.read  # type: ignore[assignment]  # stubs: it returns bytes
        try:
            with self._lock:  # once for all records that are here
                while len(into):
                    if not (count := read(len(into), into)):  # at most a record of 16 KiB
                        raise ChannelError("the other end closed it")
                    into = into[count:]
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            raise ChannelError(_broken(error)) from error
        return into

    def _pull(self) -> None:
        try:
            count = self._socket.recv_into(self._buffer)
        except TimeoutError:
            raise ChannelError("no answer in time") from None
        except OSError as error:
            raise ChannelError(error.strerror or str(error)) from None
        if not count:
            raise ChannelError("the other end closed it")
        with self._lock:
            self._incoming.write(self._buffer[:count])

    def send(self, data: memoryview, *, more: bool = False) -> None:
        """Encrypt and send; with ``more`` a small rest may wait for the next call. ChannelError if it cannot leave."""
        for lo in range(0, len(data), CHUNK_BYTES):
            chunk = data[lo : lo + CHUNK_BYTES]
            try:
                with self._lock:
                    while len(chunk):
                        chunk = chunk[self._tls.write(chunk) :]  # one record of 16 KiB
                    if more and self._outgoing.pending < CHUNK_BYTES:
                        continue
                    sealed = self._outgoing.read()
            except ssl.SSLError as error:
                raise ChannelError(_broken(error)) from None
            try:
                self._socket.sendall(sealed)
            except TimeoutError:
                raise ChannelError("nothing is taken in time") from None
            except OSError as error:
                raise ChannelError(error.strerror or str(error)) from None

    def endless(self) -> None:
        """From now on calls wait without a limit; `sever` ends them."""
        self._socket.settimeout(None)

    def sever(self) -> None:
        """End the connection now: both threads are woken."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Free the descriptor; no thread may be inside."""
        self._socket.close()


def _broken(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return "the other end closed it"
    reason = (error.reason or "").lower().replace("_", " ") or "unknown"
    return f"its bytes are not the other end's ({reason})"


class TlsLink(BaseLink):
    """A `Link` over a `Wire`."""

    def __init__(
        self,
        wire: Wire,
        emit: Emit,
        settings: LinkSettings,
        *,
        name: str = "",
        allocate: Callable[[int], U8] | None = None,
    ) -> None:
        super().__init__(emit, settings, name=name, allocate=allocate)
        self._wire: Wire | None = wire
        self._in_by = self._out_by = float("inf")  # time limit of the current piece

    def _loops(self) -> dict[str, Loop]:
        wire = self._wire
        assert wire is not None
        wire.endless()
        return {"read": (lambda: self._read(wire), _nothing), "send": (lambda: self._send_all(wire), _nothing)}

    def _sever(self) -> None:
        wire = self._wire
        if wire is not None:
            wire.sever()

    def _release(self) -> None:
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.close()

    def judge(self, now: float) -> float:
        """Silence, closing times, and pieces that do not move."""
        if now >= min(self._in_by, self._out_by):
            self._finish(self._closing or f"connection lost: no progress for {self.settings.piece_timeout:g} s")
        return min(super().judge(now), now + self.settings.piece_timeout / 2)

    # reader

    def _read(self, wire: Wire) -> None:
        message = np.zeros(MESSAGE_BYTES, np.uint8)
        while True:
            wire.receive(message[:HEADER_BYTES].data)
            self._cut()
            header = decode(message, self.settings.max_bytes)
            size = HEADER_BYTES + sum(header.inline)
            wire.receive(message[HEADER_BYTES:size].data)
            self._in_headers += size
            self._hear()
            if header.kind == BEAT:
                continue
            frame = inline_frame(header, message)
            if self._leaves(header, frame):
                return
            meta, meta_digest = self._whole(wire, frame.meta, header.meta_bytes, header.piece_bytes)
            data, data_digest = self._whole(wire, frame.data, header.data_bytes, header.piece_bytes)
            self._data_in += header.data_bytes or 0
            frame = Frame(header.kind, header.head, meta, data, header.data_digest)
            self._tell(In(self, frame, fault(header, meta_digest, data_digest)))
            del meta, data, frame  # the consumer's now

    def _whole(self, wire: Wire, array: U8 | None, nbytes: int | None, piece_bytes: int) -> tuple[U8 | None, int]:
        """An array, from the header message or received now, and its digest."""
        if array is not None or nbytes is None:
            return array, digest(array)
        array, hasher = self._allocate(nbytes), xxhash.xxh3_64()
        for cut in cuts(nbytes, piece_bytes):
            piece = array[cut]
            self._in_by = time.monotonic() + self.settings.piece_timeout
            wire.receive(piece.data)
            self._in_by = float("inf")
            self._cut()
            hasher.update(piece.data)
            self._in_pieces += len(piece)
            self._hear()
        return array, hasher.intdigest()

    # sender

    def _send_all(self, wire: Wire) -> None:
        while (item := self._next()) is not None:
            self._send(item, wire)
            self._left(item)
            del item

    def _send(self, item: Item, wire: Wire) -> None:
        size = self.settings.piece_bytes
        message, rest = encode(item.frame, size)
        self._cut()
        self._out_by = time.monotonic() + self.settings.lost_after
        wire.send(message.data, more=bool(rest))
        self._out_by = float("inf")
        self._count_out(message)
        pieces = [array[cut] for array in rest for cut in cuts(len(array), size)]
        for i, piece in enumerate(pieces):
            self._out_by = time.monotonic() + self.settings.piece_timeout
            wire.send(piece.data, more=i + 1 < len(pieces))
            self._out_by = float("inf")
            self._cut()
            self._count_out(piece)


def _nothing() -> None:
    pass
