"""The way of a worker to its link, and back to a new one.

Keys in the store, under ``gcdist/RUN/``: ``master`` counts all masters, ``tickets`` all joins, so that a ticket is the
incarnation number. Master and worker meet in a gloo group whose prefix has both numbers and is used once, so that they
never read a stale key. Their first frames: `handshake`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from gcdist.transport.base import BaseLink, LinkSettings
from gcdist.transport.channel import Channel, ChannelError, listening_address, one_line
from gcdist.transport.descriptors import DescriptorGauge, raise_limit
from gcdist.transport.events import Emit
from gcdist.transport.framing import HELLO_BYTES, FrameError
from gcdist.transport.handshake import RefusedError, greet, receive_hello
from gcdist.transport.link import GlooLink
from gcdist.transport.store import JoinError, StoreSource
from gcdist.transport.threads import ends_with_process, join_all, spawn
from gcdist.types import U8

POLL_SECONDS = 0.05
# links being built at one time: with 64, torch 2.13 spent 10 s looking up the address of some store clients
MOST_AT_ONCE = 8
MOST_WAITING = 256  # most remembered tickets without an arrived worker
GAUGE_SECONDS = 5.0  # between two counts of the descriptors in use
PATIENCE = 3.0  # a worker's wait for its turn, in connect timeouts

OnJoin = Callable[[BaseLink, int, bytes], None]


def _meet(
    store: Any,
    run_id: str,
    master: int,
    ticket: int,
    rank: int,
    address: str,
    seconds: float,
    patience: float,
    over: Callable[[], bool] = lambda: False,
) -> Channel:
    """The channel of a ticket, if the other end comes within ``patience`` and connects within ``seconds``.

    Both ends first announce themselves in the store, because gloo's own wait is noisy and hard to bound. ``over``: no
    worker will come.
    """
    key = f"gcdist/{run_id}/link/{master}/{ticket}"
    until, pause = time.monotonic() + patience, 0.002
    try:
        store.set(f"{key}/here/{rank}", "")
        while not store.check([f"{key}/here/{1 - rank}"]):
            if over():
                raise ChannelError("the master takes nobody in any more")
            if time.monotonic() > until:
                raise ChannelError(f"nobody came within {patience:g} s")
            time.sleep(pause)
            pause = min(POLL_SECONDS, 1.5 * pause)
    except RuntimeError as error:
        raise ChannelError(one_line(error)) from None
    return Channel(store, key, rank, address, seconds)


def join(
    source: StoreSource,
    hello: bytes,
    emit: Emit,
    settings: LinkSettings,
    secret: str | None = None,
    timeout: float = 60.0,
    *,
    allocate: Callable[[int], U8] | None = None,
) -> tuple[GlooLink, int]:
    """Join the run as a worker: the running link and this life's ticket.

    Waits up to ``timeout`` seconds for a master. ``hello`` (at most 16 KiB) is handed to it. Events may come before this
    returns. In one line: JoinError if there is no master or it does not come (trying again is safe), RefusedError if the two
    ends do not know the same secret.
    """
    if len(hello) > HELLO_BYTES:
        raise ValueError(f"hello has {len(hello)} bytes; at most {HELLO_BYTES} are allowed")
    until = time.monotonic() + timeout
    store = source.client(timeout)
    keys = f"gcdist/{source.run_id}/"
    try:
        # the process's master may have ended its earlier run, and not yet begun the next one
        while not store.check([keys + "master"]) or store.check([keys + "over"]):
            if time.monotonic() > until:
                raise JoinError(
                    f"no master of run {source.run_id!r} within {timeout:g} s at {source.host}:{source.port}"
                )
            time.sleep(POLL_SECONDS)
        master = int(store.add(keys + "master", 0))
        ticket = int(store.add(keys + "tickets", 1))
    except RuntimeError as error:
        raise JoinError(f"the store at {source.host}:{source.port} failed: {one_line(error)}") from None
    try:
        address = listening_address(source.host, source.port)
        seconds = settings.connect_timeout
        over = lambda: bool(store.check([keys + "over"])) or int(store.add(keys + "master", 0)) != master  # noqa: E731
        channel = _meet(store, source.run_id, master, ticket, 1, address, seconds, PATIENCE * seconds, over)
        greet(channel, secret, source.run_id, ticket, hello, seconds)
    except (ChannelError, FrameError, OSError) as error:
        raise JoinError(f"no link to the master (ticket {ticket}): {error}") from None
    except RefusedError as error:
        refused = str(error)
    else:
        refused = ""
    if refused:  # the error's traceback would keep the pair, and this process ends soon
        channel.sever()
        del channel
        raise RefusedError(refused)
    link = GlooLink(channel, emit, settings, name=f"master-{ticket}", allocate=allocate)
    link.start()
    return link, ticket


def is_over(source: StoreSource) -> bool:
    """Whether the master has ended the run, so that no worker needs to come back. False if the store does not answer."""
    try:
        return bool(source.client(timeout=1.0).check([f"gcdist/{source.run_id}/over"]))
    except (RuntimeError, JoinError):
        return False


class Acceptor:
    """The master's door: builds a link for every ticket, each in its own thread; a failure affects that link alone.

    ``on_join(link, ticket, hello)`` is called from that thread after the proof was checked; the link's events flow through
    ``emit`` only after it has returned (frames posted meanwhile are kept). To refuse, post the reason and close the link.
    ``on_refused(ticket, reason)``: a caller does not know the secret. ``on_notice(text)``: descriptors run out.
    Its opening makes this process the run's master: workers with tickets of an earlier master join again.
    """

    def __init__(
        self,
        source: StoreSource,
        on_join: OnJoin,
        emit: Emit,
        settings: LinkSettings,
        secret: str | None = None,
        *,
        allocate: Callable[[int], U8] | None = None,
        on_refused: Callable[[int, str], None] = lambda ticket, reason: None,
        on_notice: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._source = source
        self._on_join = on_join
        self._emit = emit
        self._settings = settings
        self._secret = secret
        self._allocate = allocate
        self._on_refused = on_refused
        self._on_notice = on_notice
        self._keys = f"gcdist/{source.run_id}/"
        try:
            self._address = listening_address(source.host, source.port)
        except ChannelError as error:
            raise JoinError(str(error)) from None
        self._closed = threading.Event()
        raise_limit()
        self._places = threading.BoundedSemaphore(MOST_AT_ONCE)
        store = source.client()
        try:
            self._served = int(store.add(self._keys + "tickets", 0))
            self._master = int(store.add(self._keys + "master", 1))
            store.delete_key(self._keys + "over")
        except RuntimeError as error:
            raise JoinError(f"the store at {source.host}:{source.port} failed: {one_line(error)}") from None
        ends_with_process(self)
        self._thread = spawn("accept", self._accept, store)

    def close(self, over: bool = False) -> None:
        """Take no more tickets; links already built stay. ``over``: the run has ended, `is_over` says so from now on."""
        self._closed.set()
        join_all([self._thread], 1.0)  # it may hang in a store that does not answer
        if over:
            with suppress(RuntimeError, JoinError):
                self._source.client(timeout=1.0).set(self._keys + "over", "1")

    def abandon(self) -> None:
        """Take no more tickets, without waiting."""
        self._closed.set()

    def _is_there(self, store: Any, ticket: int) -> bool:
        return bool(store.check([f"{self._keys}link/{self._master}/{ticket}/here/1"]))

    def _accept(self, store: Any) -> None:
        waiting: dict[int, float] = {}  # tickets not yet served, newest first, and the time limit of their worker
        gauge, read_at = DescriptorGauge(), 0.0
        while not self._closed.wait(POLL_SECONDS):
            try:
                if time.monotonic() > read_at:
                    read_at = time.monotonic() + GAUGE_SECONDS
                    if (notice := gauge.read()) is not None:
                        self._on_notice(notice)
                store = self._source.client(timeout=1.0) if store is None else store
                waiting = self._served_of(store, waiting)
            except (RuntimeError, ValueError, JoinError):
                store = None  # the store is away, or has foreign values: links go on, no worker can join
                self._closed.wait(1.0)
            except Exception as error:  # the door stays open after any other error that a stranger can cause
                self._on_notice(f"the door has failed and goes on: {type(error).__name__}: {one_line(error)}")
                store = None
                self._closed.wait(1.0)

    def _served_of(self, store: Any, waiting: dict[int, float]) -> dict[int, float]:
        """Build links for the arrived workers; returns the tickets that still wait."""
        newest = int(store.add(self._keys + "tickets", 0))
        now = time.monotonic()
        # anybody who reaches the store can raise the counter, so only the newest tickets are checked
        oldest = max(self._served, newest - MOST_WAITING) + 1
        waiting = waiting | dict.fromkeys(range(oldest, newest + 1), now + self._settings.connect_timeout)
        self._served = newest
        # the newest first, because the worker of an old one may have died and must not delay others
        waiting = dict(sorted(waiting.items(), reverse=True)[:MOST_WAITING])
        with suppress(RuntimeError):
            for ticket in [ticket for ticket in waiting if self._is_there(store, ticket)]:
                if self._closed.is_set() or not self._places.acquire(blocking=False):
                    break
                del waiting[ticket]
                spawn(f"join-{ticket}", self._build, ticket)
        return {ticket: until for ticket, until in waiting.items() if until > now}

    def _build(self, ticket: int) -> None:
        seconds = self._settings.connect_timeout
        try:
            try:
                store = self._source.client()
                channel = _meet(store, self._source.run_id, self._master, ticket, 0, self._address, seconds, seconds)
                hello = receive_hello(channel, self._secret, self._source.run_id, ticket, seconds)
            except RefusedError as error:
                self._on_refused(ticket, str(error))
                return
            except (ChannelError, FrameError, JoinError):
                return  # the worker takes another ticket if it still lives
        finally:
            self._places.release()
        link = GlooLink(channel, self._emit, self._settings, name=f"worker-{ticket}", allocate=self._allocate)
        try:
            self._on_join(link, ticket, hello)
        except BaseException:
            link.close("the master failed to take the worker in")
            raise
        finally:
            link.start()
