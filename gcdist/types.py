"""The shared types of gcdist: what the rooms say to each other.

Numpy and scipy only. Every room may import this module; it imports nothing of gcdist but `records`. A class that is not a
Protocol is a frozen dataclass with slots, or a `record`. Suffixes of array names give their shape: N workers, R rows
(messages of a step; R = n unless a worker sends several), K partitions, S segments of the flat parameter vector.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from gcdist.records import record

F32: TypeAlias = NDArray[np.float32]
F64: TypeAlias = NDArray[np.float64]
I64: TypeAlias = NDArray[np.int64]
U8: TypeAlias = NDArray[np.uint8]
Mask: TypeAlias = NDArray[np.bool_]

# injected faults: what a worker does to itself, and what is wrong with a message that it corrupts
FaultKind: TypeAlias = Literal["kill", "stop", "cut", "slow", "corrupt", "delay", "throttle"]
Corruption: TypeAlias = Literal["payload", "checksum", "size", "plan", "step", "row", "nan", "garbage", "flood"]


METRICS_MOST, METRIC_NAME_MOST = 32, 64  # numbers by name beside one loss, and characters of a name


def check_metric_name(name: object) -> None:
    """ValueError if a metric cannot have this name: printable text of 1 to ``METRIC_NAME_MOST`` characters."""
    if not isinstance(name, str) or not 1 <= len(name) <= METRIC_NAME_MOST or not name.isprintable():
        raise ValueError(f"metric {str(name)[:80]!r}: a name is printable text of 1 to {METRIC_NAME_MOST} characters")


class NonFiniteError(ValueError):
    """A vector to be quantized holds NaN or infinity; ``index`` is the first such coordinate."""

    def __init__(self, index: int) -> None:
        super().__init__(f"coordinate {index} is not finite")
        self.index = index


class RunHaltedError(RuntimeError):
    """The run cannot go on; the text says why."""


class RunStoppedError(SystemExit):
    """Somebody asked the run to end (SIGINT, SIGTERM, SIGHUP).

    Workers are released; uncaught, the script ends without a traceback.

    ``code`` is the exit status that a shell expects of a stopped program.
    """

    def __init__(self, reason: str) -> None:
        number = {"SIGHUP": 1, "SIGINT": 2, "SIGTERM": 15}.get(reason)
        super().__init__(128 + number if number else 1)
        self.reason = reason

    def __str__(self) -> str:
        return f"stopped by {self.reason}"


WIDE_SHARE = 64  # of a vector's coordinates at most one in so many is in a wide segment


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """How the flat float32 parameter vector is cut.

    ``edges`` (S+1,) are coordinates: no scale and no rotation of a quantizer crosses one (S = 1: the papers). ``wide_S``
    (S,): segments that travel as bfloat16 whatever the bits. ``fingerprint`` hashes names, shapes, dtypes, requires_grad
    and buffers; it must be equal at both ends, which then cut alike.
    """

    d: int
    edges: I64
    fingerprint: str
    wide_S: Mask

    @staticmethod
    def flat(d: int, fingerprint: str = "") -> Layout:
        """The layout of one segment that covers all ``d`` coordinates.

        >>> Layout.flat(10).edges.tolist()
        [0, 10]
        """
        return Layout(d, np.array([0, d], np.int64), fingerprint, np.zeros(1, np.bool_))

    @staticmethod
    def by_parameter(sizes: Sequence[int], fingerprint: str = "") -> Layout:
        """One segment a parameter; the smallest (norms, biases) are wide, neighbours among them in one segment.

        Wide ones have at most 512 coordinates (or 1/1024 of all) each and 1/`WIDE_SHARE` of all together, so that they
        cost at most 12/64 bits a coordinate on top of 4; up to 2 coordinates are always wide, as a scale would be longer.

        >>> layout = Layout.by_parameter([6400, 64, 64, 4096, 10])
        >>> layout.edges.tolist(), layout.wide_S.tolist()
        ([0, 6400, 6528, 10624, 10634], [False, True, False, True])
        """
        ends, d = np.cumsum(sizes), int(np.sum(sizes))
        left, wide = d // WIDE_SHARE, set()
        for i in sorted(range(len(sizes)), key=lambda i: sizes[i]):
            left -= sizes[i]
            if (left < 0 or sizes[i] > max(512, d // 1024)) and sizes[i] > 2:
                break
            wide.add(i)
        wide = wide if len(wide) < len(sizes) else set()
        last = [i for i in range(len(sizes)) if not (i in wide and i + 1 in wide)]
        edges = np.array([0, *(ends[i] for i in last)], np.int64)
        return Layout(d, edges, fingerprint, np.array([i in wide for i in last]))

    @property
    def segments(self) -> int:
        """Number of segments S."""
        return len(self.edges) - 1

    def sizes(self) -> I64:
        """Coordinates of each segment, (S,)."""
        return np.diff(self.edges)


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """All that a design of code, data allocation and bits may use (math sections 1 to 4)."""

    size_K: F64  # (K,) shares of the samples, sum 1
    late: Callable[[int, F64], F64]  # (worker, loads (m,)) -> p (m,) at the intended deadline; 1 = absent
    noise: F64  # (B+1,) omega by packed bits a coordinate; noise[0] = inf
    bits_total: float  # sum over rows of packed bits a coordinate
    bits_cap_N: I64  # (N,) most packed bits of each worker
    load_cap_N: F64  # (N,) most partitions of each worker; inf = none
    holds_NK: csr_array | None = None  # who can read what; None = everybody everything
    # of rows that are cut: (worker, loads (L,)) -> E[l^2/m - l | m >= 1] (L,) at the intended deadline, and S^2/|g|^2 of one
    # partition (math section 10); None: rows are whole
    excess: Callable[[int, F64], F64] | None = None
    spread: float = 0.0
    rows_spread: float | None = None  # the same by what rows differ by, where that is more; None: it is the same
    load_N: I64 | None = (
        None  # loads that were chosen already, (N,), whole partitions that sum to k; None: the design's
    )

    @property
    def n(self) -> int:
        """Number of workers."""
        return len(self.bits_cap_N)

    @property
    def k(self) -> int:
        """Number of partitions."""
        return len(self.size_K)


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """A design: who computes what with which coefficient, and with how many bits it is sent.

    The coefficients follow the free scale of math section 1: ``a = alpha`` and decoding weight ``1/(1-p)``, so that
    each covered column of ``A_RK`` sums to 1 for unbiased codes (baselines with other published scales say so). A row
    with zero bits is a probe: its partitions (stored entries, possibly zero) are computed and timed, nothing is added. A
    row without stored entries is not assigned at all.
    """

    plan_id: int
    A_RK: csr_array  # float64
    worker_R: I64  # owner of each row
    bits_RS: U8  # packed bits a coordinate, sign included: 0..8, 16, 32
    p_R: F64  # the design's, for the record: decoding uses StepTerms.p_R
    covered_K: Mask  # False: nobody alive holds it; the estimate leaves it out and the run says so
    trained: tuple[int, ...] | None = None  # parameters in the vector, by number; None: those of the start
    partial: bool = False  # a row may be cut: its message stands for the partitions that are done (math section 10)
    # step of each row's shift h_row where plans choose who is shifted (R,), 0: its rows are sent as they are; None: the
    # code's own rule for all rows
    beta_R: F64 | None = None
    mass_K: F64 | None = None  # C_j: sizes of the partitions, mean 1; None: all 1

    def row_masses(self) -> F64:
        """``Y_i = sum_j a_ij C_j``, (R,): a row's part of the gradient, times K, where partitions agree."""
        mass_K = np.ones(self.A_RK.shape[1]) if self.mass_K is None else self.mass_K
        return np.asarray(self.A_RK @ mass_K, np.float64)

    def covered_mass(self) -> float:
        """Sum of C_j over the covered partitions: K where all are."""
        return float(self.covered_K.sum() if self.mass_K is None else self.mass_K[self.covered_K].sum())

    @property
    def rows(self) -> int:
        """Number of rows R."""
        return len(self.worker_R)

    def parts(self, row: int) -> tuple[tuple[int, float], ...]:
        """The (partition, coefficient) pairs stored in ``row``, in stored order."""
        lo, hi = int(self.A_RK.indptr[row]), int(self.A_RK.indptr[row + 1])
        cols, vals = self.A_RK.indices[lo:hi], self.A_RK.data[lo:hi]
        return tuple((int(j), float(a)) for j, a in zip(cols, vals, strict=True))

    def weighted_R(self) -> Mask:
        """Rows that carry bits and data: the ones a decoder can count."""
        has_data: Mask = np.diff(self.A_RK.indptr) > 0
        has_bits: Mask = self.bits_RS.max(axis=1, initial=0) > 0
        return np.logical_and(has_data, has_bits)


