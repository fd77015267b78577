"""Parameters as differences (math section 11): the replica xr that all ends hold, bit for bit, and the bodies of rounds.

In step t the master encodes ``x_t - xr_{t-1}`` once; every end adds ``c Q`` to its replica. The kernels round the product,
then the sum, so that all ends hold the same bits. Buffers travel in float32, integer ones in their own dtypes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from gcdist.exchange.shift import segments_of
from gcdist.memory import recycler
from gcdist.transport import digest
from gcdist.types import F32, U8, Layout, Quantizer

DIGEST_EVERY = 16  # versions; a body that crosses a multiple of it carries a digest of the replica
_HEAD = struct.Struct(
    "<qqqqqQ"
)  # coordinates, differences, float values, bytes of integers, whether a digest follows, it
_PART = struct.Struct("<qf4x")  # version, c
_APART = 1 << 63  # no run's seed has this bit: the draws are none of the gradients'
_ALIGN = 8  # bytes at whose multiples sections begin


class ReplicaError(ValueError):
    """A body does not fit the replica: this end needs all parameters anew."""


@dataclass(frozen=True, slots=True, eq=False)
class Difference:
    """One version's ``Q(x - xr)``, packed; ``xr += c Q``."""

    version: int
    c: float  # a float32 number
    payload: U8


@dataclass(frozen=True, slots=True, eq=False)
class DifferenceCoder:
    """How differences are encoded; both ends have the same one.

    Args:
        quantizer: packs them.
        bits: packed bits a coordinate.
        seed: of the rounding, the run's.
    """

    quantizer: Quantizer
    bits: int
    seed: int

    def nbytes(self, layout: Layout) -> int:
        """Length of one packed difference."""
        return segments_of(self.quantizer, layout).nbytes(self.bits)

    def encode(self, gap: F32, version: int, layout: Layout) -> Difference:
        """Pack ``gap = x - xr`` (d,), with ``c = 1/(1+omega)`` for the noise omega that this encoding has.

        For an unbiased quantizer ``E|gap - c Q|^2 = omega/(1+omega) |gap|^2`` then: less than all of it, whatever the
        quantizer and the vector. From 3 bits up c is 1 but for a few percent.

        Raises:
            NonFiniteError: a coordinate is not finite.
        """
        payload = recycler.take(self.nbytes(layout))
        done = segments_of(self.quantizer, layout).encode(gap, self.bits, self.seed ^ _APART, version, 0, payload)
        c = done.energy / (done.energy + done.error) if done.energy > 0 else 1.0
        return Difference(version, float(np.float32(c)), payload)

    def add(self, difference: Difference, xr: F32, layout: Layout) -> None:
        """``xr += c Q``; xr (d,).

        Raises:
            ReplicaError: the payload is none of d coordinates.
        """
        segments = segments_of(self.quantizer, layout)
        try:
            segments.check(difference.payload, self.bits)
        except ValueError as error:
            raise ReplicaError(f"difference of version {difference.version}: {error}") from None
        segments.add_decoded(xr, difference.payload, self.bits, self.seed ^ _APART, difference.version, 0, difference.c)


