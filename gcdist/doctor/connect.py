"""`gcdist doctor --connect`: measures the network to a serving doctor on the master's machine, and back."""

from __future__ import annotations

import secrets
import select
import socket
import time
from dataclasses import dataclass
from typing import Any

from gcdist.doctor.address import resolved
from gcdist.doctor.pair import PIECE, Paired, probe
from gcdist.doctor.wire import NONCE_BYTES, Wire, WireError, can_reach, door, shown_secret, why
from gcdist.transport import ChannelError, JoinError, StoreSource

SECONDS = 5.0
ECHOES = 20
REACH = 2.5
PAIR_SECONDS = 1.0  # seconds of transfer each way over gloo, at the measured rate of TCP
MOST_PIECES = 200


@dataclass(frozen=True, slots=True)
class Measured:
    """The connection to the other end: seconds, and bytes a second."""

    address: str  # of the other end
    versions: dict[str, str]
    name: str  # the other end's own
    name_here: tuple[str, ...]  # its addresses here
    my_name: tuple[str, ...]  # addresses of this machine's name at the other end
    my_address: str  # this end's, seen from the other end
    ports: tuple[int, int]  # the other end's range for links
    round_trip: float  # median
    skew: float  # their clock less ours
    up: float
    down: float
    blocked_there: str | None  # the reason why a port chosen by the kernel there is not reached from here
    blocked_here: str | None  # the same for a port here, from there
    pair: Paired | str | None  # over gloo, or the reason of its failure; None: not tried (blocked ports, one port)
    same_secret: bool = True


class SilentError(WireError):
    """Somebody listens and says nothing: no doctor, perhaps a master over TLS."""


def connect(host: str, port: int, secret: str | None, one_port: bool = False) -> Measured:
    """Measure; WireError if the other end cannot be reached. ``one_port``: not the ports of gloo's links, nor gloo."""
    try:
        connection = socket.create_connection((host, port), timeout=SECONDS)
    except OSError as error:
        raise WireError(why(error)) from None
    with Wire(connection, SECONDS) as wire:
        if not select.select([connection], [], [], SECONDS)[0]:
            raise SilentError(f"somebody listens and says nothing for {SECONDS:g} s: is it gcdist doctor --serve?")
        return _measure(wire, secret, one_port)


def _measure(wire: Wire, secret: str | None, one_port: bool) -> Measured:
    first = wire.hear()
    mine = secrets.token_bytes(NONCE_BYTES)
    try:
        nonces = bytes.fromhex(first["nonce"]) + mine
        hello = wire.ask(nonce=mine.hex(), name=socket.gethostname(), proof=shown_secret(secret, "client", nonces))
        shown = str(hello["proof"])
        same = secrets.compare_digest(shown.encode(), shown_secret(secret, "server", nonces).encode())
        round_trip, skew = _clock(wire)
        up = _rate(wire, "up")
        down = _rate(wire, "down")
        there, here = (None, None) if one_port else (_reached_there(wire), _reached_here(wire))
        pair = _pair(wire, min(up, down)) if not one_port and there is None and here is None else None
        if not isinstance(pair, str):
            wire.say(do="end")
        low, high = (int(number) for number in hello["ports"])
        return Measured(
            wire.peer,
            {str(name): str(number) for name, number in hello["versions"].items()},
            name := str(hello["name"])[:255],
            resolved(name),
            tuple(map(str, hello["your_name"])),
            wire.mine,
            (low, high),
            round_trip,
            skew,
            up,
            down,
            there,
            here,
            pair,
            same,
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        raise WireError("the other end answers as no doctor does: is it gcdist doctor --serve?") from None


def _clock(wire: Wire) -> tuple[float, float]:
    """Median round trip, and the skew in the shortest one."""
    seen = []
    for _ in range(ECHOES):
        begun, at = time.monotonic(), time.time()
        theirs = float(wire.ask(do="echo")["time"])
        spent = time.monotonic() - begun
        seen.append((spent, theirs - (at + spent / 2)))
    seen.sort()
    return seen[ECHOES // 2][0], seen[0][1]


def _rate(wire: Wire, way: str) -> float:
    wire.say(do=way)
    if way == "down":
        amount, seconds = wire.drain()
        return amount / seconds
    wire.pour()
    said: dict[str, Any] = wire.hear()
    return float(said["bytes"]) / max(1e-6, float(said["seconds"]))


def _reached_there(wire: Wire) -> str | None:
    port = int(wire.ask(do="listen")["port"])
    found = can_reach(wire.peer, port, REACH)
    wire.say(done=True)
    return found and f"port {port} there: {found}"


def _reached_here(wire: Wire) -> str | None:
    with door(wire.mine) as listener:
        port = listener.getsockname()[1]
        found = wire.ask(do="reach", port=port)["why"]
    return found and f"port {port} here: {str(found)[:200]}"


def _pair(wire: Wire, rate: float) -> Paired | str:
    port = int(wire.ask(do="gloo")["port"])
    pieces = max(1, min(MOST_PIECES, int(rate * PAIR_SECONDS / PIECE)))
    try:
        return probe(StoreSource(wire.peer, port, timeout=2 * SECONDS), pieces, SECONDS)
    except (ChannelError, JoinError) as error:
        return str(error)
