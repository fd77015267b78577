"""Links between master and workers: bytes in whole frames over torch.distributed. Knows no codes."""

from gcdist.transport.base import BaseLink, LinkSettings
from gcdist.transport.channel import (
    INTERFACE,
    ChannelError,
    interface_address,
    is_loopback,
    listening_address,
    route_to,
)
from gcdist.transport.events import Down, Emit, Event, In, Link, Sent, Silent
from gcdist.transport.framing import FIRST_INTERNAL, HEAD_BYTES, HELLO_BYTES, INLINE_BYTES, Frame, digest
from gcdist.transport.handshake import RefusedError
from gcdist.transport.join import Acceptor, is_over, join
from gcdist.transport.link import GlooLink
from gcdist.transport.plane import Door, GlooPlane, Plane, TlsPlane
from gcdist.transport.store import JoinError, StoreSource, master_place, open_store
from gcdist.transport.tls_credentials import Credentials, CredentialsError
from gcdist.transport.tls_door import TlsDoor
from gcdist.transport.tls_join import prove, tls_join
from gcdist.transport.tls_link import TlsLink

__all__ = [
    "FIRST_INTERNAL",
    "HEAD_BYTES",
    "HELLO_BYTES",
    "INLINE_BYTES",
    "INTERFACE",
    "Acceptor",
    "BaseLink",
    "ChannelError",
    "Credentials",
    "CredentialsError",
    "Door",
    "Down",
    "Emit",
    "Event",
    "Frame",
    "GlooLink",
    "GlooPlane",
    "In",
    "JoinError",
    "Link",
    "LinkSettings",
    "Plane",
    "RefusedError",
    "Sent",
    "Silent",
    "StoreSource",
    "TlsDoor",
    "TlsLink",
    "TlsPlane",
    "digest",
    "interface_address",
    "is_loopback",
    "is_over",
    "join",
    "listening_address",
    "master_place",
    "open_store",
    "prove",
    "route_to",
    "tls_join",
]
