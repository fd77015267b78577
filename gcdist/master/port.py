"""The master's world, real or simulated: where events come from, and where messages go."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from gcdist.protocol.master_io import Admit, Announce, CloseLink, Leave, MasterEvent, Refuse
from gcdist.protocol.messages import Fault, Peer, Round
from gcdist.types import U8

Say = Callable[[str, str], None]  # (kind, text): one line for the run's log


class MasterPort(Protocol):
    """The master's world."""

    @property
    def bytes_up(self) -> int:
        """All bytes that the links have received from workers."""
        ...

    @property
    def bytes_down(self) -> int:
        """All bytes that the links have sent to workers."""
        ...

    def now(self) -> float:
        """Seconds, monotonic."""
        ...

    def next(self, until: float | None) -> MasterEvent:
        """The next event in stamp order; a Tick once ``until`` has passed."""
        ...

    def tell(self, instruction: Admit | Refuse | Announce | CloseLink | Leave) -> None:
        """Carry out what concerns one peer; never blocks."""
        ...

    def send_round(self, peer: Peer, sent: Round, state: U8) -> None:
        """Send a round; ``state`` is immutable from now on. Never blocks."""
        ...

    def inject(self, peer: Peer | None, step: int, fault: Fault) -> None:
        """Make a fault happen at a worker as ``step`` opens, or at the master itself (None)."""
        ...

    def between_rounds(self) -> None:
        """The master has done its own work since the last round; where time is simulated, it passes now."""
        ...

    def chosen(self) -> None:
        """The scheme has chosen a deadline or more by itself; where time is simulated, it passes now."""
        ...
