"""What all links share at the master: the network port, and the processor that takes messages in."""

from __future__ import annotations


class SharedPort:
    """First come, first served; the port has both directions at once, the processor takes in one message after another.

    A message that finds everything idle is not slowed by the port: its bytes pass while they travel on their own link.

    Args:
        bandwidth: bytes a second of each direction; 0: no limit.
        message_seconds: of the processor for each message of a worker with a gradient.
        byte_seconds: of the processor for each of its bytes.

    >>> port = SharedPort(100.0, 0.5, 0.0)
    >>> [port.taken_in(10.0, 50, 0.5), port.taken_in(10.0, 50, 0.5)]  # the second one waits for port and processor
    [10.5, 11.0]
    >>> [port.sent(10.0, 50), port.sent(10.0, 50)]  # (first byte, last byte)
    [(10.0, 10.5), (10.5, 11.0)]
    """

    def __init__(self, bandwidth: float, message_seconds: float, byte_seconds: float) -> None:
        self._byte = 1 / bandwidth if bandwidth else 0.0
        self._message_seconds, self._byte_seconds = message_seconds, byte_seconds
        self._in = self._out = self._processor = 0.0  # when each is free
        self.limits = bool(bandwidth or message_seconds or byte_seconds)

    def taken_in(self, at: float, nbytes: int, travel: float, gradient: bool = True) -> float:
        """When the master has a message that its own link brings from ``at - travel`` to ``at``, by itself."""
        self._in = done = max(at, max(at - travel, self._in) + nbytes * self._byte)
        if gradient:
            self._processor = done = max(done, self._processor) + self._message_seconds + nbytes * self._byte_seconds
        return done

    def sent(self, at: float, nbytes: int) -> tuple[float, float]:
        """When the first and the last byte of a message have left that is sent at ``at``."""
        begin = max(at, self._out)
        self._out = begin + nbytes * self._byte
        return begin, self._out
