"""What the two machines say to each other, and the events and instructions each of them is driven by.

Every event begins with ``at``: monotonic seconds, stamped by whoever received it. A ``body`` is opaque here: the machines
pass it through and never look inside.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

from gcdist.types import Closing, Decoder, Plan, Seen, StepTerms, Use

PROTOCOL = 1  # raised when a message changes; peers of another number are refused

Body: TypeAlias = Any
CreditWhy: TypeAlias = Literal["fresh", "sent", "stale", "failed"]
CloseWhy: TypeAlias = Literal["complete", "deadline", "count", "stop"]


class Peer(NamedTuple):
    """One life of one worker, authenticated by its link and never read from a message."""

    worker: int  # slot 0..n-1, stable (the worker's name maps to it)
    inc: int  # incarnation ticket; larger is newer


class Hello(NamedTuple):
    """What a worker says of itself when it joins; the master refuses a mismatch and names the difference."""

    name: str
    protocol: int
    version: str
    fingerprint: str  # Layout.fingerprint
    samples: int  # length of the data set
    config: str  # fingerprint of the settings that both ends must share
    proof: str = ""  # of the shared secret, checked by the transport
    holds: tuple[int, ...] | None = None  # partitions this worker can read; None = all


class Assignment(NamedTuple):
    """What one worker does in every round of one plan."""

    rows: tuple[int, ...]
    parts: tuple[tuple[tuple[int, float], ...], ...]  # per row: (partition, coefficient)
    bits: tuple[tuple[int, ...], ...]  # per row: packed bits per segment; all zero = probe


class Round(NamedTuple):
    """Master to worker: one step's work. The parameters (and float32 buffers) follow as body."""

    step: int
    plan_id: int
    params: int  # version carried
    base: int | None  # version it is a difference to; None = whole
    shift: tuple[int, ...]  # per row of this worker: the master's version of h_row; 0 = set h_row to zero
    assignment: Assignment | None  # exactly when this incarnation has not been sent plan_id


class Head(NamedTuple):
    """Worker to master, fixed size; body = payload + sidecar (losses, energies, errors, times, buffers)."""

    step: int
    plan_id: int
    row: int
    shard: int
    shift: int  # version of h_row that was subtracted
    nbytes: int  # of the payload
    digest: int  # of the whole body


# --- events of the master ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Joined:
    """A link is up and the worker has said hello."""

    at: float
    peer: Peer
    hello: Hello


@dataclass(frozen=True, slots=True)
class Lost:
    """The link is gone."""

    at: float
    peer: Peer
    reason: str


@dataclass(frozen=True, slots=True)
class Leaving:
    """The worker has been told to go (SIGTERM, spot notice) and asks to be released."""

    at: float
    peer: Peer


@dataclass(frozen=True, slots=True)
class Silent:
    """Nothing was heard from the worker for ``seconds``; its link stands. 0: it is heard again."""

    at: float
    peer: Peer
    seconds: float


@dataclass(frozen=True, slots=True)
class Credit:
    """The worker is free for the newest round. ``step`` is the round it ends (-1 for fresh)."""

    at: float
    peer: Peer
    step: int
    why: CreditWhy


@dataclass(frozen=True, slots=True)
class Arrived:
    """A message is in, stamped at its last byte. ``fault``: what the receiver found wrong with the bytes."""

    at: float
    peer: Peer
    head: Head
    body: Body
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """The user's model or data raised in a worker."""

    at: float
    peer: Peer
    step: int
    partition: int
    text: str


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passes (either machine); handled last among events of equal stamp."""

    at: float


@dataclass(frozen=True, slots=True)
class Stop:
    """Close the open step and let everybody go."""

    at: float
    reason: str


@dataclass(frozen=True, slots=True)
class OpenStep:
    """The driver opens a step; ``params`` is the version of the parameters that its rounds carry."""

    at: float
    step: int
    params: int
    plan: Plan
    terms: StepTerms
    decoder: Decoder


MasterEvent: TypeAlias = Joined | Lost | Leaving | Silent | Credit | Arrived | Failed | Tick | Stop | OpenStep

# --- instructions of the master ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Admit:
    """Welcome the peer."""

    peer: Peer


@dataclass(frozen=True, slots=True)
class Refuse:
    """Turn the peer away for good, with the reason."""

    peer: Peer
    reason: str


@dataclass(frozen=True, slots=True)
class Announce:
    """Tell the peer that ``step`` is open; replaces any older announcement not yet sent."""

    peer: Peer
    step: int


@dataclass(frozen=True, slots=True)
class SendRound:
    """Send a round and the parameters it names."""

    peer: Peer
    round: Round


@dataclass(frozen=True, slots=True)
class Wake:
    """Deliver a Tick at this time (either machine); replaces the previous one."""

    at: float


@dataclass(frozen=True, slots=True)
class Accumulate:
    """Add the message: ``added += use.weight*m`` if not late, and ``h_row += use.beta*m``."""

    step: int
    row: int
    body: Body
    use: Use
    late: bool


@dataclass(frozen=True, slots=True)
class Keep:
    """Hold the message packed until CloseStep gives its weight (and apply ``use.beta`` now)."""

    step: int
    row: int
    body: Body
    use: Use


@dataclass(frozen=True, slots=True)
class Drop:
    """A message or a worker's round was dropped; for the log and the counters."""

    peer: Peer
    step: int
    reason: str


