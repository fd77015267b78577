"""The master's port to real workers: frames on links become events, instructions become frames."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable

from gcdist.exchange.inbox import Inbox
from gcdist.exchange.injected_faults import strike_process
from gcdist.exchange.link_frames import DRAIN_SECONDS, NOTHING, bytes_of, link_settings, text_of
from gcdist.exchange.message import Message
from gcdist.exchange.setup import Setup
from gcdist.protocol import Peer, Round
from gcdist.protocol.codec import (
    CodecError,
    Kind,
    pack_fault,
    pack_round,
    pack_step,
    pack_welcome,
    unpack_credit,
    unpack_failed,
    unpack_head,
    unpack_hello,
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
    Refuse,
)
from gcdist.protocol.master_io import Silent as SilentPeer
from gcdist.protocol.messages import Fault, Tick
from gcdist.transport import Down, Event, Frame, In, Link, Plane, Sent, Silent, digest
from gcdist.types import U8

MOST_NAME, MOST_DIGITS = 64, 9  # characters of a worker's name, and of its rank
LEAST_STEPS_QUEUED = 4.0  # largest frames of one worker that may wait for the master; beyond, its link is closed
MOST_REASONS = 50  # reasons for a refusal that have a counter of their own
MOST_UNHANDLED = 64  # frames of one worker that may wait for the master; more where a worker may have more rows


class MasterLinks:
    """The master's port: one link a worker, one inbox for all of them.

    ``log(rank, text)`` takes what the workers have to say, ``refused(text)`` who was turned away, from the
    links' threads.
    """

    def __init__(
        self,
        setup: Setup,
        plane: Plane,
        log: Callable[[int, str], None] | None = None,
        refused: Callable[[str], None] | None = None,
    ) -> None:
        self.inbox: Inbox[MasterEvent] = Inbox(Tick)
        self._lock = threading.Lock()
        self._links: dict[Peer, Link] = {}
        self._peers: dict[Link, Peer] = {}
        self._slots: dict[str, int] = {}
        self._workers = setup.workers
        self._log = log
        self._bytes_in = 0  # of links that are gone
        self._bytes_out = 0
        self._digests: dict[int, tuple[U8, int]] = {}  # of a step's bodies, by their id
        self._digests_of = -1  # the step
        self._unhandled: dict[Peer, int] = {}
        self._admitted: set[Peer] = set()
        self._most_unhandled = max(MOST_UNHANDLED, 2 * len(setup.sizes_K))
        settings = link_settings(setup)
        self._queued: dict[Peer, int] = {}  # bytes of data that the master has not handled yet
        a_step = 2 * len(setup.sizes_K) / setup.workers  # messages of one worker, at most as large as the parameters
        self._most_queued = round(max(LEAST_STEPS_QUEUED, a_step) * settings.max_bytes)
        self._refused: Counter[str] = Counter()
        self._tell_refused = refused
        self._door = plane.open(
            self._joined, self._emit, settings, on_refused=self._count_refused, on_notice=refused or (lambda text: None)
        )

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
        event = self.inbox.get(until)
        if isinstance(event, Arrived | Credit | Failed | Leaving):
            with self._lock:
                if event.peer in self._unhandled:
                    self._unhandled[event.peer] -= 1
                    if isinstance(event, Arrived):
                        self._queued[event.peer] -= event.body.nbytes
        return event

    def inject(self, peer: Peer | None, step: int, fault: Fault) -> None:
        """Tell a worker to do it to itself; the master (None) does it to this process."""
        if peer is None:
            strike_process(fault)
        elif (link := self._links.get(peer)) is not None:
            link.post(Frame(Kind.FAULT, pack_step(step), bytes_of(pack_fault(fault))))

    def between_rounds(self) -> None:
        """Nothing: real work has taken its time."""

    def chosen(self) -> None:
        """Nothing: the same."""

    def tell(self, instruction: Admit | Refuse | Announce | CloseLink | Leave) -> None:
        """Post what concerns one peer; a link that is gone has reported so."""
        peer = instruction.peer
        link = self._links.get(peer)
        if link is None:
            return
        match instruction:
            case Admit():
                self._admitted.add(peer)
                link.post(Frame(Kind.WELCOME, pack_welcome(peer.worker, peer.inc)))
            case Refuse(reason=reason):
                link.post(Frame(Kind.REFUSE, meta=bytes_of(reason)))
                link.close(reason, DRAIN_SECONDS)
            case Announce(step=step):
                link.post(Frame(Kind.ANNOUNCE, pack_step(step)), newest=True)
            case CloseLink(reason=reason):
                link.close(reason)
            case Leave():
                link.post(Frame(Kind.RELEASE))  # the worker closes the link, behind its last words

    def send_round(self, peer: Peer, sent: Round, state: U8) -> None:
        """Post a round; the checksum of a body is taken once for all links."""
        if sent.step != self._digests_of:
            self._digests_of = sent.step
            self._digests.clear()
        if id(state) not in self._digests:
            self._digests[id(state)] = state, digest(state)
        link = self._links.get(peer)
        if link is not None:
            link.post(
                Frame(Kind.ROUND, meta=bytes_of(pack_round(sent)), data=state, data_digest=self._digests[id(state)][1])
            )

    def close(self) -> None:
        """Take nobody in any more and wait for the last words to leave."""
        self._door.close(over=True)
        give_up = time.monotonic() + DRAIN_SECONDS + 1.0
        while self._links and time.monotonic() < give_up:
            self.inbox.get(time.monotonic() + 0.05)
        for link in list(self._links.values()):
            link.close("released")

    # --- called by the links' threads ---

    def _joined(self, link: Link, ticket: int, raw: bytes) -> None:
        try:
            hello = unpack_hello(raw)
            if len(hello.name) > MOST_NAME:
                raise CodecError(f"hello: a name of {len(hello.name)} characters; at most {MOST_NAME} are allowed")
        except CodecError as error:
            link.post(Frame(Kind.REFUSE, meta=bytes_of(f"{error} (another version of gcdist?)")))
            link.close(str(error), DRAIN_SECONDS)
            return
        with self._lock:
            peer = Peer(self._slot(hello.name), ticket)
            self._links[peer] = link
            self._peers[link] = peer
            self._unhandled[peer] = self._queued[peer] = 0
        self.inbox.put(lambda at: Joined(at, peer, hello))

    def _count_refused(self, who: str, reason: str) -> None:
        with self._lock:
            if reason not in self._refused and len(self._refused) >= MOST_REASONS:
                reason = "other reasons"
            self._refused[reason] += 1
            count = self._refused[reason]
        if self._tell_refused is not None and count & (count - 1) == 0:  # 1, 2, 4, ...: nobody can flood the log
            self._tell_refused(f"a peer was refused, {count} so far: {reason} ({who})")

    def _slot(self, name: str) -> int:
        """``rankR`` is worker R - 1; other names get places in the order in which they come."""
        rank = name.removeprefix("rank")
        if rank.isascii() and rank.isdigit() and len(rank) <= MOST_DIGITS:
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
            case In(frame=frame, fault=None) if frame.kind == Kind.LOG:
                if self._log is not None and peer in self._admitted:  # a stranger writes nothing into the run's folder
                    self._log(peer.rank, text_of(frame))
            case In(link=link, frame=frame, fault=fault):
                try:
                    make = self._translated(peer, frame, fault)
                except CodecError as error:
                    link.close(f"worker {peer.rank} sent bytes that are no message: {error}")
                    return
                with self._lock:
                    self._unhandled[peer] += 1
                    if frame.kind == Kind.MESSAGE:
                        self._queued[peer] += _frame_bytes(frame)
                    flood = self._unhandled[peer] > self._most_unhandled
                    heavy = self._queued[peer] > self._most_queued
                if flood or heavy:  # what a worker may send between two credits is far less
                    what = f"{self._most_unhandled} messages" if flood else f"{self._most_queued} bytes"
                    link.close(f"worker {peer.rank} sent {what} faster than they are handled")
                    return
                self.inbox.put(make)
            case Silent(seconds=seconds):
                self.inbox.put(lambda at: SilentPeer(at, peer, seconds))
            case Down(link=link, reason=reason):
                with self._lock:
                    self._bytes_in += link.bytes_in
                    self._bytes_out += link.bytes_out
                    del self._links[peer], self._peers[link], self._unhandled[peer], self._queued[peer]
                    self._admitted.discard(peer)
                self.inbox.put(lambda at: Lost(at, peer, reason))
            case Sent():
                pass

    @staticmethod
    def _translated(peer: Peer, frame: Frame, fault: str | None) -> Callable[[float], MasterEvent]:
        match frame.kind:
            case Kind.MESSAGE:
                head = unpack_head(frame.head)
                payload = NOTHING if frame.data is None else frame.data
                body = Message(payload, NOTHING if frame.meta is None else frame.meta)
                return lambda at: Arrived(at, peer, head, body, fault)
            case Kind.CREDIT:
                step, why, held = unpack_credit(frame.head)
                return lambda at: Credit(at, peer, step, why, held)
            case Kind.FAILED:
                failed, partition = unpack_failed(frame.head)
                return lambda at: Failed(at, peer, failed, partition, text_of(frame))
            case Kind.LEAVING:
                return lambda at: Leaving(at, peer)
        raise CodecError(f"kind {frame.kind} is not for the master")


def _frame_bytes(frame: Frame) -> int:
    """Bytes of meta and data."""
    return sum(0 if array is None else len(array) for array in (frame.meta, frame.data))
