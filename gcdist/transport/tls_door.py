"""The master's door on the TLS plane: one port, one thread for all callers, links for authenticated ones."""

from __future__ import annotations

import errno
import itertools
import selectors
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import numpy as np

from gcdist.transport.base import LinkSettings
from gcdist.transport.channel import ChannelError, one_line
from gcdist.transport.descriptors import raise_limit
from gcdist.transport.events import Emit
from gcdist.transport.framing import WELCOME, Frame, encode
from gcdist.transport.join import OnJoin
from gcdist.transport.store import JoinError
from gcdist.transport.threads import ends_with_process, join_all, spawn
from gcdist.transport.tls_credentials import Credentials
from gcdist.transport.tls_link import TlsLink, Wire, prepare
from gcdist.transport.tls_strangers import Callers, Stranger, StrangerError
from gcdist.types import U8

BACKLOG = 1024
ACCEPT_AT_ONCE = 64  # most accepted connections between two checks of the others
LEAVING_SECONDS = 1.0  # for a refused caller to read the reason
REST_SECONDS = 0.5  # pause of accepts, after the system had no descriptor left

OnRefused = Callable[[str, str], None]  # the caller, and the reason in one line


class TlsDoor:
    """Listens on one address and builds a link for every caller that proves to belong to the run.

    ``on_join(link, ticket, hello)`` is called from a thread of its own; the link's events flow through ``emit`` only after
    it has returned (frames posted meanwhile are kept). ``on_refused(who, reason)`` is called from the door's thread.
    """

    def __init__(
        self,
        host: str,
        port: int,
        credentials: Credentials,
        on_join: OnJoin,
        emit: Emit,
        settings: LinkSettings,
        *,
        allocate: Callable[[int], U8] | None = None,
        on_refused: OnRefused = lambda who, reason: None,
    ) -> None:
        self._credentials = credentials
        self._on_join = on_join
        self._emit = emit
        self._settings = settings
        self._allocate = allocate
        self._on_refused = on_refused
        self._tickets = itertools.count(1)
        self._closed = threading.Event()
        raise_limit()
        self._listener = listen(host, port)
        self.port = int(self._listener.getsockname()[1])
        self._ear, self._bell = socket.socketpair()  # wakes the thread at the end
        self._callers = Callers(time.monotonic())
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._ear, selectors.EVENT_READ)
        self._listening = True
        self._rest_until = 0.0
        ends_with_process(self)
        self._thread = spawn("door", self._run)

    def close(self, over: bool = False) -> None:
        """Let no more workers in and free the port; existing links stay."""
        self.abandon()
        join_all([self._thread], 5.0)

    def abandon(self) -> None:
        """Let no more workers in, without waiting."""
        self._closed.set()
        with suppress(OSError):
            self._bell.send(b"x")

    # --- the door's thread ---

    def _run(self) -> None:
        try:
            while not self._closed.is_set():
                try:
                    self._turn()
                except Exception as error:  # the door stays open after any error that strangers can cause
                    self._on_refused(
                        "callers", f"the door has failed and goes on: {type(error).__name__}: {one_line(error)}"
                    )
                    self._closed.wait(REST_SECONDS)
        finally:
            for stranger in list(self._callers.all.values()):
                self._drop(stranger, None)
            self._selector.close()
            for one in (self._listener, self._ear, self._bell):
                one.close()

    def _turn(self) -> None:
        """Wait for callers, and handle due events."""
        now = time.monotonic()
        self._listen(now)
        ready = self._selector.select(max(0.0, min(self._callers.next_at(now), self._wakes(now)) - now))
        now = time.monotonic()
        for stranger in self._callers.turns(now):
            self._selector.register(stranger.connection, selectors.EVENT_READ, stranger)
            self._serve(stranger)
        for key, _ in ready:
            if key.fileobj is self._listener:
                self._accept(now)
            elif isinstance(key.data, Stranger) and key.data.connection.fileno() >= 0:
                self._hear(key.data, now)
        for stranger in self._callers.overdue(now):
            self._drop(stranger, None if stranger.leaving else f"it {stranger.doing} for too long")

    def _wakes(self, now: float) -> float:
        """The time of the next check of the listener."""
        return now + 60.0 if self._listening else max(self._rest_until, self._callers.calls.ready_at(now))

    def _listen(self, now: float) -> None:
        """Watch the listener only while callers may be accepted; the kernel queues the others."""
        wanted = now >= self._rest_until and self._callers.calls.ready_at(now) <= now
        if wanted != self._listening:
            self._listening = wanted
            if wanted:
                self._selector.register(self._listener, selectors.EVENT_READ)
            else:
                self._selector.unregister(self._listener)

    def _accept(self, now: float) -> None:
        for _ in range(ACCEPT_AT_ONCE):
            if not self._callers.calls.take(now):
                return
            try:
                connection, address = self._listener.accept()
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    self._rest_until = now + REST_SECONDS
                    self._on_refused("callers", f"none can be taken in: {error.strerror}")
                elif error.errno not in (errno.EAGAIN, errno.EWOULDBLOCK):
                    continue  # this one has gone already
                return
            connection.setblocking(False)
            stranger = Stranger(connection, str(address[0]), now + self._settings.connect_timeout)
            self._selector.register(connection, selectors.EVENT_READ, stranger)
            if (out := self._callers.add(stranger)) is not None:
                self._drop(out, "there are too many callers at one time")

    def _hear(self, stranger: Stranger, now: float) -> None:
        try:
            stranger.pull()
        except BlockingIOError:
            return
        except OSError:
            self._drop(stranger, None if stranger.leaving else f"it {stranger.doing} and went")
            return
        if not stranger.asks or self._callers.may_begin(stranger, now):
            self._serve(stranger)
        else:
            self._selector.unregister(stranger.connection)  # until it is its turn

    def _serve(self, stranger: Stranger) -> None:
        try:
            hello = stranger.answer(self._credentials)
        except StrangerError as error:
            self._on_refused(stranger.address, str(error))
            self._see_off(stranger)
        except OSError:
            self._drop(stranger, None if stranger.leaving else f"it {stranger.doing} and went")
        except Exception as error:  # an error that a caller can cause ends that caller alone
            self._drop(stranger, f"its call failed at this end: {one_line(error)}")
        else:
            if hello is not None:
                self._selector.unregister(stranger.connection)
                self._callers.remove(stranger)
                spawn(f"join-{stranger.address}", self._admit, stranger, hello)

    def _see_off(self, stranger: Stranger) -> None:
        """Leave a refused caller time to read the reason, because a close at once could lose it."""
        stranger.leaving, stranger.until = True, time.monotonic() + LEAVING_SECONDS
        with suppress(OSError):
            stranger.connection.shutdown(socket.SHUT_WR)

    def _drop(self, stranger: Stranger, reason: str | None) -> None:
        self._callers.remove(stranger)
        with suppress(KeyError, ValueError):
            self._selector.unregister(stranger.connection)
        stranger.connection.close()
        if reason is not None:
            self._on_refused(stranger.address, reason)

    # --- a thread for each admitted caller ---

    def _admit(self, stranger: Stranger, hello: bytes) -> None:
        ticket = next(self._tickets)
        stranger.connection.settimeout(self._settings.connect_timeout)
        wire: Wire = stranger.wire()
        try:
            prepare(stranger.connection)
            message, _ = encode(Frame(WELCOME, ticket.to_bytes(8), np.zeros(0, np.uint8)))
            wire.send(message.data)
        except (ChannelError, OSError):
            wire.close()
            return  # the worker comes again if it still lives
        link = TlsLink(wire, self._emit, self._settings, name=f"worker-{ticket}", allocate=self._allocate)
        try:
            self._on_join(link, ticket, hello)
        except BaseException:
            link.close("the master failed to take the worker in")
            raise
        finally:
            link.start()


def listen(host: str, port: int) -> socket.socket:
    """A listener on that one address that does not block; JoinError."""
    listener = None
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, proto)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        if listener is not None:
            listener.close()
        raise JoinError(f"cannot listen on {host}:{port}: {error.strerror or one_line(error)}") from None
    return listener