@dataclass(frozen=True, slots=True)
class TakeOut:
    """Subtract h_row from H and set it to zero: its holder or the row is gone."""

    row: int


@dataclass(frozen=True, slots=True)
class Observe:
    """Feed the arrival statistics."""

    seen: Seen


@dataclass(frozen=True, slots=True)
class Replan:
    """The plan no longer fits who is here: make a new one before the next step."""

    reason: str


@dataclass(frozen=True, slots=True)
class CloseLink:
    """Close the link of one peer that broke the protocol or was replaced."""

    peer: Peer
    reason: str


@dataclass(frozen=True, slots=True)
class CloseStep:
    """The step is over: form the estimate from ``rows``."""

    step: int
    closing: Closing
    rows: tuple[int, ...]  # counted, in order of arrival
    why: CloseWhy


@dataclass(frozen=True, slots=True)
class Leave:
    """Release the peer: its process may end."""

    peer: Peer


@dataclass(frozen=True, slots=True)
class Halt:
    """End the run with this text: going on cannot help."""

    text: str


MasterInstruction: TypeAlias = (
    Admit
    | Refuse
    | Announce
    | SendRound
    | Wake
    | Accumulate
    | Keep
    | Drop
    | TakeOut
    | Observe
    | Replan
    | CloseLink
    | CloseStep
    | Leave
    | Halt
)

# --- events of the worker ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Linked:
    """The link is up and the master has admitted this incarnation."""

    at: float
    inc: int


@dataclass(frozen=True, slots=True)
class LinkLost:
    """The link is gone, or could not be made."""

    at: float
    reason: str


@dataclass(frozen=True, slots=True)
class Refused:
    """The master turned this worker away for good."""

    at: float
    reason: str


@dataclass(frozen=True, slots=True)
class Announced:
    """The master has opened ``step``."""

    at: float
    step: int


@dataclass(frozen=True, slots=True)
class RoundIn:
    """A round and its parameters are in."""

    at: float
    round: Round
    body: Body


@dataclass(frozen=True, slots=True)
class Sigterm:
    """This process was asked to end."""

    at: float


@dataclass(frozen=True, slots=True)
class Released:
    """The master lets this worker go."""

    at: float


@dataclass(frozen=True, slots=True)
class PartDone:
    """One partition's gradient is added to its row."""

    at: float
    step: int
    partition: int


@dataclass(frozen=True, slots=True)
class Aborted:
    """A computation was broken off inside a partition."""

    at: float
    step: int


@dataclass(frozen=True, slots=True)
class EncodedRow:
    """A row's message is ready (an injected delay's floor is over)."""

    at: float
    step: int
    row: int
    nbytes: int
    digest: int
    body: Body


@dataclass(frozen=True, slots=True)
class SentRow:
    """The message's last byte left this host."""

    at: float
    step: int
    row: int


@dataclass(frozen=True, slots=True)
class UserError:
    """The user's model or data raised, or gave numbers that are not finite."""

    at: float
    step: int
    partition: int
    text: str


WorkerEvent: TypeAlias = (
    Linked
    | LinkLost
    | Refused
    | Announced
    | RoundIn
    | Sigterm
    | Released
    | Tick
    | PartDone
    | Aborted
    | EncodedRow
    | SentRow
    | UserError
)

# --- instructions of the worker ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Load:
    """Take the parameters (and buffers) of a round into the model."""

    round: Round
    body: Body


@dataclass(frozen=True, slots=True)
class Zero:
    """Set h_row to zero and forget the pending message."""

    row: int


@dataclass(frozen=True, slots=True)
class Commit:
    """The master accepted the pending message: ``h_row += beta*m``."""

    row: int


@dataclass(frozen=True, slots=True)
class Discard:
    """The master did not accept the pending message."""

    row: int


@dataclass(frozen=True, slots=True)
class Abort:
    """Nobody wants ``step`` any more: stop what can be stopped of it."""

    step: int


@dataclass(frozen=True, slots=True)
class Compute:
    """Add ``coefficient * g_partition`` to the row's vector."""

    step: int
    row: int
    partition: int
    coefficient: float


@dataclass(frozen=True, slots=True)
class Encode:
    """Subtract the shift, quantize and pack the row; EncodedRow answers."""

    step: int
    row: int


@dataclass(frozen=True, slots=True)
class Send:
    """Send the message; SentRow answers."""

    head: Head
    body: Body


@dataclass(frozen=True, slots=True)
class SendCredit:
    """Tell the master that this worker is free for the newest round."""

    step: int
    why: CreditWhy


@dataclass(frozen=True, slots=True)
class SendFailed:
    """Tell the master of a user's error."""

    step: int
    partition: int
    text: str


@dataclass(frozen=True, slots=True)
class SendLeaving:
    """Tell the master that this process was asked to end."""


@dataclass(frozen=True, slots=True)
class Connect:
    """Make a new link in ``after`` seconds, with a fresh ticket."""

    after: float


@dataclass(frozen=True, slots=True)
class Prefetch:
    """These partitions of this step come next."""

    step: int
    partitions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Exit:
    """End the process."""

    code: int
    reason: str


WorkerInstruction: TypeAlias = (
    Load
    | Zero
    | Commit
    | Discard
    | Abort
    | Wake
    | Compute
    | Encode
    | Send
    | SendCredit
    | SendFailed
    | SendLeaving
    | Connect
    | Prefetch
    | Exit
)