@dataclass(frozen=True, slots=True, eq=False)
class StepTerms:
    """What is promised for one step, fixed BEFORE it is announced, from the past alone: that makes 1/(1-p) unbiased."""

    deadline: float  # seconds after OpenStep; inf = until complete
    p_R: F64  # P(row not counted | past, readiness, this deadline, this count)
    count: int | None = None  # first-r; p_R are then the marginals of that rule, never p(deadline)
    # of partial rows: seconds after OpenStep that all cuts aim at (p_R is the chance of nothing by then), and seconds from a
    # worker's receipt of its round to its cut, (N,)
    aim: float | None = None
    cut_N: F64 | None = None
    excess_R: F64 | None = None  # of partial rows: E[l^2/m - l | m >= 1] at these cuts (R,), math section 10


@record
class Use:
    """What becomes of one message m: ``added += weight*m`` now (None: keep it packed), ``h_row += beta*m`` at both
    ends.

    ``by_done``: beta is for a whole row; a message of m of l partitions moves h_row by ``beta m/l``.
    """

    weight: float | None
    beta: float = 0.0
    by_done: bool = False


@dataclass(frozen=True, slots=True)
class Closing:
    """``ghat = H at OpenStep + scale*added + sum over kept of weight*m + predicted*m0``; ``H = sum h_row`` (0 without
    shift).

    ``m0`` is the vector that a predictor fixed before the step (momentum, say); only codes that predict set
    ``predicted``.
    """

    scale: float = 1.0
    kept: tuple[tuple[int, float], ...] = ()
    predicted: float = 0.0


