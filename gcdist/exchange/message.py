"""The body of a worker's message, as both ends hold it."""

from __future__ import annotations

from gcdist.exchange.sidecar import Carried, Sidecar
from gcdist.records import record_by_identity
from gcdist.types import U8


@record_by_identity
class Message:
    """The body of one row's message as it travels: packed payload and its sidecar.

    A sidecar that is not packed never left the process, so that its parts need no check.
    """

    payload: U8
    sidecar: Carried

    @property
    def nbytes(self) -> int:
        """Both parts, in bytes."""
        return len(self.payload) + len(self.sidecar)


@record_by_identity
class CheckedMessage:
    """A checked message: its bytes fit the plan of its sender, so adding it cannot fail.

    ``bits`` are the packed bits per segment that the row was asked for: they belong to the plan of the round, which need
    not be today's.
    """

    payload: U8
    sidecar: Sidecar
    bits: tuple[int, ...]
