"""The messages between master and worker, and what both machines share: the tick and the wake-up.

A ``body`` is opaque to the machines: they pass it through and never look inside.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias

from gcdist.records import record
from gcdist.types import Corruption, FaultKind

PROTOCOL = 11  # raised when a message changes; peers of another number are refused

CODED_SUM, THE_MODEL = -1, -2  # in the place of a partition, where something else failed

Body: TypeAlias = Any
# cut: nothing was done by the cut; busy: the same, and the partition that was begun goes on
CreditWhy: TypeAlias = Literal["fresh", "sent", "stale", "failed", "astray", "cut", "busy"]
CloseWhy: TypeAlias = Literal["complete", "deadline", "count", "stop"]


class Peer(NamedTuple):
    """One life of one worker, authenticated by its link and never read from a message."""

    worker: int  # slot 0..n-1, stable (the worker's name maps to it)
    inc: int  # incarnation ticket; larger is newer

    @property
    def rank(self) -> int:
        """The worker's number in texts for people: 1..n; the master is 0."""
        return self.worker + 1


FEW = 8  # a sketch holds arrays of up to 8 values whole
RANDOM = "random"  # kind of a value that differs each time it is read


class ValueSketch(NamedTuple):
    """One value of a sample in short: kind and shape, and some of its numbers, finite.

    Up to `FEW` values: all of them. More: the root of the mean square, then means of blocks and single values.
    """

    kind: str
    numbers: tuple[float, ...]

    def difference(self, theirs: ValueSketch) -> tuple[str, str] | None:
        """Both values in words, if they differ; None: they may belong to one sample.

        Of many values, two numbers must differ by a tenth of their size: builds of libraries decode a picture differently.
        """
        if RANDOM in (self.kind, theirs.kind):
            return None
        if self.kind != theirs.kind or len(self.numbers) != len(theirs.numbers):
            return theirs.kind, self.kind
        pairs = list(zip(self.numbers, theirs.numbers, strict=True))
        if len(pairs) <= FEW:
            off = [(a, b) for a, b in pairs if abs(a - b) > (0.0 if "int" in self.kind else 1e-3 * max(abs(a), abs(b)))]
            return (f"{off[0][1]:g}", f"{off[0][0]:g}") if off else None
        size = max(self.numbers[0], theirs.numbers[0])
        off = [(a, b) for a, b in pairs if abs(a - b) > 0.1 * size]
        return (f"{off[-1][1]:g} at one place", f"{off[-1][0]:g}") if len(off) > 1 else None


class SampleSketch(NamedTuple):
    """One sample of the data set in short."""

    number: int
    partition: int
    values: tuple[ValueSketch, ...]

    def difference(self, theirs: SampleSketch, whose: str) -> str | None:
        """The difference to somebody else's sample of the same number, in words; ``whose`` names the owner of this one.

        >>> mine, other = (SampleSketch(7, 1, (ValueSketch("int ()", (label,)),)) for label in (3, 5))
        >>> mine.difference(other, "the master has")
        'sample 7 of the data set (partition 1): value 0 is 5, the master has 3'
        """
        where = f"sample {self.number} of the data set (partition {self.partition})"
        if len(self.values) == len(theirs.values):
            for i, (mine, other) in enumerate(zip(self.values, theirs.values, strict=True)):
                if (off := mine.difference(other)) is not None:
                    return f"{where}: value {i} is {off[0]}, {whose} {off[1]}"
        elif RANDOM not in (value.kind for value in (*self.values, *theirs.values)):
            return f"{where}: {len(theirs.values)} values, {whose} {len(self.values)}"
        return None


