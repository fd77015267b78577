"""The protocol of two doctors: frames over one TCP connection, each with its length. Nothing is unpickled.

A frame is 5 bytes, kind and length, and its body: JSON (at most 16 KiB), or bulk (at most 64 KiB), which is counted and
dropped. Every operation has a timeout.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from typing import Any

from gcdist.transport.handshake import keyed_digest

HEAD = struct.Struct("!BI")
TEXT, BULK = 1, 2
MOST = {TEXT: 16 << 10, BULK: 64 << 10}
BUFFER_BYTES = 1 << 20  # the system's send buffer: bytes in it have not left yet
BULK_SECONDS = 2.0
BULK_BYTES = 256 << 20
NONCE_BYTES = 32


class WireError(Exception):
    """The other end is no doctor, is silent, or has gone; one line."""


class Wire:
    """One connection; ``seconds`` bounds each operation. A context manager."""

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        connection.settimeout(seconds)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
        self.mine, self.peer = str(connection.getsockname()[0]), str(connection.getpeername()[0])
        self._seconds = seconds
        self._connection = connection

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *about: object) -> None:
        self._connection.close()

    def say(self, **values: Any) -> None:
        """Send a message."""
        self._send(TEXT, json.dumps(values).encode())

    def hear(self) -> dict[str, Any]:
        """The next message; WireError if it is none, or if it reports an ``error`` of the other end."""
        kind, body = self._receive()
        try:
            said = json.loads(body) if kind == TEXT else None
        except ValueError:
            said = None
        if not isinstance(said, dict):
            raise WireError("the other end sent something that is no message: is it gcdist doctor --serve?")
        if "error" in said:
            raise WireError(f"the other end says: {said['error']}"[:300])
        return said

    def ask(self, **values: Any) -> dict[str, Any]:
        """Send a message and take the answer."""
        self.say(**values)
        return self.hear()

    def pour(self) -> None:
        """Send bulk for a while; an empty frame ends it."""
        body, until, sent = bytes(MOST[BULK]), time.monotonic() + BULK_SECONDS, 0
        while time.monotonic() < until and sent < BULK_BYTES:
            self._send(BULK, body)
            sent += len(body)
        self._send(BULK, b"")

    def drain(self) -> tuple[int, float]:
        """Receive the bulk of `pour`: bytes after the first frame, and seconds since then."""
        total, begun, now = 0, 0.0, 0.0
        while True:
            kind, body = self._receive()
            if kind != BULK:
                raise WireError("the other end sent a message in the middle of bulk")
            if not body:
                return total, max(now - begun, 1e-6)
            now = time.monotonic()
            if begun:
                total += len(body)
            else:
                begun = now
            if total > 2 * BULK_BYTES:
                raise WireError("the other end does not stop sending")

    def _send(self, kind: int, body: bytes) -> None:
        try:
            self._connection.sendall(HEAD.pack(kind, len(body)) + body)
        except OSError as error:
            raise WireError(why(error)) from None

    def _receive(self) -> tuple[int, bytes]:
        kind, length = HEAD.unpack(self._exactly(HEAD.size))
        if length > MOST.get(kind, -1):
            raise WireError("the other end does not speak as a doctor does: is it gcdist doctor --serve?")
        return kind, self._exactly(length)

    def _exactly(self, length: int) -> bytes:
        parts, left, until = [], length, time.monotonic() + self._seconds
        while left:
            try:
                part = self._connection.recv(left)
            except OSError as error:
                raise WireError(why(error)) from None
            if not part:
                raise WireError("the other end closed the connection")
            if time.monotonic() > until:  # an occasional byte is no progress
                raise WireError(f"{length} bytes took longer than {self._seconds:g} s")
            parts.append(part)
            left -= len(part)
        return b"".join(parts)


def why(error: OSError) -> str:
    """An error of a connection in words.

    >>> why(TimeoutError())
    'nothing answers: dropped on the way (a firewall), or no such machine'
    """
    if isinstance(error, TimeoutError):
        return "nothing answers: dropped on the way (a firewall), or no such machine"
    if isinstance(error, ConnectionRefusedError):
        return "refused: the machine is there, and nobody listens (or a firewall rejects)"
    return error.strerror or str(error)


def door(address: str) -> socket.socket:
    """A listening socket at ``address``, at a port chosen by the kernel."""
    return socket.create_server((address, 0), family=socket.AF_INET6 if ":" in address else socket.AF_INET)


def can_reach(host: str, port: int, seconds: float) -> str | None:
    """The reason why a connection to ``host:port`` fails within ``seconds``; None if it succeeds."""
    try:
        socket.create_connection((host, port), timeout=seconds).close()
    except OSError as error:
        return why(error)
    return None


def shown_secret(secret: str | None, who: str, nonces: bytes) -> str:
    """A proof that this end knows the secret; empty without one.

    >>> shown_secret(None, "server", b""), len(shown_secret("s", "server", b"n"))
    ('', 64)
    """
    if secret is None:
        return ""
    return keyed_digest(secret, b"gcdist doctor", who.encode(), nonces).hex()
