"""Real processes: frames on links become events, instructions become frames."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

import numpy as np
import torch

from gcdist.protocol import MasterMachine, Peer, Round, WorkerMachine
from gcdist.protocol.codec import (
    CodecError,
    Kind,
    pack_credit,
    pack_failed,
    pack_head,
    pack_hello,
    pack_round,
    pack_step,
    unpack_credit,
    unpack_failed,
    unpack_head,
    unpack_hello,
    unpack_round,
    unpack_step,
)
from gcdist.protocol.master_io import (
    Admit,
    Announce,
    Arrived,
    CloseLink,
    Credit,
    Failed,
    Joined,
    Leave,
    Leaving,
    Lost,
    MasterEvent,
    MasterInstruction,
    Refuse,
    Stop,
)
from gcdist.protocol.master_io import Silent as SilentPeer
from gcdist.protocol.messages import Head, Tick
from gcdist.protocol.worker_io import (
    Announced,
    Exit,
    Linked,
    LinkLost,
    Refused,
    Released,
    RoundIn,
    SendCredit,
    SendFailed,
    SendLeaving,
    SentRow,
    Sigterm,
    WorkerEvent,
)
from gcdist.runtime.aggregate import Aggregator, Message
from gcdist.runtime.driver import MasterDriver, Say
from gcdist.runtime.inbox import Inbox
from gcdist.runtime.rows import RowMaker
from gcdist.runtime.serving import WorkerDriver
from gcdist.runtime.session import Session
from gcdist.transport import (
    Acceptor,
    Down,
    Event,
    Frame,
    In,
    JoinError,
    Link,
    LinkSettings,
    Sent,
    Silent,
    StoreSource,
    digest,
    join,
)
from gcdist.types import U8

DRAIN_SECONDS = 5.0  # a last word gets so long to leave a link that closes
_NOTHING: U8 = np.zeros(0, np.uint8)


def link_settings(session: Session) -> LinkSettings:
    """The links' timeouts from the settings."""
    cluster = session.config.cluster
    return LinkSettings(
        beat=cluster.beat,
        silent_after=cluster.silent_after,
        lost_after=cluster.lost_after,
        piece_timeout=cluster.piece_timeout,
    )


def _text(frame: Frame) -> str:
    return "" if frame.meta is None else frame.meta.tobytes().decode(errors="replace")


def _bytes(text: str | bytes) -> U8:
    return np.frombuffer(bytearray(text.encode() if isinstance(text, str) else text), np.uint8)


