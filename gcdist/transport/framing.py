"""The bytes of a frame: one header message, then pieces.

The header message has a fixed part of ``HEADER_BYTES``, then meta and data, if each fits whole into ``INLINE_BYTES``: a
small frame is one message. Arrays that do not fit follow in pieces, cut by `cuts`. Both ends know every length before a
byte of a body moves, so a receiver never posts less than is sent (gloo would abort) nor more than it allows.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import xxhash

from gcdist.types import U8

MAGIC = b"GCDF"
VERSION = 4
HEAD_BYTES = 96
META_BYTES = 64 << 20
HELLO_BYTES = 16 << 10  # most bytes of a first frame, which strangers can send
# a receiver's posted buffer is this much larger; only the bytes used are sent. A body that does not fit costs a second
# thread's time at the receiver, and a round trip
INLINE_BYTES = 64 << 10
PIECE_BYTES = 1 << 20

MIN_PIECE_BYTES = 1 << 10

# magic, version, kind, has meta | has data << 1, len(head), piece bytes, len(meta), len(data), two digests, head
_FIXED = struct.Struct("<4sHBBBxxxIQQQQ96s")
_CHECK = struct.Struct("<Q")  # xxh3_64 of the fixed part
HEADER_BYTES = _FIXED.size + _CHECK.size
MESSAGE_BYTES = HEADER_BYTES + INLINE_BYTES

FIRST_INTERNAL = 240  # kinds from here on are the transport's own
CHALLENGE, PROOF, REFUSED, WELCOME, HELLO, BYE, BEAT = range(249, 256)


class FrameError(ValueError):
    """An invalid header: the link must close."""


class Frame(NamedTuple):
    """One message: ``kind`` 0..239, ``head`` at most 96 opaque bytes, ``meta`` at most 64 MiB, ``data`` the bulk.

    Arrays are contiguous uint8 (m,) and must not change until the frame was sent. ``data_digest`` is `digest(data)` if
    the sender already knows it (one payload for many links); a received frame has it.
    """

    kind: int
    head: bytes = b""
    meta: U8 | None = None
    data: U8 | None = None
    data_digest: int | None = None


class Header(NamedTuple):
    """The content of a header message."""

    kind: int
    head: bytes
    meta_bytes: int | None  # None: the frame has no meta (0: it has an empty one)
    data_bytes: int | None
    piece_bytes: int  # of the sender: both ends cut by it
    meta_digest: int
    data_digest: int

    @property
    def inline(self) -> tuple[int, int]:
        """Bytes of meta and of data that travel in the header message."""
        return _inline(self.meta_bytes or 0, self.data_bytes or 0)

    @property
    def whole(self) -> bool:
        """Whether all of meta and data travels in it."""
        return self.inline == (self.meta_bytes or 0, self.data_bytes or 0)


def _inline(meta_bytes: int, data_bytes: int) -> tuple[int, int]:
    meta = meta_bytes if meta_bytes <= INLINE_BYTES else 0
    return meta, data_bytes if meta + data_bytes <= INLINE_BYTES else 0


def digest(array: U8 | None) -> int:
    """xxh3_64 of the bytes (0 for none).

    >>> digest(np.zeros(3, np.uint8)) == xxhash.xxh3_64_intdigest(bytes(3))
    True
    """
    return 0 if array is None or not len(array) else xxhash.xxh3_64_intdigest(array.data)


def check_frame(frame: Frame, max_bytes: int) -> None:
    """ValueError if ``frame`` cannot be sent."""
    if not 0 <= frame.kind < FIRST_INTERNAL:
        raise ValueError(f"frame kind is {frame.kind}; allowed are 0 to {FIRST_INTERNAL - 1}")
    if len(frame.head) > HEAD_BYTES:
        raise ValueError(f"frame head has {len(frame.head)} bytes; at most {HEAD_BYTES} are allowed")
    for name, array, most in (("meta", frame.meta, META_BYTES), ("data", frame.data, max_bytes)):
        if array is None:
            continue
        if array.dtype != np.uint8 or array.ndim != 1 or not array.flags.c_contiguous:
            raise ValueError(f"frame {name} is {array.dtype} {array.shape}; a contiguous uint8 vector is needed")
        if len(array) > most:
            raise ValueError(f"frame {name} has {len(array)} bytes; at most {most} are allowed")


def encode(frame: Frame, piece_bytes: int = PIECE_BYTES) -> tuple[U8, list[U8]]:
    """The header message of ``frame``, and the arrays that follow it in pieces."""
    meta, data = frame.meta, frame.data
    sizes = (0 if meta is None else len(meta), 0 if data is None else len(data))
    fixed = _FIXED.pack(
        MAGIC,
        VERSION,
        frame.kind,
        (meta is not None) | (data is not None) << 1,
        len(frame.head),
        piece_bytes,
        *sizes,
        digest(meta),
        digest(data) if frame.data_digest is None else frame.data_digest,
        frame.head,
    )
    inline = _inline(*sizes)
    message = np.empty(HEADER_BYTES + sum(inline), np.uint8)
    message[:HEADER_BYTES] = np.frombuffer(fixed + _CHECK.pack(xxhash.xxh3_64_intdigest(fixed)), np.uint8)
    rest, at = [], HEADER_BYTES
    for array, here in zip((meta, data), inline, strict=True):
        if array is not None and len(array) > here:
            rest.append(array)
        elif array is not None:
            message[at : at + here] = array
            at += here
    return message, rest


def decode(message: U8, max_bytes: int) -> Header:
    """Read the fixed part of a header message; FrameError gives the reason in one line if it is invalid.

    >>> decode(encode(Frame(7, b"abc", None, np.arange(5, dtype=np.uint8)))[0], 100)[:4]
    (7, b'abc', None, 5)
    """
    raw = message[:HEADER_BYTES].tobytes()
    magic, version, kind, has, head_len, piece, meta_len, data_len, *digests, head = _FIXED.unpack_from(raw)
    if magic != MAGIC:
        raise FrameError(f"not a gcdist header (it begins with {magic!r})")
    if version != VERSION:
        raise FrameError(f"frame version {version}; this end speaks {VERSION}")
    if _CHECK.unpack_from(raw, _FIXED.size)[0] != xxhash.xxh3_64_intdigest(raw[: _FIXED.size]):
        raise FrameError("header checksum is wrong")
    if (
        head_len > HEAD_BYTES
        or piece < MIN_PIECE_BYTES
        or has > 3
        or (meta_len and not has & 1)
        or (data_len and not has & 2)
    ):
        raise FrameError("header contradicts itself")
    if meta_len > META_BYTES:
        raise FrameError(f"header announces {meta_len} bytes of meta; at most {META_BYTES} are allowed")
    if data_len > max_bytes:
        raise FrameError(f"header announces {data_len} bytes of data; at most {max_bytes} are allowed")
    sizes = (meta_len if has & 1 else None, data_len if has & 2 else None)
    return Header(kind, head[:head_len], *sizes, piece, *digests)


def inline_frame(header: Header, message: U8) -> Frame:
    """The part of the frame in ``message`` after its header, copied; arrays that follow in pieces are None."""
    meta_bytes, data_bytes = header.inline
    middle = HEADER_BYTES + meta_bytes
    meta = message[HEADER_BYTES:middle].copy() if header.meta_bytes == meta_bytes else None
    data = message[middle : middle + data_bytes].copy() if header.data_bytes == data_bytes else None
    return Frame(header.kind, header.head, meta, data, header.data_digest)


def fault(header: Header, meta_digest: int, data_digest: int) -> str | None:
    """The difference between the received bytes and the digests of the header, in words; None: none."""
    for name, came, said in (
        ("meta", meta_digest, header.meta_digest),
        ("data", data_digest, header.data_digest),
    ):
        if came != said:
            return f"digest of {name} is {came:016x}; the header says {said:016x}"
    return None


def cuts(nbytes: int, piece_bytes: int) -> Iterator[slice]:
    """The pieces of an array of ``nbytes``: the rule at both ends.

    >>> [(c.start, c.stop) for c in cuts(5, 2)]
    [(0, 2), (2, 4), (4, 5)]
    """
    for lo in range(0, nbytes, piece_bytes):
        yield slice(lo, min(lo + piece_bytes, nbytes))