class Decoder(Protocol):
    """One step's decoding; O(log R) a call, nothing of size R per message."""

    def arrive(self, row: int) -> Use:
        """Called once per counted row, in the order of arrival stamps."""
        ...

    def late(self, row: int, age: int) -> Use:
        """A message of a step closed ``age`` steps ago: its weight is 0, it may still move the shift."""
        ...

    def complete(self) -> bool:
        """Nothing outstanding can change the estimate."""
        ...

    def close(self) -> Closing:
        """How the estimate is formed from what was added, kept and shifted."""
        ...


class Weighting(StrEnum):
    """How a code weights its messages: by which formula its error is known, if by any."""

    ONE = "one"  # all messages, each with weight 1
    INVERSE = "inverse"  # 1/(1-p), Horvitz and Thompson's
    SELF_NORMALISED = "self-normalised"  # divided by what arrived
    PREDICTOR = "predictor"  # inverse, and what is missing is predicted
    STALE = "stale"  # the newest of each row, however old: the error depends on the past
    OWN = "own"  # none of these: the error is simulated


class GradientCode(Protocol):
    """A gradient code: design of the encoding matrix, and its decoding."""

    @property
    def name(self) -> str:
        """Name in the registry and in configs."""
        ...

    @property
    def unbiased(self) -> bool:
        """Whether E ghat = g under the promised arrival probabilities."""
        ...

    @property
    def partial(self) -> bool | None:
        """Whether its rows are cut at the deadline, and what is done counts (math section 10); None: on request."""
        ...

    @property
    def shifted(self) -> bool:
        """Rows send Q(y - h): `memory` is weight 1, beta 1; `shifted` is weight 1/(1-p), beta_i."""
        ...

    @property
    def waits(self) -> bool:
        """Exact once it is decodable: meant to wait for that, not for a deadline."""
        ...

    @property
    def weighting(self) -> Weighting:
        """How it weights its messages."""
        ...

    @property
    def allow_negative(self) -> bool:
        """Whether coefficients may amplify differences between partitions."""
        ...

    @property
    def chooses_loads(self) -> bool:
        """Whether its plans give reliable workers more to compute, within a load cap."""
        ...

    def design(self, problem: Problem, plan_id: int) -> Plan:
        """Solve for the plan; ValueError with one line if the problem has no solution."""
        ...

    def open(self, plan: Plan, terms: StepTerms) -> Decoder:
        """The decoder of one step."""
        ...