class Hello(NamedTuple):
    """A worker's introduction when it joins; the master refuses a mismatch and names the difference."""

    name: str
    protocol: int
    version: str
    fingerprint: str  # Layout.fingerprint of the start, also after parameters were unfrozen
    samples: int  # length of the data set
    config: str  # the settings that both ends must share, key=value a line, sorted
    proof: str = ""  # of the shared secret, checked by the transport
    holds: tuple[int, ...] | None = None  # partitions it can read; None = all; the master's: all that there are
    looked: tuple[SampleSketch, ...] = ()  # some samples that it can read
    cut: str = ""  # hash of which samples are in which partition
    run: int = 1  # which of its process's runs this is

    def difference(self, theirs: Hello) -> str | None:
        """The first thing in which a worker's Hello differs from the master's and must not, in words; else None.

        >>> Hello("m", 1, "0.1", "aa", 10, "c").difference(Hello("w", 1, "0.1", "aa", 12, "c"))
        'number of samples in the data set: 12, the master has 10'
        """
        for key, what in _MUST_AGREE.items():
            if key == "config" and self.config != theirs.config:
                mine, other = set(self.config.splitlines()), set(theirs.config.splitlines())
                odd = sorted(other - mine)[:3], sorted(mine - other)[:3]
                return f"{what}: {', '.join(odd[0]) or 'nothing'}; the master has {', '.join(odd[1]) or 'nothing'}"
            if getattr(self, key) != getattr(theirs, key):
                return f"{what}: {getattr(theirs, key)!r}, the master has {getattr(self, key)!r}"
        known = {sample.number: sample for sample in self.looked}
        for sample in theirs.looked:
            if sample.number in known and (off := known[sample.number].difference(sample, "the master has")):
                return off
        if self.cut != theirs.cut:
            return "cut of the data set: the same partition holds other samples than the master's"
        if theirs.holds is None:
            return None
        beyond = sorted(set(theirs.holds).difference(self.holds or theirs.holds))
        if beyond or not theirs.holds:
            found = ", ".join(map(str, beyond[:5])) + ", ..." * (len(beyond) > 5) if beyond else "none"
            return f"partitions held: {found}; the master has {_span(self.holds or ())}"
        return None


def _span(parts: tuple[int, ...]) -> str:
    return f"{min(parts)} to {max(parts)}" if parts else "not said which there are"


_MUST_AGREE = {
    "protocol": "protocol number",
    "version": "gcdist version",
    "fingerprint": "model (names, shapes, dtypes, requires_grad or buffers)",
    "samples": "number of samples in the data set",
    "config": "config",
}


class Assignment(NamedTuple):
    """The work of one worker in every round of one plan."""

    rows: tuple[int, ...]
    parts: tuple[tuple[tuple[int, float], ...], ...]  # per row: (partition, coefficient)
    bits: tuple[tuple[int, ...], ...]  # per row: packed bits of its segments (one number: all alike); zero = probe
    trained: tuple[int, ...] | None = None  # parameters in the vector, by number; None: those of the Hello
    partial: bool = False  # partitions are taken in the order of `partition_order`, and a row may be cut
    remember: bool = False  # messages are differences to a memory of each partition, if there is room for it


class Round(NamedTuple):
    """Master to worker: one step's work. The parameters (and float32 buffers) follow as body."""

    step: int
    plan_id: int
    params: int  # version carried
    base: int | None  # version that its differences begin at; None: it has all parameters
    shift: tuple[int, ...]  # per row of this worker: the master's version of h_row; 0 = set h_row to zero
    beta: tuple[float, ...]  # per row: what the master applied to the pending message, where shift is the worker's + 1
    assignment: Assignment | None  # exactly when this incarnation has not been sent plan_id
    cut: float | None = (
        None  # seconds after receipt at which the row in hand is sent as far as it is; None: when complete
    )


class Head(NamedTuple):
    """Worker to master, fixed size; body = payload + sidecar (losses, energies, errors, times, buffers).

    The checksum of the body is the link's business: it covers every frame.
    """

    step: int
    plan_id: int
    row: int
    done: int  # partitions in the message: the first so many of the row's order
    shift: int  # version of h_row that was subtracted
    nbytes: int  # of the payload


class Fault(NamedTuple):
    """Master to worker: a fault that the worker injects into itself, if its own settings allow this kind."""

    kind: FaultKind
    seconds: float | None = None
    rate: float | None = None  # bytes a second
    what: Corruption = "payload"  # of a corrupt message
    share: float | None = None  # of the time that a throttled process runs


@record
class Tick:
    """Time passes (either machine); handled last among events of equal stamp."""

    at: float


@record
class Wake:
    """Deliver a Tick at this time (either machine); replaces the previous one."""

    at: float
