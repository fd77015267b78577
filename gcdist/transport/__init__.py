"""Links between master and workers: bytes in whole frames over torch.distributed. Knows no codes."""

from gcdist.transport.base import LinkSettings
from gcdist.transport.channel import (
    INTERFACE,
    ChannelError,
    interface_address,
    is_loopback,
    listening_address,
    route_to,
)
from gcdist.transport.events import Down, Emit, Event, In, Link, Sent, Silent
from gcdist.transport.framing import FIRST_INTERNAL, HEAD_BYTES, INLINE_BYTES, Frame, digest
from gcdist.transport.handshake import RefusedError
from gcdist.transport.join import Acceptor, is_over, join
from gcdist.transport.link import GlooLink
from gcdist.transport.store import JoinError, StoreSource, open_store

__all__ = [
    "FIRST_INTERNAL",
    "HEAD_BYTES",
    "INLINE_BYTES",
    "INTERFACE",
    "Acceptor",
    "ChannelError",
    "Down",
    "Emit",
    "Event",
    "Frame",
    "GlooLink",
    "In",
    "JoinError",
    "Link",
    "LinkSettings",
    "RefusedError",
    "Sent",
    "Silent",
    "StoreSource",
    "digest",
    "interface_address",
    "is_loopback",
    "is_over",
    "join",
    "listening_address",
    "open_store",
    "route_to",
]
