"""Events and instructions of the worker machine.

Every event begins with ``at``: monotonic seconds, stamped by whoever received it.
"""

from __future__ import annotations

from typing import TypeAlias

from gcdist.protocol.messages import Body, CreditWhy, Head, Round, Tick, Wake
from gcdist.records import record

# --- events of the worker ---------------------------------------------------------------------------------------------


@record
class Linked:
    """The link is up and the master has admitted this incarnation."""

    at: float
    inc: int


@record
class LinkLost:
    """The link is gone, or could not be made."""

    at: float
    reason: str


@record
class Refused:
    """The master refused this worker for good."""

    at: float
    reason: str


@record
class Announced:
    """The master has opened ``step``."""

    at: float
    step: int


@record
class RoundIn:
    """A round and its parameters are in."""

    at: float
    round: Round
    body: Body


@record
class Astray:
    """The parameters of ``step`` do not lead to the master's replica: the digest differs, or the differences do not fit."""

    at: float
    step: int


@record
class Sigterm:
    """This process was asked to end."""

    at: float


@record
class Released:
    """The master lets this worker go."""

    at: float


@record
class PartDone:
    """One partition's gradient is there; ``body``: what the driver adds to its row, if it has not yet."""

    at: float
    step: int
    partition: int
    body: Body = None


@record
class Aborted:
    """The worker waits for nothing of an aborted step: its partition was broken off, or its result will be dropped."""

    at: float
    step: int


@record
class EncodedRow:
    """A row's message is ready (an injected delay's floor is over)."""

    at: float
    step: int
    row: int
    nbytes: int  # of the payload
    body: Body


@record
class SentRow:
    """The message's last byte left this host."""

    at: float
    step: int
    row: int


@record
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
    | Astray
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


@record
class Load:
    """Take the parameters (and buffers) of a round into the model; the round's assignment is always there."""

    round: Round
    body: Body


@record
class Take:
    """Take the parameters of a round whose work is dropped before it began: later differences begin there."""

    round: Round
    body: Body


@record
class Zero:
    """Set h_row to zero and forget the pending message."""

    row: int


@record
class Commit:
    """The master accepted the pending message: ``h_row += beta*m``."""

    row: int
    beta: float


@record
class Discard:
    """The master did not accept the pending message."""

    row: int


@record
class Abort:
    """``step`` is over: stop its work as far as possible."""

    step: int


@record
class Compute:
    """Add ``coefficient * g_partition`` to the row's vector."""

    step: int
    row: int
    partition: int
    coefficient: float


@record
class Encode:
    """Subtract the shift, quantize and pack the row; EncodedRow answers.

    ``done`` of the row's ``parts`` partitions are in the sum: it is scaled by ``parts/done``.
    """

    step: int
    row: int
    done: int
    parts: int


@record
class Send:
    """Send the message; SentRow answers."""

    head: Head
    body: Body


@record
class SendCredit:
    """Tell the master that this worker is free for the newest round. ``held``: seconds it had this one; the driver's."""

    step: int
    why: CreditWhy
    held: float = 0.0


@record
class SendFailed:
    """Tell the master of a user's error."""

    step: int
    partition: int
    text: str


@record
class SendLeaving:
    """Tell the master that this process was asked to end."""


@record
class Connect:
    """Make a new link in ``after`` seconds, with a fresh ticket."""

    after: float


@record
class Prefetch:
    """These partitions of this step come next."""

    step: int
    partitions: tuple[int, ...]


@record
class Exit:
    """End the process."""

    code: int
    reason: str


WorkerInstruction: TypeAlias = (
    Load
    | Take
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
