"""Events and instructions of the master machine.

Every event begins with ``at``: monotonic seconds, stamped by whoever received it.
"""

from __future__ import annotations

from dataclasses import field
from enum import StrEnum
from typing import TypeAlias

from gcdist.protocol.messages import Body, CloseWhy, CreditWhy, Head, Hello, Peer, Round, Tick, Wake
from gcdist.records import record
from gcdist.types import Closing, Decoder, Plan, Seen, StepTerms, Use, WorkTimes

# --- events of the master ---------------------------------------------------------------------------------------------


@record
class Joined:
    """A link is up and the worker has said hello."""

    at: float
    peer: Peer
    hello: Hello


@record
class Lost:
    """The link is gone."""

    at: float
    peer: Peer
    reason: str


@record
class Leaving:
    """The worker has been told to go (SIGTERM, spot notice) and asks to be released."""

    at: float
    peer: Peer


@record
class Silent:
    """Nothing was heard from the worker for ``seconds``; its link stands. 0: it is heard again."""

    at: float
    peer: Peer
    seconds: float


@record
class Credit:
    """The worker is free for the newest round. ``step`` is the round it ends (-1 for fresh), ``held`` its seconds there."""

    at: float
    peer: Peer
    step: int
    why: CreditWhy
    held: float = 0.0


@record
class Arrived:
    """A message is in, stamped at its last byte. ``fault``: what the receiver found wrong with the bytes."""

    at: float
    peer: Peer
    head: Head
    body: Body
    fault: str | None = None
    work: WorkTimes | None = None  # of a row that may be cut: when its partitions were done


@record
class Failed:
    """The user's model or data raised in a worker."""

    at: float
    peer: Peer
    step: int
    partition: int
    text: str


@record
class Stop:
    """Close the open step and let everybody go."""

    at: float
    reason: str


@record
class OpenStep:
    """The driver opens a step; ``params`` is the version of the parameters that its rounds carry."""

    at: float
    step: int
    params: int
    plan: Plan
    terms: StepTerms
    decoder: Decoder
    since: int | None = None  # a worker that has these parameters or later ones gets differences; None: nobody does


@record
class Settle:
    """No step is open, and ``step`` will be the next: whatever is in hand is stale (before a checkpoint)."""

    at: float
    step: int


@record
class Restore:
    """The workers hold these shifts (a checkpoint was read), have had a round each unless they are ``cold``, and are free of
    older work unless they are ``busy``."""

    at: float
    shifts: tuple[tuple[int, Peer, int, float], ...]  # (row, holder, version, beta)
    cold: tuple[int, ...]
    busy: tuple[int, ...] = ()


MasterEvent: TypeAlias = (
    Joined | Lost | Leaving | Silent | Credit | Arrived | Failed | Tick | Stop | OpenStep | Settle | Restore
)

# --- instructions of the master ---------------------------------------------------------------------------------------


@record
class Admit:
    """Welcome the peer."""

    peer: Peer


@record
class Refuse:
    """Refuse the peer for good, with the reason. ``differs``: it is one of the run's, with other settings or data."""

    peer: Peer
    reason: str
    differs: bool = field(default=False, compare=False)


@record
class Announce:
    """Tell the peer that ``step`` is open; replaces any older announcement not yet sent."""

    peer: Peer
    step: int


@record
class SendRound:
    """Send a round and the parameters it names."""

    peer: Peer
    round: Round


@record
class Accumulate:
    """Add the message: ``added += use.weight*m`` if not late, and ``h_row += use.beta*m``."""

    step: int
    row: int
    body: Body
    use: Use
    late: bool


@record
class Keep:
    """Hold the message packed until CloseStep gives its weight (and apply ``use.beta`` now)."""

    step: int
    row: int
    body: Body
    use: Use


class DropWhy(StrEnum):
    """Why a message or a round was dropped."""

    STALE = "stale"  # the worker: a newer step was open
    CUT = "cut"  # the worker: nothing was done by its cut
    FAILED = "failed"  # the worker: the user's code raised, as its own `Drop` says
    ASTRAY = "its parameters are not the master's: it gets all of them with its next round"
    ERROR = "user error"
    LATE = "late"  # its step was closed
    UNLINKED = "its link is closed"
    SETTLED = "its row is settled already"
    BROKEN = "not the protocol"  # the link is closed


QUIET = frozenset({DropWhy.STALE, DropWhy.CUT, DropWhy.FAILED, DropWhy.LATE, DropWhy.UNLINKED, DropWhy.ERROR})
"""Reasons without a line of their own: they are usual, or told elsewhere."""


@record
class Drop:
    """A message or a worker's round was dropped; for the log and the counters. ``text``: what it was, in words."""

    peer: Peer
    step: int
    why: DropWhy
    text: str = ""


@record
class TakeOut:
    """Subtract h_row from H and set it to zero: its holder or the row is gone."""

    row: int


@record
class Observe:
    """Feed the arrival statistics."""

    seen: Seen


@record
class Replan:
    """The plan no longer fits the workers present: make a new one before the next step."""

    reason: str


@record
class CloseLink:
    """Close the link of one peer that broke the protocol or was replaced."""

    peer: Peer
    reason: str


@record
class CloseStep:
    """The step is over: form the estimate from ``rows``."""

    step: int
    closing: Closing
    rows: tuple[int, ...]  # counted, in order of arrival
    why: CloseWhy


@record
class Leave:
    """Release the peer: its process may end."""

    peer: Peer


@record
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
