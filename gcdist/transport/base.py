"""The common part of all links: queue, beats, events, and an end that is reported exactly once.

A kind of link adds its threads (`BaseLink._loops`), their wake-up at the end (`_sever`) and the release of resources
after the last of them (`_release`). The process's watch judges silence.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from gcdist.memory import recycler
from gcdist.transport.channel import ChannelError, one_line
from gcdist.transport.events import Down, Emit, Event, Sent, Silent
from gcdist.transport.framing import (
    BEAT,
    BYE,
    FIRST_INTERNAL,
    HELLO_BYTES,
    MIN_PIECE_BYTES,
    PIECE_BYTES,
    Frame,
    FrameError,
    Header,
    check_frame,
)
from gcdist.transport.threads import ends_with_process, join_all, spawn
from gcdist.transport.watch import watch
from gcdist.types import U8

CLOSING_SECONDS = 1.0  # for the other end to answer a goodbye

_serial = itertools.count()


@dataclass(frozen=True, slots=True)
class LinkSettings:
    """Times in seconds, sizes in bytes. A link that moves less than ``piece_bytes`` in ``piece_timeout`` is lost."""

    beat: float = 1.0
    silent_after: float = 5.0
    lost_after: float = 10.0
    piece_timeout: float = 10.0
    piece_bytes: int = PIECE_BYTES
    max_bytes: int = 2 << 30
    connect_timeout: float = 10.0

    def __post_init__(self) -> None:
        for name in ("beat", "piece_timeout", "connect_timeout"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be positive")
        if not self.beat < self.silent_after < self.lost_after:
            raise ValueError(
                f"beat {self.beat}, silent_after {self.silent_after}, lost_after {self.lost_after}: must be in rising order"
            )
        if not MIN_PIECE_BYTES <= self.piece_bytes < 1 << 31:
            raise ValueError(f"piece_bytes is {self.piece_bytes}; allowed are {MIN_PIECE_BYTES} to {(1 << 31) - 1}")
        if self.max_bytes < 0:
            raise ValueError(f"max_bytes is {self.max_bytes}; it must not be negative")


class Item(NamedTuple):
    """A frame that waits to be sent."""

    frame: Frame
    newest: bool = False
    note: object | None = None


Loop = tuple[Callable[[], None], Callable[[], None]]  # a thread's work, and its clean-up after the end


class BaseLink:
    """A `Link` without its bytes. Events flow from `start` on, through ``emit``, from the link's threads.

    ``allocate`` gives the array for a body's data, of exactly the length asked; a received array belongs to the holder
    of the frame. Frames posted before `start` wait; frames posted after the end are dropped.
    """

    def __init__(
        self,
        emit: Emit,
        settings: LinkSettings,
        *,
        name: str = "",
        allocate: Callable[[int], U8] | None = None,
    ) -> None:
        self.name = name or f"link-{next(_serial)}"
        self.settings = settings
        self._emit_event = emit
        self._allocate = allocate or recycler.take
        self._telling = threading.RLock()  # serializes the events of a link; Down is the last
        self._down = False
        self._silent = False
        self._heard = time.monotonic()
        self._wake = threading.Condition()  # guards the next four
        self._queue: deque[Item] = deque()
        self._closing: str | None = None  # the reason given to close()
        self._dead = False  # the pair is gone
        self._running = 0
        self._gone = threading.Event()  # set with _dead
        self._mute_until = 0.0  # injected faults: see hinder
        self._slow_until = self._rate = 0.0
        self._sever_at = float("inf")
        self._threads: list[threading.Thread] = []
        self._started = threading.Event()
        self._in_headers = self._in_pieces = self._out = self._data_in = self._data_out = 0

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"

    # added by each kind of link

    def _loops(self) -> dict[str, Loop]:
        """The link's threads, by name."""
        raise NotImplementedError

    def _sever(self) -> None:
        """Wake all waits for the other end; called at the end of the link, maybe more than once."""
        raise NotImplementedError

    def _release(self) -> None:
        """All threads have ended: free their resources."""
        raise NotImplementedError

    @property
    def bytes_in(self) -> int:
        """All bytes received: headers, beats, bodies."""
        return self._in_headers + self._in_pieces

    @property
    def bytes_out(self) -> int:
        """All bytes sent."""
        return self._out

    @property
    def data_in(self) -> int:
        """Bytes of data received in whole frames."""
        return self._data_in

    @property
    def data_out(self) -> int:
        """Bytes of data sent in whole frames."""
        return self._data_out

    def start(self) -> None:
        """Begin to receive, send and beat."""
        self._heard = time.monotonic()
        loops = self._loops()
        self._running = len(loops)
        watch.add(self)
        ends_with_process(self)
        self._threads = [spawn(f"{self.name}-{what}", self._thread, *loop) for what, loop in loops.items()]
        self._started.set()

    def post(self, frame: Frame, *, newest: bool = False, note: object | None = None) -> None:
        """Queue ``frame``; never blocks. ValueError if it cannot be sent (see `Frame`).

        ``newest``: this frame replaces a waiting frame of its kind that was also posted as newest (the note of the
        replaced one is never `Sent`). ``note``: `Sent` follows when the frame has left.
        """
        check_frame(frame, self.settings.max_bytes)
        item = Item(frame, newest, note)
        with self._wake:
            if self._dead or self._closing is not None:
                return
            if newest:
                for i, waiting in enumerate(self._queue):
                    if waiting.newest and waiting.frame.kind == frame.kind:
                        self._queue[i] = item
                        return
            self._queue.append(item)
            self._wake.notify()

    def close(self, reason: str, drain_seconds: float = 0.0) -> None:
        """End the link and tell the other end why; never blocks, and only the first call counts.

        `Down` comes at once; with ``drain_seconds``, after the last queued frame or after that time.
        """
        with self._wake:
            if self._dead or self._closing is not None:
                return
            self._closing = reason
            if drain_seconds <= 0:
                self._queue.clear()
            self._queue.append(Item(Frame(BYE, meta=np.frombuffer(reason.encode()[:HELLO_BYTES], np.uint8))))
            self._sever_at = time.monotonic() + max(0.0, drain_seconds) + CLOSING_SECONDS
            self._wake.notify()
        if drain_seconds <= 0:
            self._tell(Down(self, reason))
        watch.poke()

    def hinder(self, until: float, rate: float | None = None) -> None:
        """An injected fault, until then (monotonic): send at ``rate`` bytes a second; None: send and take nothing."""
        if rate is None:
            self._mute_until = until
        else:
            self._slow_until, self._rate = until, rate

    def join(self, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds after the end for the end of all threads; whether they have ended."""
        until = time.monotonic() + timeout
        return self._started.wait(timeout) and join_all(self._threads, until - time.monotonic())

    def abandon(self) -> None:
        """End the link without a goodbye."""
        self._finish("this process is ending")

    def judge(self, now: float) -> float:
        """Silence and closing times, for the process's watch."""
        quiet = now - self._heard
        if now >= self._sever_at:
            self._finish(self._closing or "closed")
        elif quiet >= self.settings.lost_after:
            self._finish(f"nothing heard for {quiet:.1f} s")
        elif quiet >= self.settings.silent_after and not self._silent:
            with self._telling:
                self._silent = True
                self._tell(Silent(self, quiet))
        limit = self.settings.lost_after if self._silent else self.settings.silent_after
        again = now + self.settings.silent_after  # a link that was heard meanwhile may be silent again by then
        return again if self._dead else min(again, self._sever_at, self._heard + limit)

    # shared by all threads

    def _thread(self, loop: Callable[[], None], settle: Callable[[], None]) -> None:
        try:
            loop()
        except ChannelError as error:
            self._finish(self._closing or f"connection lost: {error}")
        except FrameError as error:
            self.close(str(error))
        except BaseException as error:
            self._finish(f"failed at this end: {one_line(error)}")
            raise
        finally:
            settle()
            del loop, settle  # they hold the connection
            with self._wake:
                self._running -= 1
                last = self._running == 0
            if last:
                self._release()
                watch.remove(self)

    def _tell(self, event: Event) -> None:
        with self._telling:
            if not self._down:
                self._down = isinstance(event, Down)
                self._emit_event(event)

    def _finish(self, reason: str) -> None:
        """The connection has ended: emit `Down`, close it, let the threads end."""
        self._tell(Down(self, reason))
        self._gone.set()
        with self._wake:
            self._dead = True
            self._queue.clear()
            self._wake.notify()
        self._sever()

    def _cut(self) -> None:
        """Wait until an injected cut is over."""
        if (left := self._mute_until - time.monotonic()) > 0:
            self._gone.wait(left)

    def _hear(self) -> None:
        self._heard = time.monotonic()
        if self._silent:
            with self._telling:
                self._silent = False
                self._tell(Silent(self, 0.0))

    def _leaves(self, header: Header, frame: Frame) -> bool:
        """Whether a received frame ended the link; FrameError if no link may send it."""
        if header.kind == BYE and header.whole:
            reason = b"" if frame.meta is None else frame.meta.tobytes()
            self._finish(f"closed by the other end: {reason.decode(errors='replace')}")
            return True
        if header.kind >= FIRST_INTERNAL:
            raise FrameError(f"unexpected frame of kind {header.kind}")
        return False

    # sender

    def _next(self) -> Item | None:
        """The next frame to send, a beat when it is due, or None at the end."""
        beat_at = time.monotonic() + self.settings.beat
        with self._wake:
            while not self._dead:
                if self._queue:
                    return self._queue.popleft()
                if self._closing is not None:
                    return None  # the goodbye has left
                if (idle := beat_at - time.monotonic()) <= 0:
                    return Item(Frame(BEAT))
                self._wake.wait(idle)
        return None

    def _left(self, item: Item) -> None:
        """All bytes of a frame have left."""
        self._data_out += 0 if item.frame.data is None else len(item.frame.data)
        if item.note is not None:
            self._tell(Sent(self, item.note))

    def _count_out(self, piece: U8) -> None:
        self._out += len(piece)
        if time.monotonic() < self._slow_until:
            self._gone.wait(len(piece) / self._rate)
