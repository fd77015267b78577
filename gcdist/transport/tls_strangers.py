"""Callers without a proof: limits of their cost, and their way to an authenticated hello.

A caller may hold one descriptor, `STRANGER_BYTES` of input and a few seconds; all of them together `MOST_STRANGERS`
descriptors, `HANDSHAKES_A_SECOND` of processor time and `CALLS_A_SECOND` accepts. If there are too many, the address
with the most callers loses its oldest one. The next handshake goes to the newest caller of the address with the fewest
handshakes. So a flood from one address keeps no other address out, and some callers behind the same NAT get through.
All of it runs in one thread without blocking; this module has neither the thread nor the clock.
"""

from __future__ import annotations

import socket
import ssl
from collections import Counter

import numpy as np

from gcdist.transport.framing import (
    HEADER_BYTES,
    HELLO,
    HELLO_BYTES,
    MESSAGE_BYTES,
    FrameError,
    decode,
    digest,
    fault,
    inline_frame,
)
from gcdist.transport.tls_credentials import Credentials
from gcdist.transport.tls_link import Wire

MOST_STRANGERS = 256
STRANGER_BYTES = 64 << 10  # certificates and a hello take 20 KiB at most
HANDSHAKES_A_SECOND = 50.0  # about 1 ms of processor time each
HANDSHAKES_AT_ONCE = 256.0
CALLS_A_SECOND = 200.0
CALLS_AT_ONCE = 1000.0
TAKE_BYTES = 16 << 10
_OTHER_LANGUAGES = {  # OpenSSL's reasons
    "HTTP_REQUEST",
    "HTTPS_PROXY_REQUEST",
    "PACKET_LENGTH_TOO_LONG",
    "UNEXPECTED_MESSAGE",
    "UNSUPPORTED_PROTOCOL",
    "VERSION_TOO_LOW",
    "WRONG_VERSION_NUMBER",
}


class StrangerError(Exception):
    """A caller is turned away; the text is one line without its address."""


class Allowance:
    """A token bucket: ``rate`` a second, and more at once after a rest.

    >>> allowance = Allowance(2.0, 3.0, now=0.0)
    >>> [allowance.take(0.0) for _ in range(4)], allowance.ready_at(0.0), allowance.take(0.5)
    ([True, True, True, False], 0.5, True)
    """

    def __init__(self, rate: float, most: float, now: float) -> None:
        self._rate, self._most = rate, most
        self._left, self._at = most, now

    def _fill(self, now: float) -> None:
        self._left = min(self._most, self._left + (now - self._at) * self._rate)
        self._at = now

    def take(self, now: float) -> bool:
        """Take a token, if there is one."""
        self._fill(now)
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True

    def ready_at(self, now: float) -> float:
        """The time of the next token."""
        self._fill(now)
        return now + max(0.0, 1.0 - self._left) / self._rate