class MasterLinks:
    """The master's port: one link a worker, one inbox for all of them."""

    def __init__(self, session: Session, source: StoreSource) -> None:
        self.inbox: Inbox[MasterEvent] = Inbox(Tick)
        self._lock = threading.Lock()
        self._links: dict[Peer, Link] = {}
        self._peers: dict[Link, Peer] = {}
        self._slots: dict[str, int] = {}
        self._workers = session.workers
        self._bytes_in = 0  # of links that are gone
        self._bytes_out = 0
        self._digest: tuple[U8, int] | None = None
        secret = session.config.cluster.shared_secret()
        self._acceptor = Acceptor(source, self._joined, self._emit, link_settings(session), secret)

    # --- the driver's port ---

    @property
    def bytes_up(self) -> int:
        """All bytes received, headers and beats included."""
        with self._lock:
            return self._bytes_in + sum(link.bytes_in for link in self._links.values())

    @property
    def bytes_down(self) -> int:
        """All bytes sent, headers and beats included."""
        with self._lock:
            return self._bytes_out + sum(link.bytes_out for link in self._links.values())

    def now(self) -> float:
        """Monotonic seconds."""
        return self.inbox.now()

    def next(self, until: float | None) -> MasterEvent:
        """The next event; a Tick once ``until`` has passed."""
        return self.inbox.get(until)

    def tell(self, instruction: Admit | Refuse | Announce | CloseLink | Leave) -> None:
        """Post what concerns one peer; a link that is gone has reported so."""
        peer = instruction.peer
        link = self._links.get(peer)
        if link is None:
            return
        match instruction:
            case Admit():
                link.post(Frame(Kind.WELCOME, meta=_bytes(json.dumps({"worker": peer.worker, "inc": peer.inc}))))
            case Refuse(reason=reason):
                link.post(Frame(Kind.REFUSE, meta=_bytes(reason)))
                link.close(reason, DRAIN_SECONDS)
            case Announce(step=step):
                link.post(Frame(Kind.ANNOUNCE, pack_step(step)), newest=True)
            case CloseLink(reason=reason):
                link.close(reason)
            case Leave():
                link.post(Frame(Kind.RELEASE))
                link.close("released", DRAIN_SECONDS)

    def send_round(self, peer: Peer, sent: Round, state: U8) -> None:
        """Post a round; the parameters' checksum is taken once for all links."""
        if self._digest is None or self._digest[0] is not state:
            self._digest = (state, digest(state))
        link = self._links.get(peer)
        if link is not None:
            link.post(Frame(Kind.ROUND, meta=_bytes(pack_round(sent)), data=state, data_digest=self._digest[1]))

    def close(self) -> None:
        """Take nobody in any more and wait for the last words to leave."""
        self._acceptor.close()
        give_up = time.monotonic() + DRAIN_SECONDS + 1.0
        while self._links and time.monotonic() < give_up:
            self.inbox.get(time.monotonic() + 0.05)

    # --- called by the links' threads ---

    def _joined(self, link: Link, ticket: int, raw: bytes) -> None:
        try:
            hello = unpack_hello(raw)
        except CodecError as error:
            link.post(Frame(Kind.REFUSE, meta=_bytes(f"{error} (another version of gcdist?)")))
            link.close(str(error), DRAIN_SECONDS)
            return
        with self._lock:
            peer = Peer(self._slot(hello.name), ticket)
            self._links[peer] = link
            self._peers[link] = peer
        self.inbox.put(lambda at: Joined(at, peer, hello))

    def _slot(self, name: str) -> int:
        """``rankR`` is worker R - 1; other names get places in the order in which they come."""
        rank = name.removeprefix("rank")
        if rank.isdecimal():
            return int(rank) - 1
        if name not in self._slots:
            taken = {peer.worker for peer in self._links} | set(self._slots.values())
            self._slots[name] = next(i for i in range(self._workers + len(taken) + 1) if i not in taken)
        return self._slots[name]

    def _emit(self, event: Event) -> None:
        peer = self._peers.get(event.link)
        if peer is None:
            return
        match event:
            case In(link=link, frame=frame, fault=fault):
                try:
                    make = self._translated(peer, frame, fault)
                except CodecError as error:
                    link.close(f"worker {peer.rank} sent bytes that are no message: {error}")
                    return
                self.inbox.put(make)
            case Silent(seconds=seconds):
                self.inbox.put(lambda at: SilentPeer(at, peer, seconds))
            case Down(link=link, reason=reason):
                with self._lock:
                    self._bytes_in += link.bytes_in
                    self._bytes_out += link.bytes_out
                    del self._links[peer], self._peers[link]
                self.inbox.put(lambda at: Lost(at, peer, reason))
            case Sent():
                pass

    @staticmethod
    def _translated(peer: Peer, frame: Frame, fault: str | None) -> Callable[[float], MasterEvent]:
        match frame.kind:
            case Kind.MESSAGE:
                head = unpack_head(frame.head)
                payload = _NOTHING if frame.data is None else frame.data
                body = Message(payload, _NOTHING if frame.meta is None else frame.meta, ())
                return lambda at: Arrived(at, peer, head, body, fault)
            case Kind.CREDIT:
                step, why = unpack_credit(frame.head)
                return lambda at: Credit(at, peer, step, why)
            case Kind.FAILED:
                failed, partition = unpack_failed(frame.head)
                return lambda at: Failed(at, peer, failed, partition, _text(frame))
            case Kind.LEAVING:
                return lambda at: Leaving(at, peer)
        raise CodecError(f"kind {frame.kind} is not for the master")


def on_signals(act: Callable[[str, int], None]) -> Callable[[], None]:
    """Call ``act(name, number)`` on the first SIGINT or SIGTERM; a second one does what it did before. Returns the undo.

    Only the main thread can listen to signals; elsewhere this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        return lambda: None
    wanted = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in wanted}

    def undo() -> None:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)

    def handle(number: int, frame: FrameType | None) -> None:
        undo()
        act(signal.Signals(number).name, number)

    for number in wanted:
        signal.signal(number, handle)
    return undo


def real_master(
    session: Session,
    source: StoreSource,
    say: Say,
    record: list[tuple[MasterEvent, list[MasterInstruction]]] | None = None,
) -> tuple[MasterDriver, Callable[[], None]]:
    """The master's driver over links, and what closes them. SIGINT and SIGTERM stop the run."""
    port = MasterLinks(session, source)
    undo = on_signals(lambda name, number: port.inbox.put(lambda at: Stop(at, name)))
    cluster = session.config.cluster
    driver = MasterDriver(
        MasterMachine(session.workers, session.hello("master")),
        port,
        Aggregator(session.state.layout, session.quantizer, session.config.seed),
        say,
        cluster.min_workers or 1,
        session.workers,
        cluster.join_timeout,
        record,
    )

    def close() -> None:
        port.close()
        undo()

    return driver, close


