"""A worker's port to the real master: one link at a time, made anew as often as needed."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable

from gcdist.exchange.injected_faults import Orders, described, strike_process, throttle_process
from gcdist.exchange.link_frames import bytes_of, link_settings, short_text, text_of
from gcdist.exchange.message import Message
from gcdist.exchange.setup import Setup
from gcdist.exchange.sidecar import Sidecar
from gcdist.protocol.codec import (
    CodecError,
    Kind,
    pack_credit,
    pack_failed,
    pack_head,
    pack_hello,
    unpack_fault,
    unpack_round,
    unpack_step,
    unpack_welcome,
)
from gcdist.protocol.messages import Head
from gcdist.protocol.worker_io import (
    Announced,
    Linked,
    LinkLost,
    Refused,
    Released,
    RoundIn,
    SendCredit,
    SendFailed,
    SendLeaving,
    SentRow,
    WorkerEvent,
)
from gcdist.transport import Down, Event, Frame, In, JoinError, Link, Plane, RefusedError, Sent
from gcdist.worker.inbox_port import InboxPort
from gcdist.worker.log import WorkerLog

FAREWELL_SECONDS = 2.0  # that the last words have to leave
_LOG = object()  # the note of a frame of the log


class WorkerLinks(InboxPort):
    """A worker's port: one link at a time."""

    def __init__(self, setup: Setup, plane: Plane, name: str, worker: int) -> None:
        super().__init__()
        self.slot = -1
        self.ever_linked = False
        self._plane = plane
        self._settings = link_settings(setup)
        self._timeout = setup.config.cluster.join_timeout
        self._hello = pack_hello(setup.hello(name, worker))
        self._link: Link | None = None
        self.orders = Orders(setup.delays)
        self.obeyed = {fault.kind for fault in setup.config.faults}
        self._cut_until = self._slow_until = self._rate = 0.0
        self._over = threading.Event()
        self._down = threading.Event()  # of the last link
        self.log = WorkerLog(name, lambda text: self._post(Frame(Kind.LOG, meta=bytes_of(text)), _LOG))
        self.last_words: Callable[[], str] | None = None  # the log's last line

    def send(self, head: Head, body: Message) -> None:
        """Post a message; SentRow comes when its last byte is taken."""
        leaving = self.orders.outgoing(head, body)
        for left, out in zip(range(len(leaving) - 1, -1, -1), leaving, strict=True):
            sidecar = out.body.sidecar
            assert not isinstance(sidecar, Sidecar)  # packed, as nobody asked for less
            frame = Frame(out.kind, pack_head(out.head), sidecar, out.body.payload, out.digest)
            self._post(frame, None if left else (head.step, head.row))

    def tell(self, instruction: SendCredit | SendFailed | SendLeaving) -> None:
        """Post a small message."""
        match instruction:
            case SendCredit(step=step, why=why, held=held):
                self._post(Frame(Kind.CREDIT, pack_credit(step, why, held)))
            case SendFailed(step=step, partition=partition, text=text):
                text = short_text(text)
                self._post(Frame(Kind.FAILED, pack_failed(step, partition), bytes_of(text)))
                self.log.say(text)
            case SendLeaving():
                self._post(Frame(Kind.LEAVING))

    def connect(self, after: float) -> None:
        """Make a new link in a thread of its own."""
        threading.Thread(target=self._connect, args=(after,), name="gcdist-connect", daemon=True).start()

    def close(self) -> None:
        """End the link when the last words have left it, and any attempt to make one."""
        self._over.set()
        if self._link is not None:
            self._part("the worker ends")
            self._down.wait(2 * FAREWELL_SECONDS)  # a process that ends now would take them along

    def _part(self, reason: str) -> None:
        """Say the last words and let the link go when they have left; idempotent, and never blocks."""
        if self.last_words is not None:
            self.log.last(self.last_words())
            self.last_words = None
        link = self._link
        if link is not None:
            link.close(reason, FAREWELL_SECONDS)

    def _post(self, frame: Frame, note: object | None = None) -> None:
        link = self._link
        if link is not None:
            link.post(frame, note=note)

    def _connect(self, after: float) -> None:
        if self._over.wait(max(after, self._cut_until - self.now())):
            return
        if self.ever_linked and self._plane.is_over():
            self.inbox.put(Released)
            return
        try:
            link, _ = self._plane.join(self._hello, self._emit, self._settings, self._timeout)
            link.hinder(self._slow_until, self._rate)
        except RefusedError as error:
            refused = str(error)
            # whoever took the master's address can refuse: that must not end a worker that was in the run
            make = LinkLost if self.ever_linked else Refused
            self.inbox.put(lambda at: make(at, refused))
        except JoinError as error:
            reason = str(error)
            self.inbox.put(lambda at: LinkLost(at, reason))
        except Exception as error:  # this thread's end in silence would leave the worker waiting for ever
            failed = f"joining failed: {type(error).__name__}: {error}"
            self.inbox.put(lambda at: LinkLost(at, failed))

    def _emit(self, event: Event) -> None:
        if self._link is None:  # the first event of a new link may come before join() returns
            self._link = event.link
            self._down.clear()
        if event.link is not self._link:
            return
        match event:
            case In(link=link, frame=frame, fault=fault):
                try:
                    if fault is not None:
                        raise CodecError(fault)
                    if frame.kind == Kind.FAULT:
                        self._suffer(link, frame)
                        return
                    make = self._translated(frame)
                except CodecError as error:
                    link.close(f"the master's bytes are no message: {error}")
                    return
                if frame.kind == Kind.REFUSE and self.ever_linked:
                    link.close(f"the master refuses: {text_of(frame)}")  # it may be an impostor: join again
                    return
                self.inbox.put(make)
                if frame.kind == Kind.WELCOME:
                    self.log.ready()
                elif frame.kind == Kind.RELEASE:  # not when it is handled: the worker may be in a long partition
                    self._part("released")
            case Sent(note=note) if note is _LOG:
                self.log.ready()
            case Sent(note=(int() as step, int() as row)):
                self.inbox.put(lambda at: SentRow(at, step, row))
            case Down(reason=reason):
                self._link = None
                self._down.set()
                self.log.lost()
                self.inbox.put(lambda at: LinkLost(at, reason))

    def _suffer(self, link: Link, frame: Frame) -> None:
        """Do an injected fault to oneself, if the settings name its kind."""
        step, fault = unpack_step(frame.head), unpack_fault(text_of(frame).encode())
        if fault.kind not in self.obeyed:
            raise CodecError(f'it asks for the fault "{fault.kind}", which these settings do not have')
        print(f"gcdist {described(fault, self.slot + 1)}", file=sys.stderr, flush=True)
        until = self.now() + (fault.seconds or 0.0)
        match fault.kind:
            case "kill" | "stop":
                strike_process(fault)
            case "cut":
                self._cut_until = until
                link.hinder(until)
            case "slow":
                self._slow_until, self._rate = until, fault.rate or 1.0
                link.hinder(until, self._rate)
            case "corrupt" | "delay":
                self.orders.take(step, fault)
            case "throttle":
                throttle_process(fault)

    def _translated(self, frame: Frame) -> Callable[[float], WorkerEvent]:
        match frame.kind:
            case Kind.ANNOUNCE:
                step = unpack_step(frame.head)
                return lambda at: Announced(at, step)
            case Kind.ROUND:
                if frame.meta is None or frame.data is None:
                    raise CodecError("a round without its parameters")
                sent = unpack_round(frame.meta.tobytes())
                return lambda at: RoundIn(at, sent, frame.data)
            case Kind.WELCOME:
                self.slot, inc = unpack_welcome(frame.head)
                self.ever_linked = True
                return lambda at: Linked(at, inc)
            case Kind.REFUSE:
                return lambda at: Refused(at, text_of(frame))
            case Kind.RELEASE:
                return Released
        raise CodecError(f"kind {frame.kind} is not for a worker")
