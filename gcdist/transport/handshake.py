"""The first frames of a pair: the worker's hello, and the proofs that both ends know the run's secret.

    worker -> master   HELLO      head: the worker's nonce; meta: its hello
    master -> worker   CHALLENGE  head: the master's nonce and its proof      (these two only with a secret)
    worker -> master   PROOF      head: the worker's proof, or nothing if it has none to give
    master -> worker   WELCOME, or REFUSED with the reason

A proof is an HMAC-SHA256 over the prover's role, run, ticket, both nonces and the hello: the secret itself never
travels, and a recorded proof is useless in another handshake. It does not cover later frames.
"""

from __future__ import annotations

import hmac
import secrets
from contextlib import suppress

import numpy as np

from gcdist.transport.channel import HEADER_TAG, Channel, ChannelError, as_tensor
from gcdist.transport.framing import (
    CHALLENGE,
    HELLO,
    HELLO_BYTES,
    MESSAGE_BYTES,
    PROOF,
    REFUSED,
    WELCOME,
    Frame,
    FrameError,
    decode,
    digest,
    encode,
    fault,
    inline_frame,
)

NONCE_BYTES = 32
SAME = "GCDIST_SECRET, or cluster.secret_file, must be the same at both ends"


class RefusedError(Exception):
    """The two ends do not belong together, and another try would not help; the text is one line."""


def proof(secret: str, who: str, run_id: str, ticket: int, nonces: bytes, hello: bytes) -> bytes:
    """The proof of ``who`` ("master" or "worker") that it knows the secret; 32 bytes.

    >>> len(proof("s", "worker", "run", 1, bytes(64), b""))
    32
    """
    return keyed_digest(secret, b"gcdist 3", who.encode(), run_id.encode(), b"%d" % ticket, nonces, hello)


def keyed_digest(secret: str, *parts: bytes) -> bytes:
    """HMAC-SHA256 of these parts under the secret; 32 bytes. The first part names the protocol."""
    # each part has its length, so that different lists of parts give different bytes
    text = b"".join(b"%d:%s" % (len(part), part) for part in parts)
    return hmac.digest(secret.encode(), text, "sha256")


def greet(channel: Channel, secret: str | None, run_id: str, ticket: int, hello: bytes, seconds: float) -> None:
    """The worker's side. RefusedError if either end refuses the other; ChannelError, FrameError if the pair fails."""
    mine = secrets.token_bytes(NONCE_BYTES)
    _send(channel, HELLO, mine, hello, seconds)
    kind, head, text = _receive(channel, seconds)
    if kind == CHALLENGE:
        nonces, theirs = mine + head[:NONCE_BYTES], head[NONCE_BYTES:]
        known = secret is not None and _equal(theirs, proof(secret, "master", run_id, ticket, nonces, hello))
        if secret is None or not known:  # a master that does not know the secret gets no proof
            with suppress(ChannelError, FrameError):
                _send(channel, PROOF, b"", b"", seconds)
                _receive(channel, seconds)
            what = "asks for one, and none is set" if secret is None else "has another one than is set"
            raise RefusedError(f"shared secret: the master {what} here: {SAME}")
        _send(channel, PROOF, proof(secret, "worker", run_id, ticket, nonces, hello), b"", seconds)
        kind, _, text = _receive(channel, seconds)
    elif kind == WELCOME and secret is not None:
        raise RefusedError(f"shared secret: one is set here, and the master has none: {SAME}")
    if kind != WELCOME:
        raise RefusedError(f"refused by the master: {text.decode(errors='replace')}")


def receive_hello(channel: Channel, secret: str | None, run_id: str, ticket: int, seconds: float) -> bytes:
    """The master's side: the worker's hello. RefusedError, sent to it, too, if it does not know the secret."""
    kind, theirs, hello = _receive(channel, seconds)
    if kind != HELLO or len(theirs) != NONCE_BYTES:
        raise FrameError(f"first frame is of kind {kind}, not a hello")
    if secret is not None:
        mine = secrets.token_bytes(NONCE_BYTES)
        nonces = theirs + mine
        _send(channel, CHALLENGE, mine + proof(secret, "master", run_id, ticket, nonces, hello), b"", seconds)
        kind, given, _ = _receive(channel, seconds)
        if kind != PROOF or not _equal(given, proof(secret, "worker", run_id, ticket, nonces, hello)):
            with suppress(ChannelError):
                _send(channel, REFUSED, b"", SAME.encode(), seconds)
                # wait until it has read this and closed, because a dropped pair loses bytes on their way
                channel.receive(as_tensor(np.zeros(MESSAGE_BYTES, np.uint8)), HEADER_TAG).wait(seconds)
            raise RefusedError(f"it does not know the shared secret ({SAME})")
    _send(channel, WELCOME, b"", b"", seconds)
    return hello


def _equal(given: bytes, right: bytes) -> bool:
    return hmac.compare_digest(given, right)  # in constant time


def _send(channel: Channel, kind: int, head: bytes, text: bytes, seconds: float) -> None:
    message, _ = encode(Frame(kind, head, np.frombuffer(text, np.uint8)))
    channel.send(as_tensor(message), HEADER_TAG).wait(seconds)


def _receive(channel: Channel, seconds: float) -> tuple[int, bytes, bytes]:
    """Kind, head and meta of one small frame, before the link runs."""
    message = np.zeros(MESSAGE_BYTES, np.uint8)
    channel.receive(as_tensor(message), HEADER_TAG).wait(seconds)
    header = decode(message, 0)
    if not header.whole or (header.meta_bytes or 0) > HELLO_BYTES:
        raise FrameError(f"first frame has {header.meta_bytes} bytes; at most {HELLO_BYTES} are allowed")
    frame = inline_frame(header, message)
    wrong = fault(header, digest(frame.meta), digest(frame.data))
    if wrong is not None:
        raise FrameError(wrong)
    return header.kind, header.head, b"" if frame.meta is None else frame.meta.tobytes()
