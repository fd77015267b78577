"""The launcher's decisions as a pure state machine: a stamped event goes in, a list of instructions comes out.

Rank 0 is the master: its end is the end of the run. A worker that dies is started again (`Restarts`), unless it ended
well or reports bad input. Other children go on. ``status`` is an exit code, or minus the signal that killed the child.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from gcdist.launcher.restarts import Restarts

RELEASE_SECONDS = 3.0  # for workers to end by the master's release, after its end
TERM_SECONDS = 10.0  # from SIGTERM to SIGKILL
ENDED_WELL, BAD_INPUT = 0, 2  # exit codes without a restart
REPEAT_SECONDS = 5.0  # a signal this soon after the first one is the same request on a second way
_WISHES = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_STOPPED = {status for number in _WISHES for status in (-number, 128 + number)}


@dataclass(frozen=True, slots=True)
class Ended:
    """A child has ended, or (``why``) the connection to it has: "unreached" if there never was one, else "lost".

    "mistake": the child reports wrong settings or wrong input.
    """

    at: float
    rank: int
    status: int
    why: Literal["", "unreached", "lost", "mistake"] = ""


@dataclass(frozen=True, slots=True)
class Asked:
    """A signal asks the launcher to end; ``reached``: the master got the same one (Ctrl-C at a terminal)."""

    at: float
    number: int
    reached: bool = False


@dataclass(frozen=True, slots=True)
class Tick:
    """The time of `Machine.wakes` has come."""

    at: float


@dataclass(frozen=True, slots=True)
class Start:
    """Start the child of this rank; ``again``: its restarts so far."""

    rank: int
    again: int = 0


@dataclass(frozen=True, slots=True)
class Send:
    """Send a signal to a child."""

    rank: int
    number: int


@dataclass(frozen=True, slots=True)
class Say:
    """A line for the user."""

    text: str


@dataclass(frozen=True, slots=True)
class Exit:
    """All children are gone: end with this code."""

    code: int


Event: TypeAlias = Ended | Asked | Tick
Instruction: TypeAlias = Start | Send | Say | Exit


def name_of(rank: int) -> str:
    """The name of a child in messages.

    >>> name_of(0), name_of(3)
    ('the master', 'worker 3')
    """
    return f"worker {rank}" if rank else "the master"


def words_of(status: int, why: str = "") -> str:
    """The end of a child in words.

    >>> words_of(-9), words_of(1), words_of(255, "lost")
    ('was killed by SIGKILL', 'ended with exit code 1', 'has lost its connection')
    """
    if why in ("lost", "unreached"):
        return "has lost its connection" if why == "lost" else "could not be reached"
    return f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with exit code {status}"


@dataclass(slots=True)
class Machine:
    """Decides for one run.

    Args:
        workers: ranks 1..workers; at least 1.
        max_restarts: of each worker; None: no limit.
        restart_master: number of restarts of a master that died.
    """

    workers: int
    max_restarts: int | None = None
    restart_master: int = 0
    _phase: Literal["running", "asked", "ending"] = "running"
    _started: dict[int, float] = field(default_factory=dict)  # start times of running children
    _due: dict[int, float] = field(default_factory=dict)  # restart times of children
    _restarts: dict[int, Restarts] = field(default_factory=dict)
    _code: int = 0
    _asked_at: float = 0.0
    _released: bool = False  # a worker ended well, so the run may be over
    _forsaken: bool = False  # no worker is left, so the run has failed, with any end of the master
    culprit: int | None = None  # the worker that ended the run by a mistake
    _next: list[tuple[float, int]] = field(default_factory=list)  # (when, signal) for the workers, while ending
    _out: list[Instruction] = field(default_factory=list)

    @property
    def wakes(self) -> float | None:
        """The time of the next Tick."""
        return min([*self._due.values(), *(at for at, _ in self._next[:1])], default=None)

    def begin(self, at: float) -> list[Instruction]:
        """Start all children."""
        self._out = []
        for rank in range(self.workers + 1):
            self._restarts[rank] = Restarts(self.max_restarts if rank else self.restart_master)
            self._start(at, rank)
        return self._out

    def handle(self, event: Event) -> list[Instruction]:
        """Take one event."""
        self._out = []
        match event:
            case Ended():
                lived = event.at - self._started.pop(event.rank)
                if self._phase != "ending":
                    self._worker(event, lived) if event.rank else self._master(event, lived)
            case Asked():
                self._asked(event)
            case Tick(at=at):
                self._tick(at)
        if self._phase == "ending" and not self._started:
            self._out.append(Exit(self._code))
        return self._out

    def _start(self, at: float, rank: int) -> None:
        self._started[rank] = at
        self._out.append(Start(rank, self._restarts[rank].done))

    def _worker(self, gone: Ended, lived: float) -> None:
        rank, words = gone.rank, words_of(gone.status, gone.why)
        if gone.status == ENDED_WELL:
            self._released = True
            self._say(rank, "has ended")
            return
        if self._phase == "asked":
            self._say(rank, words)
            return
        if gone.why == "mistake" and not self._restarts[rank].done:  # all run the same command: a restart fails, too
            self._say(rank, f"{words} (its settings or its input are wrong): asking the master to end")
            self._phase, self._asked_at, self._forsaken, self.culprit = "asked", gone.at, True, rank
            self._due.clear()
            self._out.append(Send(0, signal.SIGTERM))
            return
        if gone.status == BAD_INPUT:
            self._say(rank, f"{words} (refused, or bad input); it is not started again")
        elif self._again(gone, lived):
            return
        if set(self._started) | set(self._due) <= {0} and not self._released:
            self._phase, self._asked_at, self._forsaken = "asked", gone.at, True
            self._out += [Say("no worker is left: asking the master to end"), Send(0, signal.SIGTERM)]

    def _master(self, gone: Ended, lived: float) -> None:
        died = gone.status not in {ENDED_WELL, BAD_INPUT} | _STOPPED
        if died and self.restart_master and self._phase == "running":
            if self._again(gone, lived):
                return
        elif died:
            self._say(0, words_of(gone.status, gone.why))
        code = gone.status if gone.status >= 0 else 128 - gone.status
        if code == BAD_INPUT:
            self.culprit = None  # the master's own words are more precise
        failed = BAD_INPUT if self.culprit is not None else 1
        self._end(gone.at, failed if self._forsaken and code in (0, 128 + signal.SIGTERM) else code)

    def _again(self, gone: Ended, lived: float) -> bool:
        words = words_of(gone.status, gone.why)
        wait = self._restarts[gone.rank].after(lived, hopeful=gone.why == "lost")
        if isinstance(wait, str):
            self._say(gone.rank, f"{words}; it is given up: {wait}")
            return False
        self._say(gone.rank, f"{words}; starting it again in {wait:g} s")
        self._due[gone.rank] = gone.at + wait
        return True

    def _end(self, at: float, code: int) -> None:
        """The run is over: workers that do not end by release get SIGTERM, then SIGKILL."""
        self._phase, self._code = "ending", code
        self._due.clear()
        asked = at + RELEASE_SECONDS
        self._next = [(asked, signal.SIGTERM), (asked + TERM_SECONDS, signal.SIGKILL)]

    def _asked(self, event: Asked) -> None:
        if self._phase == "running":
            self._phase, self._asked_at = "asked", event.at
            name = signal.Signals(event.number).name
            self._out.append(
                Say(
                    f"{name}: asking the master to end; a second one, {REPEAT_SECONDS:g} s or more from now: end at once"
                )
            )
            waiting = 0 in self._due
            self._due.clear()
            if waiting:
                self._end(event.at, 128 + event.number)
            elif not event.reached:
                number = signal.SIGINT if event.number == signal.SIGINT else signal.SIGTERM
                self._out.append(Send(0, number))
            return
        if event.at - self._asked_at > REPEAT_SECONDS or self._phase == "ending":
            self._out += [Send(rank, signal.SIGKILL) for rank in self._started]

    def _tick(self, at: float) -> None:
        for rank in [rank for rank, due in self._due.items() if due <= at]:
            del self._due[rank]
            self._start(at, rank)
        while self._next and self._next[0][0] <= at:
            _, number = self._next.pop(0)
            self._out += [Send(rank, number) for rank in self._started]

    def _say(self, rank: int, text: str) -> None:
        self._out.append(Say(f"{name_of(rank)} {text}"))
