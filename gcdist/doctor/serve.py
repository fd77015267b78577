"""`gcdist doctor --serve`: answers one doctor at a time, on one address.

A client gets measurements and nothing else; with a secret, it must prove that it knows it. Received bytes are counted
and dropped. The doctor connects only to the asking machine, at the port it names.
"""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Callable
from typing import Any

from gcdist.doctor.address import port_range, resolved
from gcdist.doctor.pair import answer
from gcdist.doctor.software import versions
from gcdist.doctor.wire import NONCE_BYTES, Wire, WireError, can_reach, door, shown_secret
from gcdist.transport import ChannelError, JoinError, open_store

SECONDS = 5.0  # seconds that one operation may take
MOST_REQUESTS = 100


def serve(host: str, port: int, secret: str | None, say: Callable[[str], None], count: int | None = None) -> None:
    """Answer ``count`` doctors (None: until interrupted) at ``host:port``; OSError if it cannot listen there."""
    family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, proto) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(8)
        at = listener.getsockname()
        say(f"answering at {at[0]}:{at[1]}; on the other machines: gcdist doctor --connect {host}:{at[1]}")
        served = 0
        while count is None or served < count:
            connection, peer = listener.accept()
            try:
                with Wire(connection, SECONDS) as wire:
                    _answer(wire, secret)
                say(f"{peer[0]} was answered")
            except (WireError, OSError) as error:
                say(f"{peer[0]}: {error}")
                continue
            served += 1


def _answer(wire: Wire, secret: str | None) -> None:
    mine = secrets.token_bytes(NONCE_BYTES)
    wire.say(doctor=1, nonce=mine.hex(), secret=secret is not None)
    hello = wire.hear()
    nonces = mine + _bytes(hello.get("nonce"))
    if secret is not None and not secrets.compare_digest(
        str(hello.get("proof", "")).encode(), shown_secret(secret, "client", nonces).encode()
    ):
        wire.say(error="the shared secret (GCDIST_SECRET) is not the one that is set here")
        raise WireError("refused: it does not know the shared secret")
    name = socket.gethostname()
    wire.say(
        versions=versions(),
        name=name,
        your_name=resolved(str(hello.get("name", ""))[:255]),
        ports=port_range(),
        proof=shown_secret(secret, "server", nonces),
    )
    for _ in range(MOST_REQUESTS):
        asked = wire.hear()
        if asked.get("do") == "end":
            return
        _do(wire, asked)
    raise WireError("too many requests")


def _do(wire: Wire, asked: dict[str, Any]) -> None:
    match asked.get("do"):
        case "echo":
            wire.say(time=time.time())
        case "up":
            amount, seconds = wire.drain()
            wire.say(bytes=amount, seconds=seconds)
        case "down":
            wire.pour()
        case "listen":
            with door(wire.mine) as listener:
                wire.say(port=listener.getsockname()[1])
                wire.hear()  # after the other end's attempt
        case "reach":
            port = asked.get("port")
            if not isinstance(port, int) or not 1024 <= port < 1 << 16:
                raise WireError("asked to reach no port")
            wire.say(why=can_reach(wire.peer, port, SECONDS / 2))
        case "gloo":
            try:
                source = open_store(wire.mine, 0, serve=True, timeout=2 * SECONDS)
                wire.say(port=source.port)
                answer(source, SECONDS)
            except (ChannelError, JoinError, ValueError) as error:
                raise WireError(f"gloo: {error}") from None
        case other:
            raise WireError(f"asked for {other!r}"[:100])


def _bytes(text: object) -> bytes:
    try:
        found = bytes.fromhex(text) if isinstance(text, str) else b""
    except ValueError:
        found = b""
    if len(found) != NONCE_BYTES:
        raise WireError("its first message is not a doctor's")
    return found