class WorkerLinks:
    """A worker's port: one link at a time."""

    def __init__(self, session: Session, source: StoreSource, name: str) -> None:
        self.inbox: Inbox[WorkerEvent] = Inbox(Tick)
        self.slot = -1
        self.ever_linked = False
        self._source = source
        self._settings = link_settings(session)
        self._secret = session.config.cluster.shared_secret()
        self._timeout = session.config.cluster.join_timeout
        self._hello = pack_hello(session.hello(name))
        self._link: Link | None = None
        self._over = threading.Event()

    def now(self) -> float:
        """Monotonic seconds."""
        return self.inbox.now()

    def later(self, at: float, make: Callable[[float], WorkerEvent], tag: object = None) -> None:
        """Deliver at that time."""
        self.inbox.later(at, make, tag)

    def cancel(self, tag: object) -> None:
        """Forget what was to be delivered with this tag."""
        self.inbox.cancel(tag)

    def send(self, head: Head, body: Message) -> None:
        """Post a message; SentRow comes when its last byte is taken."""
        frame = Frame(Kind.MESSAGE, pack_head(head), body.sidecar, body.payload)
        self._post(frame, (head.step, head.row))

    def tell(self, instruction: SendCredit | SendFailed | SendLeaving) -> None:
        """Post a small message."""
        match instruction:
            case SendCredit(step=step, why=why):
                self._post(Frame(Kind.CREDIT, pack_credit(step, why)))
            case SendFailed(step=step, partition=partition, text=text):
                self._post(Frame(Kind.FAILED, pack_failed(step, partition), _bytes(text)))
            case SendLeaving():
                self._post(Frame(Kind.LEAVING))

    def connect(self, after: float) -> None:
        """Make a new link in a thread of its own."""
        threading.Thread(target=self._connect, args=(after,), name="gcdist-connect", daemon=True).start()

    def close(self) -> None:
        """End the link, and any attempt to make one."""
        self._over.set()
        link = self._link
        if link is not None:
            link.close("the worker ends", 1.0)

    def _post(self, frame: Frame, note: object | None = None) -> None:
        link = self._link
        if link is not None:
            link.post(frame, note=note)

    def _connect(self, after: float) -> None:
        if self._over.wait(after):
            return
        try:
            join(self._source, self._hello, self._emit, self._settings, self._secret, self._timeout)
        except JoinError as error:
            reason = str(error)
            refused = reason.startswith("refused")
            self.inbox.put(lambda at: Refused(at, reason) if refused else LinkLost(at, reason))

    def _emit(self, event: Event) -> None:
        if self._link is None:  # the first event of a new link may come before join() returns
            self._link = event.link
        if event.link is not self._link:
            return
        match event:
            case In(link=link, frame=frame, fault=fault):
                try:
                    if fault is not None:
                        raise CodecError(fault)
                    make = self._translated(frame)
                except CodecError as error:
                    link.close(f"the master's bytes are no message: {error}")
                    return
                self.inbox.put(make)
            case Sent(note=(int() as step, int() as row)):
                self.inbox.put(lambda at: SentRow(at, step, row))
            case Down(reason=reason):
                self._link = None
                self.inbox.put(lambda at: LinkLost(at, reason))

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
                try:
                    said = json.loads(_text(frame))
                    self.slot, inc = int(said["worker"]), int(said["inc"])
                except (ValueError, KeyError, TypeError):
                    raise CodecError("a welcome without worker and inc") from None
                self.ever_linked = True
                return lambda at: Linked(at, inc)
            case Kind.REFUSE:
                return lambda at: Refused(at, _text(frame))
            case Kind.RELEASE:
                return Released
        raise CodecError(f"kind {frame.kind} is not for a worker")


def serve(session: Session, source: StoreSource, name: str) -> Exit:
    """Be a worker until released; returns how it ended. SIGINT and SIGTERM announce the departure to the master."""
    torch.set_num_threads(session.config.cluster.threads or 1)
    port = WorkerLinks(session, source, name)
    undo = on_signals(lambda signal_name, number: port.inbox.put(Sigterm))
    cluster = session.config.cluster
    rows = RowMaker(session.state.layout, session.quantizer, session.config.seed, OwnGradients(session))
    driver = WorkerDriver(
        WorkerMachine(cluster.retry_first, cluster.retry_most),
        rows,
        port,
        0,
        session.delays,
        session.config.seed,
        name_of=session.state.name_at,
    )
    give_up = port.now() + cluster.join_timeout
    port.connect(0.0)
    try:
        while driver.exit is None:
            event = port.inbox.get()
            if isinstance(event, Linked):
                driver.worker = port.slot
            elif isinstance(event, LinkLost) and not port.ever_linked and port.now() >= give_up:
                return Exit(1, event.reason)
            elif isinstance(event, LinkLost):
                print(f"gcdist worker {name}: {event.reason}; trying again", file=sys.stderr, flush=True)
            driver.feed(event)
    finally:
        port.close()
        undo()
    return driver.exit


class OwnGradients:
    """A worker's own model."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.compute = session.gradients.compute

    def load(self, raw: U8, params: int) -> None:
        """Take a round's parameters and buffers."""
        self._session.state.load(raw)
