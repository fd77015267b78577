"""Links between master and workers: bytes in whole frames over torch.distributed. Knows no codes."""

from gcdist.transport.events import Down, Emit, Event, In, Link, Sent, Silent
from gcdist.transport.framing import FIRST_INTERNAL, HEAD_BYTES, INLINE_BYTES, Frame, digest
from gcdist.transport.join import Acceptor, is_over, join
from gcdist.transport.link import GlooLink, LinkSettings
from gcdist.transport.recycle import recycler
from gcdist.transport.store import JoinError, StoreSource, open_store

__all__ = [
    "FIRST_INTERNAL",
    "HEAD_BYTES",
    "INLINE_BYTES",
    "Acceptor",
    "Down",
    "Emit",
    "Event",
    "Frame",
    "GlooLink",
    "In",
    "JoinError",
    "Link",
    "LinkSettings",
    "Sent",
    "Silent",
    "StoreSource",
    "digest",
    "is_over",
    "join",
    "open_store",
    "recycler",
]
