"""A worker's way to its link on the TLS plane: it calls the master's port, both authenticate, it sends its hello."""

from __future__ import annotations

import select
import socket
import ssl
import time
from collections.abc import Callable

import numpy as np

from gcdist.transport.base import LinkSettings
from gcdist.transport.channel import ChannelError, one_line
from gcdist.transport.events import Emit
from gcdist.transport.framing import (
    HEADER_BYTES,
    HELLO,
    HELLO_BYTES,
    MESSAGE_BYTES,
    WELCOME,
    Frame,
    FrameError,
    decode,
    encode,
)
from gcdist.transport.handshake import RefusedError
from gcdist.transport.store import JoinError
from gcdist.transport.tls_credentials import Credentials
from gcdist.transport.tls_link import TlsLink, Wire, prepare
from gcdist.types import U8

KNOCK_SECONDS = 0.1  # between two calls while nobody listens yet
ALERT_SECONDS = 2.0  # a master's refusal comes within a round trip and a turn of its door


def tls_join(
    host: str,
    port: int,
    credentials: Credentials,
    hello: bytes,
    emit: Emit,
    settings: LinkSettings,
    timeout: float = 60.0,
    *,
    allocate: Callable[[int], U8] | None = None,
) -> tuple[TlsLink, int]:
    """Join the run as a worker: the running link and this life's ticket.

    Waits up to ``timeout`` seconds for a listener. ``hello`` (at most 16 KiB) is handed to the master. Events may
    come before this returns. In one line: JoinError if no master answers (trying again is safe), RefusedError if either
    end's certificate is refused.
    """
    if len(hello) > HELLO_BYTES:
        raise ValueError(f"hello has {len(hello)} bytes; at most {HELLO_BYTES} are allowed")
    connection = _call(host, port, settings.connect_timeout, timeout)
    try:
        prepare(connection)
        wire = _shaken(connection, credentials, host, port, settings.connect_timeout)
        ticket = _greet(wire, credentials, hello)
    except OSError as error:
        connection.close()
        raise JoinError(f"no link to the master at {host}:{port}: {error.strerror or one_line(error)}") from None
    except (ChannelError, FrameError) as error:
        connection.close()
        raise JoinError(f"no link to the master at {host}:{port}: {error}") from None
    except BaseException:
        connection.close()
        raise
    link = TlsLink(wire, emit, settings, name=f"master-{ticket}", allocate=allocate)
    link.start()
    return link, ticket


def prove(host: str, port: int, credentials: Credentials, seconds: float) -> None:
    """Let both ends prove themselves, and hang up: the master counts a caller that said nothing.

    In one line: JoinError if no master answers within ``seconds``, RefusedError if either end's certificate is refused.
    """
    connection = _call(host, port, seconds, seconds)
    try:
        wire = _shaken(connection, credentials, host, port, seconds)
        _await_alert(wire, connection, credentials)
    except OSError as error:
        raise JoinError(f"no master at {host}:{port}: {error.strerror or one_line(error)}") from None
    except ChannelError as error:
        raise JoinError(f"no master at {host}:{port}: {error}") from None
    finally:
        connection.close()


def _await_alert(wire: Wire, connection: socket.socket, credentials: Credentials) -> None:
    """In TLS 1.3 a refusal comes after the handshake has ended here; silence is none."""
    if not select.select([connection], [], [], ALERT_SECONDS)[0]:
        return
    try:
        wire.receive(memoryview(bytearray(1)))
    except ChannelError as error:
        if isinstance(error.__cause__, ssl.SSLError):
            raise RefusedError(f"refused by the master: {credentials.explain(error.__cause__)}") from None
        raise


def _call(host: str, port: int, seconds: float, timeout: float) -> socket.socket:
    """A connection to the first listener; each try takes at most ``seconds``, all of them ``timeout``."""
    until = time.monotonic() + timeout
    while True:
        left = until - time.monotonic()
        try:
            connection = socket.create_connection((host, port), timeout=max(0.1, min(seconds, left)))
        except OSError as error:
            if time.monotonic() + KNOCK_SECONDS > until:
                why = error.strerror or one_line(error)
                raise JoinError(f"no master answers at {host}:{port} within {timeout:g} s: {why}") from None
            time.sleep(KNOCK_SECONDS)
        else:
            connection.settimeout(seconds)
            return connection


def _shaken(connection: socket.socket, credentials: Credentials, host: str, port: int, seconds: float) -> Wire:
    """The wire, once the master has proved itself."""
    tls, incoming, outgoing = credentials.wrap()
    until = time.monotonic() + seconds  # a limit for the whole handshake, against a peer that sends it byte by byte
    while True:
        done = False
        try:
            tls.do_handshake()
            done = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLCertVerificationError as error:
            if outgoing.pending:
                connection.sendall(outgoing.read())  # the alert: the master may log it
            raise RefusedError(
                f"the master at {host}:{port} does not prove itself: {credentials.explain(error)}"
            ) from None
        except ssl.SSLError as error:  # nothing is proved yet, so the answer may be anybody's
            raise ChannelError(
                f'{credentials.explain(error)} (is cluster.transport "tls" at the master, too?)'
            ) from None
        if outgoing.pending:
            connection.sendall(outgoing.read())
        if done:
            return Wire(connection, tls, incoming, outgoing)
        if time.monotonic() > until:
            raise ChannelError("the handshake took too long")
        came = connection.recv(MESSAGE_BYTES)
        if not came:
            raise ChannelError('it hung up (is cluster.transport "tls" at the master, too?)')
        incoming.write(came)


def _greet(wire: Wire, credentials: Credentials, hello: bytes) -> int:
    """Send the hello, receive the welcome; the ticket. The master is authenticated, so its answers are its own."""
    message, _ = encode(Frame(HELLO, b"", np.frombuffer(hello, np.uint8)))
    answer = np.zeros(HEADER_BYTES, np.uint8)
    wire.send(message.data)
    try:
        wire.receive(answer.data)
    except ChannelError as error:
        if isinstance(error.__cause__, ssl.SSLError):
            raise RefusedError(f"refused by the master: {credentials.explain(error.__cause__)}") from None
        raise
    header = decode(answer, 0)
    if header.kind != WELCOME or not header.whole or len(header.head) != 8:
        raise FrameError(f"the master's first frame is of kind {header.kind}, not a welcome")
    return int.from_bytes(header.head)
