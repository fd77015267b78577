"""What a worker's ports in real time share: the clock and the timers are those of its inbox."""

from __future__ import annotations

from collections.abc import Callable

from gcdist.exchange.inbox import SharedInbox
from gcdist.protocol.messages import Tick
from gcdist.protocol.worker_io import WorkerEvent


class InboxPort:
    """The first half of a `driver.WorkerPort`."""

    def __init__(self) -> None:
        self.inbox: SharedInbox[WorkerEvent] = SharedInbox(Tick)

    def now(self) -> float:
        """Monotonic seconds."""
        return self.inbox.now()

    def later(self, at: float, make: Callable[[float], WorkerEvent], tag: object = None) -> None:
        """Deliver at that time."""
        self.inbox.later(at, make, tag)

    def cancel(self, tag: object) -> None:
        """Forget what was to be delivered with this tag."""
        self.inbox.cancel(tag)
