"""Workers that are stopped, cut off or slow in a simulated run, and the effect on the master's links: silence, then loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from gcdist.protocol import Peer


class Alarm(Protocol):
    """Calls back later: the simulator's clock."""

    @property
    def now(self) -> float:
        """Virtual seconds."""
        ...

    def at(self, when: float, do: Callable[[], None], pressing: bool = True) -> object:
        """Call ``do`` at that time."""
        ...


@dataclass(slots=True)
class _State:
    """Of one worker: until when, in virtual seconds."""

    stopped: float = 0.0
    cut: float = 0.0
    slow: float = 0.0
    rate: float = 0.0  # bytes a second while slow
    quiet: float | None = None  # since when the master has heard nothing
    silent: bool = False  # and it was told


class Outages:
    """The state of all workers' processes and cables.

    A stopped process handles nothing; what comes waits for it. A cut cable delivers nothing in either direction; what was
    sent, or is sent while it is cut, comes once it is healed, if the link still stands. Either way the master's end judges
    as `transport.GlooLink` does: silent after ``silent_after`` seconds, lost after ``lost_after``.

    Args:
        clock: virtual time.
        silent_after, lost_after: the links' settings.
        silent: told (peer, seconds), 0.0 when it is heard again.
        lose: told (peer, reason): the link is lost.
        peer_of: the link that a worker has now.
        wake: told that a stopped worker (slot) goes on.
    """

    def __init__(
        self,
        clock: Alarm,
        silent_after: float,
        lost_after: float,
        silent: Callable[[Peer, float], None],
        lose: Callable[[Peer, str], None],
        peer_of: Callable[[int], Peer],
        wake: Callable[[int], None],
    ) -> None:
        self._clock = clock
        self._silent_after = silent_after
        self._lost_after = lost_after
        self._silent = silent
        self._lose = lose
        self._peer_of = peer_of
        self._wake = wake
        self._states: dict[int, _State] = {}

    def stop(self, slot: int, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after ``seconds``; a second stop may prolong the first."""
        state = self._state(slot)
        state.stopped = max(state.stopped, self._clock.now + seconds)
        self._hush(slot, state)

        def over() -> None:
            if not self.is_stopped(slot):
                self._wake(slot)
                self._heard(slot, state)

        self._clock.at(state.stopped, over, pressing=False)

    def cut(self, slot: int, seconds: float) -> None:
        """The cable is out for ``seconds``."""
        state = self._state(slot)
        state.cut = max(state.cut, self._clock.now + seconds)
        self._hush(slot, state)
        self._clock.at(state.cut, lambda: self._heard(slot, state), pressing=False)

    def slow(self, slot: int, seconds: float, rate: float) -> None:
        """What the worker sends travels at ``rate`` bytes a second for ``seconds``."""
        state = self._state(slot)
        state.slow, state.rate = self._clock.now + seconds, rate

    def reborn(self, slot: int) -> None:
        """The process is gone: another one in its place is not stopped. Cable and rate stay as they are."""
        state = self._state(slot)
        state.stopped = 0.0
        if not self._quiet_now(state):
            state.quiet, state.silent = None, False

    def is_stopped(self, slot: int) -> bool:
        """Whether the process is stopped."""
        state = self._states.get(slot) if self._states else None
        return state is not None and self._clock.now < state.stopped

    @property
    def any(self) -> bool:
        """Whether anything ever happened to any worker."""
        return bool(self._states)

    def knows(self, slot: int) -> bool:
        """Whether anything ever happened to the worker."""
        return slot in self._states

    def healed_at(self, slot: int) -> float:
        """When the cable is whole: in the past, if it is."""
        state = self._states.get(slot)
        return 0.0 if state is None else state.cut

    def rate(self, slot: int) -> float | None:
        """Bytes a second of what the worker sends; None: as the settings say."""
        state = self._states.get(slot)
        return state.rate if state is not None and self._clock.now < state.slow else None

    def _state(self, slot: int) -> _State:
        return self._states.setdefault(slot, _State())

    def _quiet_now(self, state: _State) -> bool:
        return self._clock.now < max(state.stopped, state.cut)

    def _hush(self, slot: int, state: _State) -> None:
        """The master hears nothing from now on."""
        if state.quiet is not None:
            return
        since = state.quiet = self._clock.now
        peer = self._peer_of(slot)

        def judge_silent() -> None:
            if state.quiet == since and self._quiet_now(state):
                state.silent = True
                self._silent(peer, self._silent_after)

        def judge_lost() -> None:
            if state.quiet == since and self._quiet_now(state):
                self._lose(peer, f"nothing heard for {self._lost_after:.1f} s")

        self._clock.at(since + self._silent_after, judge_silent, pressing=False)
        self._clock.at(since + self._lost_after, judge_lost, pressing=False)

    def _heard(self, slot: int, state: _State) -> None:
        if self._quiet_now(state) or state.quiet is None:
            return
        state.quiet = None
        if state.silent:
            state.silent = False
            self._silent(self._peer_of(slot), 0.0)
