"""The restart of a child that died, and its time. Pure: times are arguments."""

from __future__ import annotations

from dataclasses import dataclass

FIRST_WAIT, MOST_WAIT = 0.5, 30.0  # seconds before a new start, doubled each time
STEADY = 60.0  # seconds: a longer life sets the wait back to the first
QUICK = 10.0  # seconds: a shorter life is a quick death
QUICK_DEATHS = 5  # this many in a row end the restarts, because the next one would die, too


@dataclass(slots=True)
class Restarts:
    """One child's restarts so far.

    Args:
        most: restarts in all; None: no limit.

    >>> restarts = Restarts()
    >>> [restarts.after(seconds) for seconds in (30.0, 30.0, 90.0)]
    [0.5, 1.0, 0.5]
    """

    most: int | None = None
    done: int = 0
    _wait: float = 0.0
    _quick: int = 0

    def after(self, lived: float, hopeful: bool = False) -> float | str:
        """The child died ``lived`` seconds after its start: seconds until the next start, or the reason for none.

        ``hopeful``: the cause is outside of the child (a network may come back), so quick deaths do not count.
        """
        self._quick = self._quick + 1 if lived < QUICK and not hopeful else 0
        if self.most is not None and self.done >= self.most:
            return "no restart is left"
        if self._quick >= QUICK_DEATHS:
            return f"it died {self._quick} times in a row within {QUICK:g} s of its start"
        self._wait = min(MOST_WAIT, 2 * self._wait) if self._wait and lived < STEADY else FIRST_WAIT
        self.done += 1
        return self._wait
