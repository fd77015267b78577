"""File descriptors of this process: the limit is raised, and a line warns before they run out.

gloo keeps every connection that its port takes, and aborts the process when the limit is reached.
"""

from __future__ import annotations

import os
import resource
from contextlib import suppress

WARN_AT = 0.5  # of the limit, and again at each half of the rest


def raise_limit() -> None:
    """Let this process have as many descriptors as the system allows it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or soft < hard:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class DescriptorGauge:
    """Warns when half of the descriptors are in use, then at half of the rest, and so on: few lines in every case.

    >>> gauge = DescriptorGauge(limit=100)
    >>> [gauge.read(count) is not None for count in (10, 50, 60, 75, 76, 88, 20, 60)]
    [False, True, False, True, False, True, False, False]
    """

    def __init__(self, limit: int | None = None) -> None:
        self._limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0] if limit is None else limit
        self._next = WARN_AT

    def read(self, count: int | None = None) -> str | None:
        """A line, if one is due; ``count``: descriptors in use (looked up)."""
        if count is None:
            try:
                count = len(os.listdir("/proc/self/fd"))
            except OSError:
                return None
        share = count / max(1, self._limit)
        if share < self._next:
            return None
        while self._next <= share:
            self._next += (1.0 - self._next) / 2 if self._next < 1.0 else 1.0
        return (
            f"{count} of {self._limit} descriptors are in use; gloo never lets a stranger's connection go, and at the "
            "limit gloo ends this process: close the port to strangers (docs/security.md)"
        )