class Stranger:
    """One caller, until its hello is in."""

    def __init__(self, connection: socket.socket, address: str, until: float) -> None:
        self.connection = connection
        self.address = address
        self.until = until
        self.leaving = False  # the reason was sent; only its own close is outstanding
        self._first = bytearray()  # bytes of an incomplete client hello, which cost no computing
        self._tls: ssl.SSLObject | None = None
        self._taken = 0
        self._hello = bytearray()
        self._proven = False

    @property
    def asks(self) -> bool:
        """Whether its client hello is complete and unanswered; the answer costs processor time."""
        return self._tls is None and self._is_hello and len(self._first) >= self._hello_bytes

    @property
    def _is_hello(self) -> bool:
        return self._first[:1] == b"\x16"

    @property
    def _hello_bytes(self) -> int:
        """Of the first record; at most a record's most."""
        return 5 + min(int.from_bytes(self._first[3:5]), 1 << 14) if len(self._first) >= 5 else 5

    @property
    def doing(self) -> str:
        """Its progress, for the log."""
        if self._proven:
            return "proved itself and said nothing"
        return "did not finish its handshake" if self._taken else "said nothing"

    def pull(self) -> None:
        """Read its bytes; OSError if it has gone."""
        came = self.connection.recv(TAKE_BYTES)
        if not came:
            raise ConnectionResetError
        self._taken += len(came)
        if self.leaving and self._taken > STRANGER_BYTES:
            raise ConnectionResetError
        if self._tls is None:
            self._first += came
        else:
            self._incoming.write(came)

    def answer(self, credentials: Credentials) -> bytes | None:
        """Answer the bytes so far; returns its hello once that is complete.

        StrangerError if it must go (the reason was sent to it, if it speaks TLS), OSError if it has gone.
        """
        if self.leaving:
            return None
        if self._tls is None:
            if self._is_hello and not self.asks:
                return None
            self._tls, self._incoming, self._outgoing = credentials.wrap()
            self._incoming.write(bytes(self._first))
            self._first.clear()
        try:
            hello = self._advance(self._tls)
        except ssl.SSLError as error:
            self._send_answer()  # the alert
            if not self._proven and error.reason in _OTHER_LANGUAGES:
                raise StrangerError("it does not speak TLS 1.3") from None
            raise StrangerError(credentials.explain(error)) from None
        except FrameError as error:
            raise StrangerError(f"its hello cannot be read: {error}") from None
        self._send_answer()
        if hello is None and self._taken > STRANGER_BYTES:
            raise StrangerError(f"it sent more than {STRANGER_BYTES} bytes before its hello was in")
        return hello

    def _send_answer(self) -> None:
        if self._outgoing.pending:
            answer = self._outgoing.read()
            if self.connection.send(answer) != len(answer):
                raise ConnectionResetError  # a few KiB always fit, unless it takes nothing

    def _advance(self, tls: ssl.SSLObject) -> bytes | None:
        try:
            if not self._proven:
                tls.do_handshake()
                self._proven = True
            while (wanted := self._wanted()) > 0:
                got = tls.read(wanted)
                if not got:
                    raise ConnectionResetError
                self._hello += got
        except ssl.SSLWantReadError:
            return None
        message = np.frombuffer(bytes(self._hello), np.uint8)
        header = decode(message, 0)
        frame = inline_frame(header, message)
        wrong = fault(header, digest(frame.meta), digest(frame.data))
        if header.kind != HELLO or wrong is not None:
            raise FrameError(wrong or f"first frame is of kind {header.kind}, not a hello")
        return b"" if frame.meta is None else frame.meta.tobytes()

    def _wanted(self) -> int:
        """Missing bytes of the hello."""
        have = len(self._hello)
        if have < HEADER_BYTES:
            return HEADER_BYTES - have
        header = decode(np.frombuffer(bytes(self._hello[:HEADER_BYTES]), np.uint8), 0)
        if not header.whole or (header.meta_bytes or 0) > HELLO_BYTES:
            raise FrameError(f"first frame has {header.meta_bytes} bytes; at most {HELLO_BYTES} are allowed")
        return min(HEADER_BYTES + sum(header.inline), MESSAGE_BYTES) - have

    def wire(self) -> Wire:
        """Its connection, once its hello is complete."""
        assert self._tls is not None
        return Wire(self.connection, self._tls, self._incoming, self._outgoing)


class Callers:
    """All waiting callers, and their order. ``now`` in seconds of any clock."""

    def __init__(self, now: float) -> None:
        self.all: dict[int, Stranger] = {}  # by descriptor, oldest first
        self.calls = Allowance(CALLS_A_SECOND, CALLS_AT_ONCE, now)
        self.handshakes = Allowance(HANDSHAKES_A_SECOND, HANDSHAKES_AT_ONCE, now)
        self._waiting: dict[int, Stranger] = {}  # for a handshake
        self._begun: Counter[str] = Counter()  # handshakes by address
        self._forget_at = now

    def add(self, stranger: Stranger) -> Stranger | None:
        """Add a caller; returns the callers that must go for it."""
        self.all[stranger.connection.fileno()] = stranger
        if len(self.all) <= MOST_STRANGERS:
            return None
        most = Counter(other.address for other in self.all.values()).most_common(1)[0][0]
        return next(other for other in self.all.values() if other.address == most)

    def remove(self, stranger: Stranger) -> None:
        """Remove a caller that has gone or is authenticated."""
        self.all.pop(stranger.connection.fileno(), None)
        self._waiting.pop(stranger.connection.fileno(), None)

    def may_begin(self, stranger: Stranger, now: float) -> bool:
        """Whether its handshake may begin now; else `turns` returns it at its turn."""
        if not self._waiting and self.handshakes.take(now):
            self._count(stranger, now)
            return True
        self._waiting[stranger.connection.fileno()] = stranger
        return False

    def turns(self, now: float) -> list[Stranger]:
        """Callers whose handshake may begin now: the newest of the address with the fewest begun handshakes.

        Not the oldest, because under a flood from its own address it must go before its handshake ends.
        """
        found = []
        while self._waiting and self.handshakes.take(now):
            key = min(reversed(self._waiting), key=lambda one: self._begun[self._waiting[one].address])
            found.append(self._waiting.pop(key))
            self._count(found[-1], now)
        return found

    def _count(self, stranger: Stranger, now: float) -> None:
        if now > self._forget_at:
            self._begun.clear()
            self._forget_at = now + 60.0
        self._begun[stranger.address] += 1

    def overdue(self, now: float) -> list[Stranger]:
        """Callers after their time limit."""
        return [stranger for stranger in self.all.values() if now >= stranger.until]

    def next_at(self, now: float) -> float:
        """The time of the next check."""
        due = [stranger.until for stranger in self.all.values()]
        if self._waiting:
            due.append(self.handshakes.ready_at(now))
        return min(due, default=now + 60.0)