@dataclass(frozen=True, slots=True, eq=False)
class Body:
    """The body of a round: all parameters (``vector``) or differences, and the buffers."""

    d: int
    vector: F32 | None  # (d,)
    differences: tuple[Difference, ...]
    floats: F32
    ints: U8
    digest: int | None = None  # of the replica after this body

    def pack(self) -> U8:
        """As bytes, (n,) uint8."""
        parts = self.differences
        head = bytearray(_HEAD.pack(*self._counts(), self.digest is not None, self.digest or 0))
        for part in parts:
            head += _PART.pack(part.version, part.c)
        vectors = [part.payload for part in parts] if self.vector is None else [self.vector.view(np.uint8)]
        sections = [np.frombuffer(head, np.uint8), *vectors, self.floats.view(np.uint8), self.ints]
        raw = recycler.take(sum(map(_padded, map(len, sections))))
        at = 0
        for section in sections:
            end = at + len(section)
            raw[at:end] = section
            at = _padded(end)
            raw[end:at] = 0
        return raw

    def _counts(self) -> tuple[int, int, int, int]:
        return self.d, len(self.differences), len(self.floats), len(self.ints)

    @staticmethod
    def unpack(raw: U8, coder: DifferenceCoder, layout: Layout) -> Body:
        """The reverse of `pack`; arrays are views.

        Raises:
            ReplicaError: the length does not fit its own counts.
        """
        if len(raw) < _HEAD.size:
            raise ReplicaError(f"a round's parameters have {len(raw)} bytes, must have {_HEAD.size} or more")
        d, count, floats, ints, told, value = _HEAD.unpack(raw[: _HEAD.size].tobytes())
        if min(d, count, floats, ints) < 0 or max(d, count * _PART.size, floats, ints) > len(raw) * _ALIGN:
            raise ReplicaError("a round's parameters have counts that cannot be")
        if d != layout.d:
            raise ReplicaError(f"a round's parameters have {d} coordinates, this model's have {layout.d}")
        size = coder.nbytes(layout)
        sizes = [_HEAD.size + count * _PART.size, *([size] * count or [4 * d]), 4 * floats, ints]
        if sum(map(_padded, sizes)) != len(raw):
            raise ReplicaError(f"a round's parameters have {len(raw)} bytes, its counts ask for another number")
        cuts, at = [], 0
        for length in sizes:
            cuts.append(raw[at : at + length])
            at += _padded(length)
        heads = [_PART.unpack_from(cuts[0].tobytes(), _HEAD.size + i * _PART.size) for i in range(count)]
        parts = zip(heads, cuts[1:-2], strict=False)
        return Body(
            d,
            None if count else cuts[1].view(np.float32),
            tuple(Difference(version, c, payload) for (version, c), payload in parts if count),
            cuts[-2].view(np.float32),
            cuts[-1],
            value if told else None,
        )


def body_nbytes(coder: DifferenceCoder, layout: Layout, differences: int) -> int:
    """Length of a body without its buffers; 0 differences: all parameters."""
    vectors = differences * _padded(coder.nbytes(layout)) or _padded(4 * layout.d)
    return _HEAD.size + differences * _PART.size + vectors


def most_differences(coder: DifferenceCoder, layout: Layout) -> int:
    """The number of differences that together are smaller than all parameters: about 32/b - 1."""
    whole, most = body_nbytes(coder, layout, 0), 0
    while body_nbytes(coder, layout, most + 1) < whole:
        most += 1
    return most


class Replica:
    """One end's xr (d,) and its version; None: it has none, or not the right one.

    Memory: d float32.
    """

    def __init__(self, coder: DifferenceCoder, version: int | None = None, vector: F32 | None = None) -> None:
        self.coder = coder
        self.version = version
        self.vector = np.zeros(0, np.float32) if vector is None else vector

    def copy(self) -> Replica:
        """A copy of its own."""
        return Replica(self.coder, self.version, self.vector.copy())

    def digest(self) -> int:
        """Of the vector's bytes."""
        return digest(self.vector.view(np.uint8))

    def add(self, differences: Iterable[Difference], layout: Layout) -> None:
        """Move to the last of these versions."""
        for difference in differences:
            self.coder.add(difference, self.vector, layout)
            self.version = difference.version

    def take(self, raw: U8, params: int, base: int | None, layout: Layout) -> Body:
        """Go on to version ``params`` with a round's body, which begins at ``base`` (None: it has all parameters).

        Raises:
            ReplicaError: it does not fit, or its digest is another one; only all parameters help from here on.
        """
        try:
            body = Body.unpack(raw, self.coder, layout)
            self._take(body, params, base, layout)
        except ReplicaError:
            self.version = None
            raise
        return body

    def _take(self, body: Body, params: int, base: int | None, layout: Layout) -> None:
        if body.vector is not None:
            if len(self.vector) != body.d:
                self.vector = np.empty(body.d, np.float32)
            self.vector[:] = body.vector
            self.version = params
            return
        if base is None or base != self.version or body.d != len(self.vector):
            held = "none" if self.version is None else f"version {self.version}"
            raise ReplicaError(f"parameters of version {params} come as differences to {base}, this worker has {held}")
        self.add(body.differences, layout)
        if self.version != params:
            raise ReplicaError(f"the differences lead to version {self.version}, not {params}")
        if body.digest is not None and body.digest != self.digest():
            raise ReplicaError(f"the parameters of version {params} differ from the master's")


def pack_round(replica: Replica, differences: Sequence[Difference], floats: F32, ints: U8, with_digest: bool) -> U8:
    """The body that gives another end this replica: by these differences, or whole if there are none."""
    vector = None if differences else replica.vector
    told = replica.digest() if with_digest and differences else None
    return Body(len(replica.vector), vector, tuple(differences), floats, ints, told).pack()


def _padded(nbytes: int) -> int:
    return -(-nbytes // _ALIGN) * _ALIGN