@dataclass(frozen=True, slots=True)
class Key:
    """Counter for all randomness of one segment's encoding; what rows share (a rotation) ignores ``row``."""

    seed: int
    step: int
    row: int
    segment: int


@record
class Encoded:
    """What an encoding did: ``energy = |x|^2`` and ``error = |Q(x)-x|^2`` as made (their ratio recalibrates the law)."""

    energy: float
    error: float


class Accumulator(Protocol):
    """Weighted sum of payloads for one (step, segment), maybe in a rotated domain; a late step has its own."""

    def add(self, payload: U8, bits: int, row: int, weight: float) -> None:
        """``sum += weight * Q(x)`` without the GIL; cannot fail after ``check``."""
        ...

    def finish(self, out: F32, scale: float = 1.0) -> None:
        """``out += scale * sum``, then empty."""
        ...


class Quantizer(Protocol):
    """Vectors to packed bytes and back, unbiased where it says so (math section 7)."""

    @property
    def name(self) -> str:
        """Name in the registry and in configs."""
        ...

    @property
    def unbiased(self) -> bool:
        """E Q(x) = x exactly, over the key's randomness."""
        ...

    def nbytes(self, d: int, bits: int) -> int:
        """Exact payload length of ``d`` coordinates at ``bits`` packed bits."""
        ...

    def noise(self, bits: int, d: int) -> float:
        """omega expected on dense data: the planner's prior."""
        ...

    def bound(self, bits: int, d: int) -> float:
        """omega proven for every x (inf: none): the tests'."""
        ...

    def encode(self, x: F32, bits: int, key: Key, out: U8) -> Encoded:
        """Pack ``x`` (d,) into ``out`` (nbytes,); NonFiniteError(index) if x is not finite."""
        ...

    def check(self, payload: U8, d: int, bits: int) -> None:
        """ValueError if ``payload`` is not a well-formed message of (d, bits)."""
        ...

    def accumulator(self, d: int, key: Key) -> Accumulator:
        """A new, empty accumulator for one (step, segment)."""
        ...


class DelayModel(Protocol):
    """Injected delays: a FLOOR on seconds from a round's arrival to its message, not a sleep on top of the computing."""

    def seconds(self, worker: int, step: int, load: float, seed: int) -> float:
        """The floor; a pure function of its arguments (common random numbers); inf = never."""
        ...

    def survival(self, worker: int, load: F64, t: float) -> F64:
        """P(seconds > t) for each load."""
        ...


@record
class WorkTimes:
    """When a row's partitions were done, as its worker measured it: seconds since the receipt of the round."""

    done: tuple[float, ...]  # one entry a partition in the message, ascending
    row: float  # until the row was complete or cut


@record
class Seen:
    """One outcome of one row: the only food of the arrival statistics.

    A row that was not counted by the close of its step is seen censored then; if its message comes late after all, a
    second Seen of the same (row, step) with ``censored = False`` replaces the first.
    """

    row: int
    worker: int
    step: int
    load: float  # partitions computed for the row
    seconds: float  # stamp of the last byte - OpenStep; censored: more than this
    censored: bool
    ready: bool  # its credit was in at OpenStep (else the time holds old work)
    cold: bool  # first round of an incarnation
    work: WorkTimes | None = None  # of a partial row; ``seconds`` is then when one partition alone would have been in
    overhead: float | None = None  # of it: the round's way down, encoding, and the message's way up, seconds
